"""What `benches/run --against COMMIT` does: this checkout's programs and those of another commit, in turns."""
import contextlib
import itertools
import shutil
import statistics
import subprocess
import typing

import sides
import stage
from figures import interval, take, turns
from stage import talk

FOLDER = stage.ROOT / "target" / "against"
NEW, OLD = "new_", "old_"  # what is a side's own begins so
OLD_PORTS_UP = 2
PAIRS_LEAST = 8  # fewer say nothing of their interval
PAIRS_MOST = 60
WIDTH_MAX = 0.04  # of an interval that is narrow enough
PAIRS_A_START = 2  # of a front, before both are started anew


# ---- the other commit -----------------------------------------------------------------------------------------

def other(bench):
    """The other commit, built like this checkout; what was built before is used again."""
    root = checkout(bench.options.against)
    return stage.Side(bench.stack, stage.build(root), root, OLD, OLD_PORTS_UP)


def commit_of(name):
    """The whole id of a commit, whatever it was called."""
    return git("rev-parse", "--verify", f"{name}^{{commit}}")


def checkout(commit):
    """A folder of its own with the files of a commit. It is a clone, so that this repository does not list it."""
    root = FOLDER / commit[:12] / "src"
    if not root.exists():
        begun = root.with_name("src.begun")
        shutil.rmtree(begun, ignore_errors=True)
        git("clone", "--quiet", "--shared", "--no-checkout", str(stage.ROOT), str(begun))
        git("-C", str(begun), "checkout", "--quiet", "--detach", commit)
        begun.rename(root)
    return root


