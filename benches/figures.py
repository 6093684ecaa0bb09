"""How benches/run makes a figure: slices of two sides in turns, their ratios, the median and its interval."""
import itertools
import random
import statistics

from stage import talk


def interval(values, times=10_000):
    """Median and its bootstrap interval of 95 %."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(times))
    return statistics.median(values), medians[int(times * 0.025)], medians[int(times * 0.975)]


def turns(a, b, before=lambda number: None):
    """Runs both sides in the order A B B A, without end; yields the pairs (slice of A, slice of B)."""
    for number in itertools.count():
        before(number)
        if number % 2:
            second, first = b(), a()
        else:
            first, second = a(), b()
        talk(f"  pair {number + 1}: A {first['cost_us']:.2f}  B {second['cost_us']:.2f} µs CPU each")
        yield first, second


def take(pairs, count):
    """The next pairs, so many."""
    return list(itertools.islice(pairs, count))


def costs(pairs):
    """Ratios of CPU per unit of work, A to B."""
    return [a["cost_us"] / b["cost_us"] for a, b in pairs]


def slice_of(units, spent, **more):
    """One slice: how much was done, and what the processes that count spent on it."""
    return {"units": units, "cost_us": sum(spent.values()) / units * 1e6, "cpu_s": spent, **more}


def show(value):
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"
