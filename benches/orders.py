"""What becomes of orders after their rows, as benches/run measures it: payments, expiries, units that come back, and looks
at the books of them all.

A slice of `paying` and `expiring` is a crowd of whom all are accepted, and what then becomes of all their orders. The
samples of `returning` and `hoping` are seconds on each of two fronts, seen by buyers who click all the time. A slice of
`looking` is a time in which nothing happens but what a shop at rest does.
"""
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import random
import secrets
import subprocess
import threading
import time

import stage
from figures import slice_of, take, turns
from sides import GENERATOR_CORE
from stage import RAW, SKU, check, talk

SECOND, SECOND_ADMIN, PROVIDER = "127.0.0.1:18484", "127.0.0.1:18494", "127.0.0.1:18485"
BUYERS_AT_ONCE = 32
UNITS_MOST = 5000  # of a slice: Python's buyers are slow, and a crowd must be through before its first order expires
ROUNDS = 100  # of units that come back; each has a sample of each front
WINDOW_S, GRACE_S = 10, 1  # of the orders that expire: the least, and a short one
CLICK_S = 0.005  # between two clicks on a front
LIVE, PAID = 100_000, 20_000  # orders at which the books are looked at; those that are paid are live, too
BROWSED_ORDERS, BROWSED_SALES, ZIPF = 10_000, 200, 1.1  # as a large shop's readers were described
BROWSED_BEFORE_S = 30  # until most orders were looked at once
LOOKS_S, LOOKS_PAIRS = 330, 2  # eleven minutes with looks, and as many without
KEPT_MS = 6 * 3_600_000  # longer than all slices together: no order expires in them
FLAG_S = 0.25  # how long a front trusts that a SKU is sold out, by default
PAY = {"Content-Type": "application/x-www-form-urlencoded"}


class Shop:
    """Two fronts, a worker and the simulated provider. The provider's CPU is not the shop's."""

    def __init__(self, side, environment, key, pids):
        self.side, self.environment, self.key, self.pids = side, environment, key, pids
        self.fronts = [side.shop, SECOND]
        self.crowd, self.numbers = secrets.token_hex(3), itertools.count()
        self.mine = threading.local()

    def ask(self, method, address, path, headers, body=""):
        """The status and JSON of one answer, on a connection that the thread keeps."""
        kept = self.mine.__dict__.setdefault("kept", {})
        if address not in kept:
            kept[address] = http.client.HTTPConnection(address, timeout=10)
        kept[address].request(method, path, body.encode(), headers)
        answer = kept[address].getresponse()
        text = answer.read()
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, json.loads(text) if is_json else {}

    def bearer(self, user):
        return {"Authorization": f"Bearer {stage.token(self.side.stack.secret, user)}"}

    def buy(self, front, sale, quantity=1):
        """One click of a new buyer: the status, the answer, and the buyer's header."""
        user = f"{self.crowd}-{next(self.numbers)}"
        headers = {**self.bearer(user), "Idempotency-Key": f"key-{user}", "Content-Type": "application/json"}
        body = json.dumps({"sku_id": SKU, "quantity": quantity})
        return (*self.ask("POST", front, f"/api/v1/sales/{sale}/orders", headers, body), self.bearer(user))

    def click_until(self, front, sale, holds):
        """New buyers click until an answer holds; answers it, and when that was."""
        for _ in range(int(30 / CLICK_S)):
            status, answer, bearer = self.buy(front, sale)
            if holds(status, answer):
                return time.monotonic(), (answer, bearer)
            time.sleep(CLICK_S)
        raise RuntimeError(f"never on {front}: the last answer is {status} {answer}")

    def change(self, front, order, bearer, what):
        status, answer = self.ask("POST", front, f"/api/v1/orders/{order}/{what}", {**bearer, "Idempotency-Key": what})
        check(status in (200, 201), f"{what} of {order}: {status} {answer}")
        return answer

    def wait_decided(self, order, bearer):
        stage.wait_until("the order has its row", lambda: self.ask(
            "GET", self.fronts[0], f"/api/v1/orders/{order}", bearer)[1].get("status") == "awaiting_payment")

    def open_sale(self, stock, **terms):
        return stage.open_sale(self.side, self.environment, stock, self.key, **terms)

    def end_sale(self, sale):
        stage.end_sale(self.side, self.environment, sale, self.key)

    def stock(self, sale):
        environment = stage.operating(self.side, self.environment, self.key)
        items = json.loads(self.side.run("sale", "stock", sale, "-o", "json", environment=environment))["items"]
        return items[0]

    def sell(self, sale, units, shape):
        """A crowd buys all units; answers (order, buyer's header) of each."""
        journal = RAW / "journal.jsonl"
        load = [self.side.programs["loadtest"], "run", "--config", self.environment["SECKILL_CONFIG"], "--url",
                f"http://{self.side.shop}", "--sale", sale, "--sku", SKU, *shape, "--no-audit", "--journal", journal,
                "--summary", ""]
        subprocess.run(load, env=self.environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stage.wait_until("every order has its row", lambda: self.stock(sale)["held"] == units)
        entries = map(json.loads, journal.read_text().splitlines())
        return [(entry["order_id"], self.bearer(entry["user"])) for entry in entries if entry["order_id"]]

    def audit(self, sale):
        command = [self.side.programs["loadtest"], "audit", "--config", self.environment["SECKILL_CONFIG"], "--url",
                   f"http://{self.side.shop}", "--sale", sale, "--journal", RAW / "journal.jsonl", "-o", "json"]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=False)
        check(done.returncode == 0, f"the audit found: {done.stdout[-2000:]}")


