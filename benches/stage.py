"""What benches/run measures with: the stack, the built programs, processes with their CPU, the shop from outside.
"""
import base64
import contextlib
import datetime
import glob
import hashlib
import hmac
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
RAW = ROOT / "target" / "bench"
STACK_DIR = pathlib.Path(os.environ.get("STACK_DIR", ROOT / ".stack"))
BARE = "127.0.0.1:18481"
JVM_LEVEL = "4"  # of the stack's Kafka: compiled as a shop's broker is
# Of this checkout; another side listens a few ports higher.
SHOP_PORT, ADMIN_PORT, WORKER_ADMIN_PORT = 18480, 18490, 18491
MEASURED = ["--profile", "bench", "-p", "seckill", "-p", "loadtest", "--bin", "seckill", "--bin", "loadtest", "--bench",
            "parts"]
AS_MAKE_RUSH = ["--no-default-features", "--features", "embedded", "--bin", "seckill"]
SKU = "phone-x"
BODY = json.dumps({"sku_id": SKU, "quantity": 1}, separators=(",", ":"))


def talk(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"benches/run: {text}")


def check(holds, text):
    if not holds:
        raise RuntimeError(text)


# ---- what is needed -------------------------------------------------------------------------------------------

def need(program, package):
    if shutil.which(program):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        talk(f"installing {package}")
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", package],
                       stdout=subprocess.DEVNULL, check=False)
    if not shutil.which(program):
        fail(f"{program} is missing; install with: sudo apt-get install {package}")


def build(root=ROOT, words=MEASURED):
    """Paths of the built programs of a checkout by name; another one than this is built beside its files."""
    talk(f"building in {root}: {' '.join(words)}")
    beside = {} if root == ROOT else {"CARGO_TARGET_DIR": str(root.parent / "target")}
    command = ["cargo", "build", *words, "--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=root, env={**os.environ, **beside}, stdout=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode:
        fail(f"the build of {root} failed")
    messages = map(json.loads, done.stdout.splitlines())
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}


class Stack:
    """The running stack: its settings and its processes."""

    def __init__(self):
        if subprocess.run([ROOT / "scripts/stack", "status"], capture_output=True, check=False).returncode:
            environment = {**os.environ, "STACK_KAFKA_JVM_LEVEL": JVM_LEVEL}
            subprocess.run([ROOT / "scripts/stack", "up"], check=True, env=environment)
        lines = (STACK_DIR / "stack.env").read_text().splitlines()
        self.settings = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
        check(self.settings["KAFKA_JVM_LEVEL"] == JVM_LEVEL,
              "the stack's Kafka compiles little: run scripts/stack down, and this starts it as a shop would have it")
        status = subprocess.run([ROOT / "scripts/stack", "status"], capture_output=True, text=True, check=True)
        self.pids = {name: int(pid) for name, pid in re.findall(r"^(\S+) +pid (\d+)", status.stdout, re.M)}
        self.versions = [" ".join(line.split()[5:]) for line in status.stdout.splitlines()]
        self.secret = secrets.token_hex(32)

    def redis_at_rest(self):
        """Waits until Redis rewrites no append-only file: a rewrite of what is gone belongs to no slice."""
        wait_until("Redis rests", lambda: "aof_rewrite_in_progress:0" in self.redis("INFO", "persistence"))

    def forget(self, pattern=""):
        """Removes this script's keys, or those of them that match a pattern."""
        keys = self.redis("--scan", "--pattern", pattern or "bench:*").split()
        check(all(key.startswith("bench:") for key in keys), pattern)
        if keys:
            self.redis("DEL", *keys)

    def mysql(self, part, statement):
        client = shutil.which("mysql") or shutil.which("mariadb") or next(iter(self.unpacked_clients()), None)
        check(client, "no MySQL client")
        command = [client, f"--defaults-file={STACK_DIR}/conf/{part}.cnf", "-N", "-e", statement]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()

    def unpacked_clients(self):
        folders = [os.environ.get("STACK_DIST"), self.settings.get("DIST"), STACK_DIR / "dist", ROOT / ".stack/dist"]
        paths = [pathlib.Path(folder) / "mysql/bin/mysql" for folder in folders if folder]
        return [str(path) for path in paths if path.exists()]

    def redis(self, *words):
        command = ["redis-cli", "-p", self.settings["REDIS_PORT"], *words]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


