"""Both MySQL instances stand still while thousands wait for their orders, as benches/run measures it: how long it takes
until all orders are written, with those who wait and without."""
import contextlib
import os
import re
import resource
import signal
import socket
import time

import stage
from stage import BODY, RAW, check, talk

BUYERS = 10_000
HANGS_S = 5
WAIT_S = 10


@contextlib.contextmanager
def shop(side):
    """A front and a worker over empty databases, and an operator's key."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    check(most > BUYERS + 1000, f"{BUYERS:,} clients need as many open files: ulimit -Hn says {most}")
    environment = side.fresh("hung_", kafka__topic=f"bench.{side.name}{time.time_ns() // 1_000_000}")
    key, seckill = stage.make_key(side, environment), side.programs["seckill"]
    front = [seckill, "serve", "--role", "api", "--bind", side.shop, "--admin-bind", side.admin]
    worker = [seckill, "serve", "--role", "worker", "--admin-bind", side.worker_admin]
    with open(RAW / "hung.log", "w", encoding="utf-8") as log, \
            stage.running(front, environment, stderr=log) as front, \
            stage.running(worker, environment, stderr=log) as worker:
        stage.wait_ready(front, side.admin)
        stage.wait_ready(worker, side.worker_admin)
        yield environment, key


def written(side):
    return stage.samples(side.worker_admin, "seckill_orders_total").get('status="awaiting_payment"', 0)


def accepted(side):
    outcomes = stage.samples(side.admin, "seckill_admission_total").items()
    return sum(n for labels, n in outcomes if re.search(r'outcome="(queued|reserved)"', labels))


def recovery(side, place, turn, waits):
    """Seconds from the moment at which MySQL goes on until all orders are written that were accepted while it hung."""
    environment, key = place
    sale = stage.open_sale(side, environment, BUYERS, key)
    prefer = f"Prefer: wait={WAIT_S}\r\n" if waits else ""
    host, port = side.shop.rsplit(":", 1)
    requests = [(
        f"POST /api/v1/sales/{sale}/orders HTTP/1.1\r\nHost: t\r\nIdempotency-Key: k\r\n{prefer}"
        f"Authorization: Bearer {stage.token(side.stack.secret, f'b{turn}-{number}')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}").encode()
        for number in range(BUYERS)]
    before = (accepted(side), written(side))
    servers = [side.stack.pids[name] for name in ("mysql-a", "mysql-b")]
    with contextlib.ExitStack() as open_ones:
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
            open_ones.callback(os.kill, pid, signal.SIGCONT)
        began, clients = time.monotonic(), []
        for number, request in enumerate(requests):
            time.sleep(max(0, began + number * HANGS_S / BUYERS - time.monotonic()))
            clients.append(open_ones.enter_context(socket.create_connection((host, int(port)))))
            clients[-1].sendall(request)
        for pid in servers:
            os.kill(pid, signal.SIGCONT)
        resumed = time.monotonic()
        taken = accepted(side) - before[0]
        while written(side) - before[1] < accepted(side) - before[0]:
            check(time.monotonic() < resumed + 60, "not all orders were written")
            time.sleep(0.02)
        took = time.monotonic() - resumed
        answers = {}
        for client in clients:
            client.settimeout(WAIT_S + 5)
            status = client.recv(4096)[9:12].decode()
            answers[status] = answers.get(status, 0) + 1
    stage.end_sale(side, environment, sale, key)
    who = "with" if waits else "without"
    talk(f"  {who} waiters: {taken:.0f} accepted meanwhile, {answers}, all written {took:.2f} s after")
    check(taken > 0.9 * BUYERS, "too few were accepted while MySQL hung")
    return took