@contextlib.contextmanager
def shop(side, row):
    """The context of a `Shop` with empty databases and empty books."""
    topic, books = f"bench.{side.name}{time.time_ns() // 1_000_000}", RAW / "books.jsonl"
    books.unlink(missing_ok=True)
    environment = side.fresh(row, kafka__topic=topic, payment__provider="simulator",
                             payment__simulator_is_play_money="true", payment__provider_url=f"http://{PROVIDER}",
                             payment__api_key=f"sk_test_{secrets.token_hex(16)}",
                             payment__webhook_secret=f"whsec_{secrets.token_hex(16)}",
                             payment__grace_ms=GRACE_S * 1000, payment__return_url="http://127.0.0.1/orders/{order}")
    key, seckill = stage.make_key(side, environment), side.programs["seckill"]
    provider = [seckill, "provider", "--bind", PROVIDER, "--books", books, "--webhook",
                f"http://{side.shop}/api/v1/webhooks/payments"]
    served = {"api": ["api", side.admin, "--bind", side.shop], "api 2": ["api", SECOND_ADMIN, "--bind", SECOND],
              "worker": ["worker", side.worker_admin]}
    with contextlib.ExitStack() as up:
        log = up.enter_context(open(RAW / f"{row}.log", "w", encoding="utf-8"))
        up.enter_context(stage.running(provider, environment, stdout=log, stderr=log))
        pids = dict(side.stack.pids)
        for name, (role, admin, *bind) in served.items():
            command = [seckill, "serve", "--role", role, "--admin-bind", admin, *bind]
            child = up.enter_context(stage.running(command, environment, stderr=log))
            stage.wait_ready(child, admin)
            pids[name] = child.pid
        yield Shop(side, environment, key, pids)


# ---- payments and expiries ------------------------------------------------------------------------------------

def paying(place, units):
    """A slice: every order is opened for payment, paid at the provider, heard of by its event, and paid."""
    sale = place.open_sale(units)
    orders = place.sell(sale, units, ["--shape", "spike", "--buyers", str(units)])

    before, began = stage.cpu_now(place.pids), time.monotonic()
    pay(place, orders)
    stage.wait_until("every order is paid", lambda: place.stock(sale)["sold"] == units)
    return finished(place, sale, units, before, began)


