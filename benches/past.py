"""What sales of the past cost a shop at rest, as benches/run measures it.

One sale is sold, paid, ended and settled as a shop does it. The others are copies of its rows: nobody waits for a
million purchases, and what is at rest does not know the difference.
"""
import concurrent.futures
import contextlib
import subprocess
import time

import orders
import stage
from stage import check, talk

SALES, ORDERS = 1000, 1000
COPIES_AT_ONCE = 50
# Of a sale that is settled nothing stands in them, or nothing that anybody looks for.
NOT_COPIED = ("audit_log", "grants", "release_outbox", "dead_letters")
SETTLES_IN_S = 15  # of processes that have just started


def fill(side, row, sales):
    """A side's environment with so many settled sales."""
    with orders.shop(side, row) as place:
        if not sales:
            return place.environment
        sale = place.open_sale(ORDERS, amount=0)
        sold = place.sell(sale, ORDERS, ["--shape", "spike", "--buyers", str(ORDERS)])
        with concurrent.futures.ThreadPoolExecutor(orders.BUYERS_AT_ONCE) as buyers:
            list(buyers.map(lambda order: place.change(place.fronts[0], *order, "pay"), sold))
        stage.wait_until("every order is paid", lambda: place.stock(sale)["sold"] == ORDERS)
        place.end_sale(sale)
        operator = stage.operating(side, place.environment, place.key)
        side.run("sale", "settle", sale, "--reason", "bench", environment=operator)
    copy(side.stack, f"bench_{side.name}{row}", sale, sales - 1)
    return place.environment


def copy(stack, prefix, sale, copies):
    """Copies all rows of a sale under other ids, so many times."""
    for part in ("mysql-a", "mysql-b"):
        found = stack.mysql(part, "SELECT CONCAT(table_schema, '.', table_name, '=', GROUP_CONCAT(column_name)) "
                            f"FROM information_schema.columns WHERE table_schema LIKE '{prefix}%' AND extra NOT LIKE "
                            "'%auto_increment%' GROUP BY table_schema, table_name")
        for table, columns in (line.split("=") for line in found):
            columns, (database, name) = columns.split(","), table.split(".")
            if name in NOT_COPIED or ("sale_id" not in columns and name != "order_moves"):
                continue
            # A journal has no sales: all of its rows are those of the one sale, until copies stand beside them.
            source, where = table, f"t.sale_id = '{sale}'"
            if name == "order_moves":
                source, where = f"{table}_of_one", "TRUE"
                stack.mysql(part, f"CREATE TABLE {source} AS SELECT * FROM {table}")
            of = {"sale_id": "CONCAT('past-', n)", "order_id":
                  "UNHEX(CONCAT(LEFT(HEX(t.order_id), 8), RIGHT(SHA2(CONCAT(HEX(t.order_id), n), 256), 24)))"}
            for first in range(1, copies + 1, COPIES_AT_ONCE):
                last = min(first + COPIES_AT_ONCE - 1, copies)
                values = ",".join(of.get(column, f"t.{column}") for column in columns)
                stack.mysql(part, f"USE {database}; INSERT INTO {table} ({','.join(columns)}) WITH RECURSIVE numbers "
                            f"(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
                            f"SELECT {values} FROM {source} t JOIN numbers WHERE {where}")
            if name == "order_moves":
                stack.mysql(part, f"DROP TABLE {source}")
    talk(f"  {copies} copies of a sale of {ORDERS} orders")


@contextlib.contextmanager
def serving(side, environment):
    """The process ids of a front and a worker."""
    seckill = side.programs["seckill"]
    front = [seckill, "serve", "--role", "api", "--bind", side.shop, "--admin-bind", side.admin]
    worker = [seckill, "serve", "--role", "worker", "--admin-bind", side.worker_admin]
    with stage.running(front, environment, stderr=subprocess.DEVNULL) as front, \
            stage.running(worker, environment, stderr=subprocess.DEVNULL) as worker:
        stage.wait_ready(front, side.admin)
        stage.wait_ready(worker, side.worker_admin)
        yield {"front": front.pid, "worker": worker.pid}


def resting(sides, environments, windows, seconds):
    """CPU seconds of both sides in the same windows."""
    with serving(sides[0], environments[0]) as a, serving(sides[1], environments[1]) as b:
        time.sleep(SETTLES_IN_S)
        for _ in range(windows):
            before = [stage.cpu_now(pids) for pids in (a, b)]
            time.sleep(seconds)
            spent = [sum(stage.cpu_between(then, stage.cpu_now(pids)).values())
                     for then, pids in zip(before, (a, b))]
            talk(f"  {spent[0] * 1000 / seconds:.1f} and {spent[1] * 1000 / seconds:.1f} ms CPU a second")
            yield spent


def starting(sides, environments, times):
    """Seconds from the start of a front to readiness of both sides, in turns."""
    for number in range(times):
        seconds = [0.0, 0.0]
        for which in ((0, 1), (1, 0))[number % 2]:
            side = sides[which]
            command = [side.programs["seckill"], "serve", "--role", "api", "--bind", side.shop, "--admin-bind",
                       side.admin]
            began = time.monotonic()
            with stage.running(command, environments[which], stderr=subprocess.DEVNULL) as front:
                stage.wait_ready(front, side.admin, 0.002)
                seconds[which] = time.monotonic() - began
        check(all(seconds), "both have started")
        yield seconds