class Side:
    """A checkout's programs, and what is theirs alone: ports, and databases, keys and topics that begin with `name`.

    Two sides can be up at the same time. Their names are of one length, because instructions depend on it.
    """

    def __init__(self, stack, programs, root=ROOT, name="", ports_up=0):
        self.stack, self.programs, self.root, self.name = stack, programs, root, name
        ports = (SHOP_PORT, ADMIN_PORT, WORKER_ADMIN_PORT)
        self.shop, self.admin, self.worker_admin = (f"127.0.0.1:{port + ports_up}" for port in ports)

    def environment(self, row="", **more):
        """Of the product, for databases, keys and a topic named after side and row; `more` as section__key."""
        at, name = self.stack.settings, self.name + row
        keys = {
            "redis__url": f"redis://127.0.0.1:{at['REDIS_PORT']}",
            "redis__key_prefix": f"bench:{name}",
            "kafka__brokers": f"127.0.0.1:{at['KAFKA_PORT']}",
            "kafka__topic": f"bench.{name}orders",
            "kafka__group": f"bench.{name}writers",
            "mysql__instances": f"127.0.0.1:{at['MYSQL_A_PORT']},127.0.0.1:{at['MYSQL_B_PORT']}",
            "mysql__database_prefix": f"bench_{name}",
            "auth__hs256_secret": self.stack.secret,
            "limits__user_per_s": 0,
            "limits__address_per_s": 0,
            "log__filter": "warn",
            **more,
        }
        # A commit from before there were events refuses a key that it does not know.
        if "events_topic" in (self.root / "config/default.toml").read_text(encoding="utf-8"):
            keys["kafka__events_topic"] = keys["kafka__topic"] + ".events"
        product = {"SECKILL__" + key.upper(): str(value) for key, value in keys.items()}
        return {**os.environ, "SECKILL_CONFIG": str(self.root / "config/distributed.toml"), **product}

    def fresh(self, row, **more):
        """The environment of a row that begins with empty databases of its own; `more` as section__key."""
        environment = self.environment(row, **more)
        # Redis knows how new the data were; what is made anew would be a backup that was restored.
        self.stack.forget(f"bench:{self.name}{row}*")
        drop_databases(self.stack, f"bench_{self.name}{row}")
        self.run("migrate", environment=environment)
        return environment

    def empty(self, row):
        """Empties the tables that the orders of a row fill."""
        empty_tables(self.stack, f"bench_{self.name}{row}")

    def run(self, *words, environment, text=None):
        """What a command of `seckill` says on standard output."""
        done = subprocess.run([self.programs["seckill"], *words], env=environment, input=text, capture_output=True,
                              text=True, check=False)
        check(done.returncode == 0, f"seckill {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout.strip()


# ---- processes and their CPU ----------------------------------------------------------------------------------

def cpu_now(pids):
    """Seconds of CPU by process, from its own clock: that of threads that have ended is in it, too."""
    return {name: time.clock_gettime(~pid << 3 | 2) for name, pid in pids.items()}  # CPUCLOCK_SCHED of a process


def cpu_between(before, after):
    """Seconds by process."""
    return {name: seconds - before[name] for name, seconds in after.items()}


@contextlib.contextmanager
def running(command, environment, core=None, **pipes):
    """A child that is ended with the block, by its own process id."""
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    child = subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGCONT)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def awake(children):
    """Children that run during the block and stand still outside it: what rests costs the servers nothing."""
    for child in children:
        child.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        for child in children:
            child.send_signal(signal.SIGSTOP)


class Part:
    """A side that takes its slices from standard input (benches/parts/slices.rs)."""

    def __init__(self, child):
        self.child = child
        check(self.read() == {"ready": True}, "a part did not start")

    def read(self):
        line = self.child.stdout.readline()
        check(line, "a part ended; its message stands above")
        return json.loads(line)

    def ask(self, text):
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        return self.read()


def part(side, environment, *words, core=None):
    command = [side.programs["parts"], *words]
    return running(command, environment, core, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextlib.contextmanager
def pinned(pid, core):
    """All threads of a process on one core, until the end of the block."""
    threads = [int(path.rsplit("/", 1)[1]) for path in glob.glob(f"/proc/{pid}/task/*")]
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    for thread in threads:
        os.sched_setaffinity(thread, {core})
    try:
        yield
    finally:
        for thread, cores in before.items():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, cores)


# ---- the shop from outside ------------------------------------------------------------------------------------

def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return answer.read().decode()


def wait_ready(child, admin, pause=0.1):
    for _ in range(int(30 / pause)):
        check(child.poll() is None, "the server ended")
        with contextlib.suppress(OSError):
            get(admin, "/readyz")
            return
        time.sleep(pause)
    raise RuntimeError("the server does not become ready")


def value(admin, name):
    """One metric without labels."""
    return float(re.search(rf"^{name} (\S+)$", get(admin, "/metrics"), re.M)[1])


def wait_until(what, holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < deadline, f"never: {what}")
        time.sleep(0.2)


def samples(admin, name):
    """Labels (as text) to value of one metric; a metric without labels has the key of an empty text."""
    text = get(admin, "/metrics")
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.M)}


def token(secret, user):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    def text(value):
        return part(json.dumps(value, separators=(",", ":")).encode())

    claims = {"sub": user, "aud": "seckill", "iat": int(time.time()), "exp": int(time.time()) + 36000}
    head = text({"alg": "HS256", "typ": "JWT"}) + b"." + text(claims)
    return (head + b"." + part(hmac.digest(secret.encode(), head, hashlib.sha256))).decode()


def make_key(side, environment, *scopes):
    """An operator's key; of a data folder only while nobody serves it."""
    allows = ["--scopes", ",".join(scopes)] if scopes else []
    return side.run("key", "create", "--name", "bench", *allows, environment=environment)