def pay(place, orders):
    """Opens a payment of each order, and pays it at the provider."""
    def one(order):
        page = place.change(place.fronts[0], *order, "pay")["payment"]["redirect_url"]
        address, _, path = page.removeprefix("http://").partition("/")
        status, _ = place.ask("POST", address, f"/{path}", PAY, "action=pay")
        check(status in (200, 303), f"the page answers {status}")

    with concurrent.futures.ThreadPoolExecutor(BUYERS_AT_ONCE) as buyers:
        list(buyers.map(one, orders))


def expiring(place, units):
    """A slice: every order expires, and all units are for sale again."""
    sale, began = place.open_sale(units, payment_window_ms=WINDOW_S * 1000), time.monotonic()
    place.sell(sale, units, ["--shape", "spike", "--buyers", str(units)])
    left = began + WINDOW_S - time.monotonic()
    check(left > 0, "the first orders may have expired before the last one was made: choose fewer --orders")
    time.sleep(left)
    check(place.stock(sale)["held"] == units, "an order has expired early")
    before, began = stage.cpu_now(place.pids), time.monotonic()
    stage.wait_until("all units are for sale again", lambda: place.stock(sale)["available"] == units)
    return finished(place, sale, units, before, began)


def finished(place, sale, units, before, began):
    spent, seconds = stage.cpu_between(before, stage.cpu_now(place.pids)), time.monotonic() - began
    place.audit(sale)
    place.end_sale(sale)
    run = slice_of(units, spent, seconds=seconds)
    talk(f"  {units} in {seconds:.1f} s, {1e6 / run['cost_us']:,.0f} per CPU-second, audit passed; µs each: "
         + ", ".join(f"{name} {of / units * 1e6:.1f}" for name, of in spent.items()))
    return run


# ---- reads ----------------------------------------------------------------------------------------------------