def git(*words):
    done = subprocess.run(["git", *words], cwd=stage.ROOT, capture_output=True, text=True, check=False)
    stage.check(done.returncode == 0, f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


# ---- bounds ---------------------------------------------------------------------------------------------------

def bound(text):
    """A row and its bound, of ROW=X."""
    row, _, number = text.partition("=")
    if not float(number) > 0:
        raise ValueError(text)
    return row, float(number)


def is_met(low, high, least):
    """Whether an interval lies above a bound; a bound that forbids a loss is also met when no loss is shown."""
    return low >= least or least <= 1 <= high


def narrow(pairs, ratio, least, most):
    """Takes pairs, two by two for A B B A, until the interval of their ratios is narrow or `most` are taken; answers both."""
    taken = []
    while True:
        taken += take(pairs, 2)
        if len(taken) < least:
            continue
        figure = interval([ratio(*pair) for pair in taken])
        talk("  {:.3f}, {:.3f} – {:.3f}".format(*figure))
        if figure[2] - figure[1] <= WIDTH_MAX or len(taken) >= most:
            return taken, figure


# ---- rows -----------------------------------------------------------------------------------------------------

def per_cpu(new, old):
    """Work per CPU-second, new to old."""
    return old["cost_us"] / new["cost_us"]


def rate(name):
    """The ratio of a rate that slices have, new to old."""
    return lambda new, old: new[name] / old[name]


def quicker(name):
    """The ratio of a latency that slices have, old to new: more than 1 is better."""
    return lambda new, old: old[name] / new[name]


ANSWERED = {"p50 of an accepted purchase, old : new": quicker("p50_ms"),
            "p99 of an accepted purchase, old : new": quicker("p99_ms")}


def resident(set_up):
    """The context of two sides that are set up alike; their first slices warm them."""
    @contextlib.contextmanager
    def opened(new, old, options):
        with set_up(new, options) as a, set_up(old, options) as b:
            a(), b()
            yield turns(a, b)

    return opened


def restarted(set_up):
    """As `resident`, with both sides started anew every few pairs, in turns: two fronts of one program differ by up to
    0.04 for as long as they run."""
    def pairs(new, old, options):
        for number in itertools.count():
            with contextlib.ExitStack() as stack:
                first, second = (new, old) if number % 2 else (old, new)
                up = {side.name: stack.enter_context(set_up(side, options)) for side in (first, second)}
                a, b = up[new.name], up[old.name]
                a(), b()
                yield from itertools.islice(turns(a, b), PAIRS_A_START)

    return lambda new, old, options: contextlib.closing(pairs(new, old, options))


@contextlib.contextmanager
def writers(new, old, options):
    """The context of two order stores, each with tables of its own."""
    with sides.writing(new, new.fresh("writer_"), "writer") as a, \
            sides.writing(old, old.fresh("writer_"), "writer") as b:
        yield sides.written_in_turns(a, b, options.seconds, [new, old])


class Timed(typing.NamedTuple):
    """A row of slices: what is bounded, its least ratio, the context that gives pairs, and the ratio of a pair."""

    what: str
    bound: float
    pairs: typing.Callable
    ratio: typing.Callable = per_cpu
    beside: dict = {}
    sign = "≥"

    def compare(self, bench, old, name, least):
        with self.pairs(bench.side, old, bench.options) as pairs:
            taken, figure = narrow(pairs, self.ratio, bench.options.slices, bench.options.most)
        _, low, high = figure
        wide = f"; the interval is wider than {WIDTH_MAX} after {len(taken)} pairs" if high - low > WIDTH_MAX else ""
        target = f"{self.sign} {least:g}: {'met' if is_met(low, high, least) else 'not met'}{wide}"
        figures = [(f"`{name}`: {self.what}, new : old", figure, target)]
        others = self.beside if self.ratio is per_cpu else {"the same per CPU-second, new : old": per_cpu}
        for other, ratio in others.items():
            figures.append((f"`{name}`: {other}", interval([ratio(*pair) for pair in taken]), "–"))
        bench.report(name, figures, against=bench.options.against, bound=least, pairs=taken)


class Counted(typing.NamedTuple):
    """Instructions: what is counted, and the greatest ratio."""

    what: str
    bound: float
    sign = "≤"

    def compare(self, bench, old, name, most):
        a, b = sides.counting(bench.side), sides.counting(old)
        for mode in sides.MODES:
            pairs = [(a(mode), b(mode)) for _ in range(sides.REPEATS)]
            talk(f"  {mode}: {pairs}")
            ratios = [new / old for new, old in pairs]
            figure = (statistics.median(ratios), min(ratios), max(ratios))
            met = is_met(1 / figure[2], 1 / figure[1], 1 / most)
            target = f"{self.sign} {most:g}: {'met' if met else 'not met'}"
            bench.report(name, [(f"`{name}`: {self.what}, {mode}, new : old", figure, target)],
                         against=bench.options.against, bound=most, mode=mode, pairs=pairs)


ROWS = {
    "refused": Timed("sold-out answers per CPU-second of front and Redis", 0.98, restarted(
        lambda side, options: sides.refusing(side, options, "sold_out", options.pace))),
    "reserve": Timed("reservations per Redis-CPU-second, 512 waiting", 0.98, resident(
        lambda side, options: sides.reserving(side, options, 512))),
    "writer": Timed("order rows per second", 0.97, writers, rate("rows_per_s")),
    "persisted": Timed("orders per all-process CPU-second", 0.97, resident(sides.persisting)),
    "quiet": Timed("orders per all-process CPU-second at 750 arrivals a second", 0.97,
                   resident(lambda side, options: sides.persisting(side, options, sides.steadily(750))), beside=ANSWERED),
    "busy": Timed("orders per all-process CPU-second at 3,000 arrivals a second", 0.97,
                  resident(lambda side, options: sides.persisting(side, options, sides.steadily(3000))), beside=ANSWERED),
    "rush": Timed("persisted orders per second of `make rush` with more units", 0.97, resident(sides.rushing),
                  rate("persisted_per_s")),
    "instructions": Counted("callgrind's instructions of a purchase", 1.01),
}


def compare(bench, old, name):
    row = ROWS[name]
    talk(f"{name}: {row.what}, this checkout to {bench.options.against[:12]}")
    row.compare(bench, old, name, dict(bench.options.bound).get(name, row.bound))
