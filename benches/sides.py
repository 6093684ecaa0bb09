"""What benches/run measures, one side at a time: each context sets a side up and gives the function that runs a slice.

Nothing here knows what a side is compared with. benches/run sets a baseline beside it, against.py the same of another
commit.
"""
import contextlib
import json
import resource
import shutil
import subprocess
import time

import stage
from figures import slice_of, turns
from stage import BARE, RAW, SKU, check, talk

GENERATOR_CORE, SERVER_CORE = 0, 1
USERS = 2000  # distinct buyers of the refused rows
CONNECTIONS = 64
CLICKS = RAW / "clicks.txt"
WARMINGS = 6  # slices of `writer` before those that count
PAIRS_KEPT = 3  # of `writer` and `embedded_commits`: then tables are emptied, or they would outgrow memory
RUSH = 3  # buyers of a unit: more than two cores answer as fast as they come, or the schedule would be measured
RUSH_OPENS_IN_S = 4  # until its tokens are made and its connections are open
STANDS_STILL_MS = 300_000  # at most, of `persisted` and its like
WAKES_IN_S = 3  # what a process does that stood still for a minute is no order's cost
REPEATS = 3  # of `instructions`
MODES = ("refused", "accepted")
INSTRUCTION_REQUESTS = (200, 1200)


def folder(name):
    """Settings of a fresh data folder."""
    path = RAW / f"folder-{name}"
    shutil.rmtree(path, ignore_errors=True)
    return {"backend__mode": "embedded", "embedded__folder": path}


# ---- refusals -------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def refusing(side, options, outcome, pace, rules=(), **settings):
    """A front that answers every click with `outcome`. `rules` are put in place before: (name, body)."""
    stage.need("wrk", "wrk")
    # Every sale that is on costs a front something in the background: those of earlier runs are not this row's.
    environment = side.fresh("refused_", http__workers=1, **settings)
    key = stage.make_key(side, environment)
    rules_key = stage.make_key(side, environment, "limits:write") if rules else None
    role = "all" if "backend__mode" in settings else "api"
    front = [side.programs["seckill"], "serve", "--role", role, "--bind", side.shop, "--admin-bind", side.admin]
    with stage.running(front, environment, SERVER_CORE, stderr=subprocess.DEVNULL) as front:
        stage.wait_ready(front, side.admin)
        stock = 500 if outcome == "sold_out" else 10_000_000
        sale = stage.open_sale(side, environment, stock, key)
        for name, body in rules:
            stage.put_rule(side, environment, rules_key, name, body)
        if outcome == "sold_out":
            sell_out(side, sale, stock)
        names = [f"buyer-{number:010}" for number in range(USERS)]
        secret = side.stack.secret
        CLICKS.write_text("".join(f"{stage.token(secret, name)} key-{name}\n" for name in names))
        counted = {"front": front.pid}
        if role == "api":
            counted["redis"] = side.stack.pids["redis"]
        others = {name: pid for name, pid in side.stack.pids.items() if name not in counted}
        profile_key = stage.make_key(side, environment, "debug") if "debug__profiles" in settings else None

        def refuse(is_profiled=False):
            before = outcomes(side, sale)
            profile = profiling(side, profile_key, options.seconds + 1) if is_profiled else contextlib.nullcontext()
            with profile:
                found, spent, beside = wrk(options, side.shop, sale, pace, counted, others)
            after = outcomes(side, sale)
            answered = {name: after[name] - before.get(name, 0) for name in after}
            share = answered.get(outcome, 0) / sum(answered.values())
            check(share > 0.999, f"answers are not {outcome}: {answered}")
            return slice_of(found["requests"], spent, beside=beside, answered=answered, **found)

        yield refuse


@contextlib.contextmanager
def profiling(side, key, seconds):
    """A profile that is taken meanwhile. It is written afterwards, and waited for."""
    command = ["curl", "-fsS", "-o", str(RAW / "refused.pb"), "-H", f"Authorization: Bearer {key}",
               f"http://{side.admin}/debug/pprof/profile?seconds={seconds}"]
    with subprocess.Popen(command) as child:
        time.sleep(0.3)  # until it has begun
        yield
        check(child.poll() is None, "the profile ended before what it was to show")
    check(child.returncode == 0, "the profile was refused")