def browsing(place, slices, seconds):
    """Slices of people who look at their orders and at sales, as many as 70 % of what a front can answer."""
    stage.need("wrk", "wrk")
    sale = place.open_sale(BROWSED_ORDERS, payment_window_ms=KEPT_MS)
    shape = ["--shape", "constant", "--rate", "1000", "--duration", f"{BROWSED_ORDERS // 1000}", "--connections", "256"]
    orders = place.sell(sale, BROWSED_ORDERS, shape)
    random.shuffle(orders)
    sales = [sale, *(place.open_sale(10) for _ in range(BROWSED_SALES - 1))]
    token = "Authorization"
    lists = RAW / "orders.txt", RAW / "sales.txt"
    lists[0].write_text("".join(f"{bearer[token].split()[1]} /api/v1/orders/{order}\n" for order, bearer in orders))
    lists[1].write_text("".join(f"/api/v1/sales/{each}\n" for each in sales))

    def browse(rate):
        command = ["taskset", "-c", str(GENERATOR_CORE), "wrk", "-t1", "-c64", f"-d{seconds}s", "-s",
                   "benches/browse.lua", f"http://{place.side.shop}", "--", *map(str, lists), str(ZIPF), str(rate)]
        done = subprocess.run(command, cwd=stage.ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        check(found["refusals"] + found["failures"] == 0, f"not all answered: {found}")
        return found["requests"] / found["microseconds"] * 1e6

    for _ in range(BROWSED_BEFORE_S // seconds):
        knee = browse(0)
    pace = 0.7 * knee
    talk(f"  {knee:,.0f} answers a second at most, and {pace:,.0f} from here on")
    for _ in range(slices):
        before, spent = reads(place), stage.cpu_now(place.pids)
        answers = browse(pace) * seconds
        spent = stage.cpu_between(spent, stage.cpu_now(place.pids))
        yield {"answers": answers, "cpu_s": spent,
               **{level: number - before.get(level, 0) for level, number in reads(place).items()}}
    for each in sales:
        place.end_sale(each)


def reads(place):
    """How many reads of orders each level of the front has answered."""
    found = stage.samples(place.side.admin, "seckill_order_reads_total")
    return {labels.split('from="')[1].split('"')[0]: value for labels, value in found.items()}


# ---- looks at the books ---------------------------------------------------------------------------------------

def looking(place):
    """Pairs of slices, with looks and without: somebody else has the turn of looking then, and does nothing with it."""
    half = LIVE // 2
    crowd = ["--shape", "constant", "--rate", "1000", "--duration", f"{half // 1000}", "--connections", "256"]
    sales = [place.open_sale(half, payment_window_ms=KEPT_MS) for _ in range(2)]
    orders = [place.sell(sale, half, crowd) for sale in sales]
    talk(f"  {LIVE:,} orders stand; {PAID:,} of them are paid")
    pay(place, orders[0][:PAID])
    stage.wait_until("they are paid", lambda: place.stock(sales[0])["sold"] == PAID)
    control = place.side.stack.mysql("mysql-a", "SELECT table_schema FROM information_schema.tables WHERE table_name = "
                                     f"'event_leases' AND table_schema LIKE 'bench\\_{place.side.name}looks\\_%'")[0]

    def slice_(until_ms):
        turn = f"SET holder = REPEAT('b', 16), until_ms = {until_ms} WHERE reader = 'reconciler'"
        place.side.stack.mysql("mysql-a", f"UPDATE {control}.event_leases {turn}")
        time.sleep(15)  # the next look begins, or the last one ends
        before = stage.cpu_now(place.pids)
        time.sleep(LOOKS_S)
        return slice_of(LOOKS_S, stage.cpu_between(before, stage.cpu_now(place.pids)))

    pairs = take(turns(lambda: slice_(0), lambda: slice_(10**15)), LOOKS_PAIRS)
    for sale in sales:
        place.end_sale(sale)
    return pairs


# ---- units that come back -------------------------------------------------------------------------------------

def is_sold(status, _):
    return status == 202


def is_sold_out(status, answer):
    return status == 409 and answer["code"] in ("sold_out", "fewer_left")


def may_return(told):
    return lambda status, answer: is_sold_out(status, answer) and answer.get("may_return") == told


def returning(place, rounds):
    """Seconds from sending two cancellations until each front has sold one of the two units again. The cancellations come
    at any time since the fronts have last asked Redis."""
    sale, seconds, chance = place.open_sale(2), [], random.Random(1)
    with concurrent.futures.ThreadPoolExecutor(4) as both:
        held = [place.click_until(front, sale, is_sold)[1] for front in place.fronts]
        for _ in range(rounds):
            for answer, bearer in held:
                place.wait_decided(answer["id"], bearer)
            list(both.map(lambda front: place.click_until(front, sale, is_sold_out), place.fronts))
            clicks = [both.submit(place.click_until, front, sale, is_sold) for front in place.fronts]
            time.sleep(chance.uniform(0, FLAG_S))
            began = time.monotonic()
            cancels = [both.submit(place.change, front, answer["id"], bearer, "cancel")
                       for front, (answer, bearer) in zip(place.fronts, held)]
            [cancel.result() for cancel in cancels]
            found = [click.result() for click in clicks]
            held = [order for _, order in found]
            seconds += [at - began for at, _ in found]
    place.end_sale(sale)
    return seconds


def hoping(place, rounds):
    """Seconds until refusals on each front say that a unit may return, from its purchase, and that none will, from its
    payment. The unit costs nothing, so that no provider is waited for; an operator refunds it and puts it back."""
    sale = place.open_sale(1, amount=0)
    bought, paid = [], []

    def told(may, began):
        looks = both.map(lambda front: place.click_until(front, sale, may_return(may))[0], place.fronts)
        return [at - began for at in looks]

    with concurrent.futures.ThreadPoolExecutor(2) as both:
        for _ in range(rounds):
            began, (answer, bearer) = place.click_until(place.fronts[0], sale, is_sold)
            bought += told(True, began)
            place.wait_decided(answer["id"], bearer)
            began = time.monotonic()
            place.change(place.fronts[1], answer["id"], bearer, "pay")
            paid += told(False, began)
            headers = {"Authorization": f"Bearer {place.key}", "Content-Type": "application/json"}
            body = json.dumps({"reason": "bench", "restock": True})
            status, said = place.ask("POST", place.side.admin, f"/api/v1/admin/orders/{answer['id']}/refund", headers,
                                     body)
            check(status == 200, f"refund: {status} {said}")
    place.end_sale(sale)
    return bought, paid