def sale_name():
    return f"bench-{time.time_ns() // 1_000_000}"


def open_sale(side, environment, stock, key=None, amount=19900, **terms):
    """Creates, publishes and preheats a sale that is on; answers its id."""
    sale = sale_name()
    environment = operating(side, environment, key or make_key(side, environment))
    now = datetime.datetime.now(datetime.timezone.utc)
    at = [(now + datetime.timedelta(seconds=s)).strftime("%Y-%m-%dT%H:%M:%SZ") for s in (-2, 36000)]
    body = {"id": sale, "name": "Bench", "starts_at": at[0], "ends_at": at[1], "buyer_limit": 1, "items": [
        {"sku_id": SKU, "name": "Phone X", "stock": stock, "price": {"amount": amount, "currency": "CNY"}}], **terms}
    side.run("sale", "create", "-", environment=environment, text=json.dumps(body))
    for action in ("publish", "preheat"):
        side.run("sale", action, sale, "--reason", "bench", environment=environment)
    return sale


def fifty_rules(of="address"):
    """Rules of an operator, (name, body): callers, routes and sales, ten limits of purchases, and one that refuses nearly
    all. Limits that are a caller's own are asked first: one of `address` is asked after four others, and one of `all`
    after ten."""
    def rule(kind, value, **more):
        return {"kind": kind, "value": value, **more}

    def bucket(scope, rate=1_000_000, **about):
        return rule("token_bucket", {"rate": rate, "burst": rate}, scope=scope, match=about)

    yield from ((f"a{n}", rule("block", {"user": f"bot-{n}"})) for n in range(15))
    yield from ((f"b{n}", rule("block", {"address": f"10.{n}.0.0/16"})) for n in range(9))
    yield from ((f"c{n}", bucket("user", route="order_read")) for n in range(10))
    yield from ((f"d{n}", bucket("all", route="purchase", sale=f"another-{n}")) for n in range(5))
    for scope, count in (("all", 4), ("user", 2), ("address", 2), ("sale", 2)):
        yield from ((f"e-{scope}-{n}", bucket(scope, route="purchase")) for n in range(count))
    yield "z", bucket(of, 1, route="purchase")


def put_rule(side, environment, key, name, body):
    """Puts a rule of traffic in place."""
    side.run("rule", "put", name, "-", "--reason", "bench", environment=operating(side, environment, key),
             text=json.dumps(body))


def end_sale(side, environment, sale, key):
    """Ends a sale: one that is on costs its side something all the time."""
    side.run("sale", "end", sale, "--reason", "bench", environment=operating(side, environment, key))


def operating(side, environment, key):
    """The environment of an operator's commands."""
    return {**environment, "SECKILL_API_KEY": key, "SECKILL_ADMIN": side.admin}


def drop_databases(stack, prefix):
    """Drops this script's own databases of one prefix, so that a row begins with empty tables."""
    check(prefix.startswith("bench_"), prefix)
    for part in ("mysql-a", "mysql-b"):
        names = stack.mysql(part, f"SHOW DATABASES LIKE '{prefix.replace('_', chr(92) + '_')}%'")
        for name in names:
            check(name.startswith(prefix), name)
            stack.mysql(part, f"DROP DATABASE {name}")


def empty_tables(stack, prefix):
    """Empties the rows that orders left in this script's own databases of one prefix."""
    check(prefix.startswith("bench_"), prefix)
    like = prefix.replace("_", chr(92) + "_")
    for part in ("mysql-a", "mysql-b"):
        tables = stack.mysql(part, "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables "
                             f"WHERE table_schema LIKE '{like}%' AND (table_name IN ('claims', 'order_moves') "
                             "OR table_name LIKE 'orders%')")
        stack.mysql(part, " ".join(f"TRUNCATE TABLE {table};" for table in tables if table.startswith(prefix)))


def buy(shop, sale, bearer, key):
    """The status and code of one purchase."""
    headers = {"Authorization": f"Bearer {bearer}", "Idempotency-Key": key, "Content-Type": "application/json"}
    url = f"http://{shop}/api/v1/sales/{sale}/orders"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, BODY.encode(), headers), timeout=5) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())["code"]


# ---- the machine ----------------------------------------------------------------------------------------------

def cores():
    return len(os.sched_getaffinity(0))


def machine(stack):
    """Hardware and versions, for the raw data; a tool that no row has needed yet has none."""
    def first_line(*command):
        if not shutil.which(command[0]):
            return ""
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0] if done.stdout or done.stderr else ""

    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal: +(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "cpu": model and model[1], "cores": cores(), "memory_kib": memory and int(memory[1]),
        "kernel": os.uname().release, "servers": stack.versions, "rustc": first_line("rustc", "-V"),
        "wrk": first_line("wrk", "-v"), "redis-benchmark": first_line("redis-benchmark", "--version"),
        "valgrind": first_line("valgrind", "--version"), "commit": first_line("git", "rev-parse", "HEAD"),
        "changed_files": len(changed.stdout.splitlines()),
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
