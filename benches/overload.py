"""More arrivals than a shop can take, as benches/run measures them: the knee, then multiples of it, then the knee again.

The knee is lowered on purpose: a front has few places for purchases under way, and the order log waits for company, so
that ten times the knee stays below what the generator sends on time. Every second a watcher reads what was accepted and
persisted, how long accepted purchases took, and how much memory front and worker have.
"""
import json
import pathlib
import re
import subprocess
import threading
import time

import stage
from stage import RAW, SKU, check, talk

PLACES, LINGER_MS = 4, 10  # of purchases under way, and what each of them takes at least
PHASES = (1, 2, 5, 10, 1)  # multiples of the knee
PROBE_PER_S, PROBE_S = 3_000, 10  # a load that is above the knee
STOCK = 100_000_000
BACK_S = 5  # within which all is as before


class Watcher:
    """Rows of (second, phase, offered, accepted, persisted, p99 of accepted purchases in ms, MiB of each process)."""

    def __init__(self, side, pids):
        self.side, self.pids, self.rows, self.phase = side, pids, [], (0, 0)
        self.stop, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def run(self):
        began, before = time.monotonic(), self.look()
        for second in range(1, 10**6):
            if self.stop.wait(max(0, began + second - time.monotonic())):
                return
            now = self.look()
            (times, offered), took = self.phase, now["took"]
            self.rows.append({
                "second": second, "times": times, "offered": offered,
                **{name: now[name] - before[name] for name in ("accepted", "persisted")},
                "p99_ms": quantile(before["took"], took), "mib": {name: mib(pid) for name, pid in self.pids.items()}})
            before = now

    def look(self):
        answers = stage.samples(self.side.admin, "seckill_admission_total")
        accepted = sum(n for labels, n in answers.items() if re.search(r'outcome="(queued|reserved)"', labels))
        rows = stage.samples(self.side.worker_admin, "seckill_orders_total")
        took = {float("inf" if at == "+Inf" else at): n for labels, n in stage.samples(
            self.side.admin, "http_server_request_duration_seconds_bucket").items()
            if 'status="202"' in labels and "orders" in labels for at in re.findall(r'le="([^"]+)"', labels)}
        return {"accepted": accepted, "persisted": rows.get('status="awaiting_payment"', 0), "took": took}


def quantile(before, after, share=0.99):
    """The upper end of the bucket, in ms, in which the share of what came between two looks is."""
    come = {at: n - before.get(at, 0) for at, n in after.items()}
    whole = come.get(float("inf"), 0)
    ends = sorted(at for at, n in come.items() if whole and n >= share * whole)
    return ends[0] * 1000 if ends else None


def mib(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def overloaded(side, phase_s):
    """The knee in persisted orders a second, what the generator says of each phase, and the watcher's rows."""
    topic = f"bench.{side.name}{time.time_ns() // 1_000_000}"
    environment = side.fresh("overload_", kafka__topic=topic, admission__in_flight_max=PLACES,
                             kafka__linger_ms=LINGER_MS)
    key, seckill = stage.make_key(side, environment), side.programs["seckill"]
    front = [seckill, "serve", "--role", "api", "--bind", side.shop, "--admin-bind", side.admin]
    worker = [seckill, "serve", "--role", "worker", "--admin-bind", side.worker_admin]
    with open(RAW / "overload.log", "w", encoding="utf-8") as log, \
            stage.running(front, environment, stderr=log) as front, \
            stage.running(worker, environment, stderr=log) as worker:
        stage.wait_ready(front, side.admin)
        stage.wait_ready(worker, side.worker_admin)

        def load(rate, seconds):
            # Buyers of a later load are other ones only in another sale.
            sale = stage.open_sale(side, environment, STOCK, key)
            summary = RAW / "summary.json"
            summary.unlink(missing_ok=True)
            command = [side.programs["loadtest"], "run", "--config", environment["SECKILL_CONFIG"], "--url",
                       f"http://{side.shop}", "--sale", sale, "--sku", SKU, "--shape", "constant", "--rate",
                       str(round(rate)), "--duration", str(seconds), "--no-audit", "--settle-timeout", "1", "--summary",
                       summary, "-o", "json"]
            subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stage.end_sale(side, environment, sale, key)
            return json.loads(summary.read_text())["load"]

        with Watcher(side, {"api": front.pid, "worker": worker.pid}) as watcher:
            load(PROBE_PER_S, PROBE_S)
            knee = sorted(row["persisted"] for row in watcher.rows)[-PROBE_S // 2]
            check(knee > 0, "nothing was persisted")
            talk(f"  the knee is at {knee:.0f} persisted orders a second")
            watcher.rows.clear()
            phases = []
            for times in PHASES:
                watcher.phase = (times, round(times * knee))
                phases.append(load(times * knee, phase_s))
                watcher.phase = (0, 0)
                slip = phases[-1]["latency"]["slip"]["p99_ms"]
                talk(f"  {times} times: {phases[-1]['accepted']} accepted of {phases[-1]['clicks']}, slip p99 {slip} ms")
        return knee, phases, watcher.rows


def figures(phases, rows):
    """Goodput of each phase to that of the first, growth of memory, and seconds until all is as before."""
    each = [[]]
    for row, following in zip(rows, [*rows[1:], {"times": 0}]):
        if row["times"]:
            each[-1].append(row)
            if following["times"] != row["times"]:
                each.append([])
    each = [phase for phase in each if phase]
    check(len(each) == len(PHASES), f"{len(each)} phases were seen")

    def middle(phase, name):
        return sorted(row[name] or 0 for row in phase[1:-1])[(len(phase) - 2) // 2]

    goodput = [middle(phase, "persisted") / middle(each[0], "persisted") for phase in each]
    most = {name: max(row["mib"][name] for row in rows) / each[0][-1]["mib"][name] for name in rows[0]["mib"]}
    usual = middle(each[0], "p99_ms")
    slow = [second for second, row in enumerate(each[-1]) if (row["p99_ms"] or 0) > 1.5 * usual]
    back_s = next((second for second in range(len(each[-1])) if second not in slow), len(each[-1]))
    slips = [phase["latency"]["slip"]["p99_ms"] for phase in phases]
    return goodput, most, back_s, slips