@contextlib.contextmanager
def bare(side, options, pace):
    """The bare actix endpoint, which gets the clicks that the front before it got."""
    environment = side.environment(http__workers=1, http__bind=BARE)
    with stage.part(side, environment, "bare", core=SERVER_CORE) as child:
        stage.Part(child)

        def answer():
            found, spent, _ = wrk(options, BARE, stage.sale_name(), pace, {"bare": child.pid}, {})
            return slice_of(found["requests"], spent, **found)

        yield answer


def sell_out(side, sale, stock):
    for number in range(stock):
        name = f"winner-{number}"
        answer = stage.buy(side.shop, sale, stage.token(side.stack.secret, name), f"key-{name}")
        check(answer[0] == 202, f"a unit was not sold: {answer}")
    answer = stage.buy(side.shop, sale, stage.token(side.stack.secret, "late"), "key-late")
    check(answer == (409, "sold_out"), f"not sold out: {answer}")


def outcomes(side, sale):
    """What the front answered so far, by outcome."""
    found = stage.samples(side.admin, "seckill_admission_total")
    ours = {labels: value for labels, value in found.items() if f'sale="{sale}"' in labels}
    return {labels.split('outcome="')[1].split('"')[0]: value for labels, value in ours.items()}


def wrk(options, address, sale, pace, counted, others):
    """One slice of wrk; what it says, and the CPU of two groups of processes."""
    command = ["taskset", "-c", str(GENERATOR_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{options.seconds}s",
               "-s", "benches/buy.lua", f"http://{address}", "--", str(CLICKS), f"/api/v1/sales/{sale}/orders",
               stage.BODY, str(pace)]
    before = stage.cpu_now({**counted, **others})
    done = subprocess.run(command, cwd=stage.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    spent = stage.cpu_between(before, stage.cpu_now({**counted, **others}))
    found = json.loads(done.stdout.splitlines()[-1])
    check(found["refusals"] > 0.999 * found["requests"] and found["failures"] == 0, f"not all refused: {found}")
    return found, {name: spent[name] for name in counted}, {name: spent[name] for name in others}


# ---- limits that all processes share --------------------------------------------------------------------------

@contextlib.contextmanager
def limiting(side, options):
    """Four limiters that share a limit, and are asked half as often again as it allows."""
    stack, pids = side.stack, {"redis": side.stack.pids["redis"]}
    environment = side.fresh("limits_")
    with stage.pinned(pids["redis"], SERVER_CORE), \
            stage.part(side, environment, "limits", core=GENERATOR_CORE) as child:
        limiters = stage.Part(child)

        def limit(seconds=options.seconds):
            limiters.ask(f"prepare bench-{time.time_ns() // 1_000_000}")
            stack.redis_at_rest()
            before = stage.cpu_now(pids)
            found = limiters.ask(f"go {seconds}")
            return slice_of(found["passed"], stage.cpu_between(before, stage.cpu_now(pids)), **found)

        yield limit


# ---- reservations ---------------------------------------------------------------------------------------------

@contextlib.contextmanager
def reserving(side, options, askers):
    """Batcher and inventory with so many purchases waiting; Redis is alone on its core until the end."""
    stack, pids = side.stack, {"redis": side.stack.pids["redis"]}
    environment = side.fresh("reserve_", redis__response_timeout_ms=10_000)
    with stage.pinned(pids["redis"], SERVER_CORE), \
            stage.part(side, environment, "reserve", "--askers", str(askers), core=GENERATOR_CORE) as child:
        desk = stage.Part(child)

        def reserve():
            sale = f"reserve-{time.time_ns() // 1_000_000}"
            prepared = desk.ask(f"prepare {sale}")
            stack.redis_at_rest()
            before = stage.cpu_now(pids)
            found = desk.ask(f"go {options.seconds}")
            spent = stage.cpu_between(before, stage.cpu_now(pids))
            stack.forget(f"{environment['SECKILL__REDIS__KEY_PREFIX']}{{{sale}.*")
            mean_batch = found["reserved"] / found["calls"]
            return slice_of(found["reserved"], spent, mean_batch=mean_batch, **prepared, **found)

        yield reserve


# ---- order rows -----------------------------------------------------------------------------------------------

@contextlib.contextmanager
def writing(side, environment, part):
    """The order store, or what it is measured against; a slice is so many batches of each partition."""
    servers = {name: side.stack.pids[name] for name in ("mysql-a", "mysql-b")}
    with stage.part(side, environment, part) as child:
        store, pids = stage.Part(child), {part: child.pid, **servers}

        def write(batches):
            store.ask(f"prepare {batches}")
            before = stage.cpu_now(pids)
            found = store.ask("go")
            spent = stage.cpu_between(before, stage.cpu_now(pids))
            return slice_of(found["rows"], spent, rows_per_s=found["rows"] / found["seconds"], **found)

        yield write


def written_in_turns(a, b, seconds, owners):
    """Warms two writers and yields their pairs, of as many batches each; the tables of `owners` stay small."""
    for _ in range(WARMINGS):  # every connection prepares every statement once
        b(4), a(4)
    batches = max(1, round(4 / a(4)["seconds"] * seconds))
    talk(f"  {batches} batches of each partition in a slice")

    def before(number):
        if number % PAIRS_KEPT == 0:
            for owner in owners:
                owner.empty("writer_")

    yield from turns(lambda: a(batches), lambda: b(batches), before)


def a_spike(options):
    """The units of a slice and its arrivals: all within three seconds."""
    return options.orders, ["--shape", "spike", "--buyers", str(options.orders), "--connections", "512"]


def steadily(rate):
    """As `a_spike`, of arrivals that are spread evenly, so many a second."""
    return lambda options: (rate * options.seconds, ["--shape", "constant", "--rate", str(rate), "--duration",
                                                     str(options.seconds), "--connections", str(CONNECTIONS)])


@contextlib.contextmanager
def persisting(side, options, arrivals=a_spike):
    """A front and an order writer; a slice is a crowd whose orders are all persisted, and audited. Between its slices
    a side stands still, so each is measured as a shop that has its servers for itself."""
    # Empty databases, whose positions fit only a new topic. Kafka keeps the place of a writer that stands still.
    topic = f"bench.{side.name}{time.time_ns() // 1_000_000}"
    environment = side.fresh("persisted_", kafka__topic=topic, kafka__session_timeout_ms=STANDS_STILL_MS)
    key = stage.make_key(side, environment)
    seckill = side.programs["seckill"]
    front = [seckill, "serve", "--role", "api", "--bind", side.shop, "--admin-bind", side.admin]
    worker = [seckill, "serve", "--role", "worker", "--admin-bind", side.worker_admin]
    with open(RAW / f"{side.name}api.log", "w", encoding="utf-8") as api_log, \
            open(RAW / f"{side.name}worker.log", "w", encoding="utf-8") as worker_log, \
            stage.running(front, environment, stderr=api_log) as front, \
            stage.running(worker, environment, stderr=worker_log) as worker:
        stage.wait_ready(front, side.admin)
        stage.wait_ready(worker, side.worker_admin)
        pids = {"api": front.pid, "worker": worker.pid, **side.stack.pids}

        def persist():
            with stage.awake([front, worker]):
                stage.wait_ready(front, side.admin)
                stage.wait_ready(worker, side.worker_admin)
                time.sleep(WAKES_IN_S)
                return crowd(side, arrivals(options), environment, key, pids)

        yield persist


def crowd(side, arrivals, environment, key, pids):
    """A crowd of whom all are accepted, until the last order has its row; then the audit."""
    stock, shape = arrivals
    sale = stage.open_sale(side, environment, stock, key)
    journal, summary = RAW / "journal.jsonl", RAW / "summary.json"
    loadtest, common = side.programs["loadtest"], ["--config", environment["SECKILL_CONFIG"], "--url",
                                                   f"http://{side.shop}", "--sale", sale, "-o", "json"]
    load = [loadtest, "run", *common, "--sku", SKU, *shape, "--no-audit", "--journal", journal,
            "--summary", summary]

    def rows():
        found = stage.samples(side.worker_admin, "seckill_orders_total")
        check(found.get('status="rejected"', 0) == 0, "orders were rejected")
        return found['status="awaiting_payment"']

    def batches():
        return stage.samples(side.worker_admin, "seckill_writer_batch_rows_count")[""]

    summary.unlink(missing_ok=True)
    side.stack.redis_at_rest()
    at_first, batches_before = rows(), batches()
    before, began = stage.cpu_now(pids), time.monotonic()
    subprocess.run(load, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loaded = time.monotonic() - began
    found = json.loads(summary.read_text())["load"]
    accepted = found["accepted"]
    check(accepted > 0.9 * stock, f"only {accepted} of {stock} accepted, choose fewer --orders: {found['codes']}")
    stage.wait_until("every accepted order has its row", lambda: rows() - at_first >= accepted)
    persisted, spent = rows() - at_first, stage.cpu_between(before, stage.cpu_now(pids))
    drained = time.monotonic() - began - loaded
    audited = subprocess.run([loadtest, "audit", *common, "--journal", journal], env=environment,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    violations = json.loads(audited.stdout)["audit"]["violations"]
    check(violations == 0, f"{violations} violations")
    stage.end_sale(side, environment, sale, key)
    for what in ("orders", "buyers"):  # what grows with every spike, and nobody asks for again
        side.stack.forget(f"{environment['SECKILL__REDIS__KEY_PREFIX']}{{{sale}.*:{what}")
    batch_rows = persisted / (batches() - batches_before)
    answered = found["latency"]["accepted"]
    run = slice_of(persisted, spent, drained_s=drained, batch_rows=batch_rows, load=found,
                   p50_ms=answered["p50_ms"], p99_ms=answered["p99_ms"])
    talk(f"  {accepted} of {stock} accepted, {persisted:.0f} persisted, {1e6 / run['cost_us']:,.0f} per CPU-second, "
         f"{batch_rows:.1f} a batch, p50 {run['p50_ms']:.2f} ms, p99 {run['p99_ms']:.2f} ms, "
         f"drained in {drained:.2f} s, audit passed; µs each: "
         + ", ".join(f"{name} {seconds / persisted * 1e6:.1f}" for name, seconds in spent.items()))
    return run


@contextlib.contextmanager
def rushing(side, options):
    """The demo of `make rush` and its crowd; a slice is one in a fresh folder, from its start to its verdict."""
    # A copy: any other build in this checkout would replace it.
    seckill = RAW / f"{side.name}seckill"
    shutil.copy2(stage.build(side.root, stage.AS_MAKE_RUSH)["seckill"], seckill)
    units = options.orders

    def rush():
        path = folder(f"{side.name}rush")["embedded__folder"]
        command = [seckill, "demo", "--data", path, "--rush", "--buyers", str(units * RUSH), "--units", str(units),
                   "--opens-in", str(RUSH_OPENS_IN_S), "--bind", side.shop, "--admin-bind", side.admin]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=stage.ROOT, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        check(done.returncode == 0, f"a rush failed, perhaps for fewer --orders: {(done.stdout + done.stderr)[-2000:]}")
        found = json.loads((path / "drop-1-summary.json").read_text())
        stored, load = found["stored"], found["load"]
        persisted = stored["persisted"]
        check(persisted == units, f"only {persisted} of {units} persisted, choose fewer --orders: {load['codes']}")
        talk(f"  {stored['persisted_per_s']:,.0f} persisted a second, {load['accepted_per_s']:,.0f} accepted, "
             f"{load['offered_per_s']:,.0f} offered")
        spent = {"demo": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
        return slice_of(persisted, spent, persisted_per_s=stored["persisted_per_s"], stored=stored, load=load)

    yield rush


# ---- instructions ---------------------------------------------------------------------------------------------

def counting(side):
    """The function that counts callgrind's instructions of one purchase of a mode."""
    stage.need("valgrind", "valgrind")
    # Nothing may run out or lapse because valgrind is slow.
    patient = {"redis__response_timeout_ms": 10_000, "admission__append_wait_ms": 10_000,
               "admission__sold_out_recheck_ms": 60_000, "kafka__message_timeout_ms": 60_000,
               "mysql__acquire_timeout_ms": 60_000}
    environment = side.fresh("instructions_", **patient)

    def count(mode, *more):
        """The difference of two runs over the difference of their requests: what happens once cancels."""
        few, many = (collected(side, environment, mode, requests, *more) for requests in INSTRUCTION_REQUESTS)
        return (many - few) / (INSTRUCTION_REQUESTS[1] - INSTRUCTION_REQUESTS[0])

    return count


def collected(side, environment, mode, requests, *more):
    out = RAW / f"callgrind-{side.name}{mode}-{requests}.out"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no",
               "--toggle-collect=*::measured_requests", side.programs["parts"], mode, str(requests), *more]
    done = subprocess.run(command, env=environment, cwd=stage.ROOT, capture_output=True, text=True, check=False)
    check(done.returncode == 0 and f'"{mode}":{requests}' in done.stdout, done.stderr[-2000:])
    totals = [line for line in out.read_text(errors="replace").splitlines() if line.startswith(("totals:", "summary:"))]
    return int(totals[-1].split()[1])
