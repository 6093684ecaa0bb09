"""Streams, as benches/run measures them: what an idle one costs in memory, and what it costs in CPU to tell all of them.

A client of this script holds the streams and reads what comes, on a core of its own. A sale is paused and resumed again
and again, and each change is told to every stream.
"""
import contextlib
import resource
import selectors
import socket
import subprocess
import threading
import time

import sides
import stage
from stage import check, talk

STREAMS = 9_900  # below push.streams_max
ADDRESS_MAX = 400  # streams of one address of the client, below push.address_max
REST_S = 5


class Clients:
    """Streams of a sale that are read and forgotten."""

    def __init__(self, shop, sale):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        check(hard >= STREAMS + 100, f"{STREAMS} streams need more open files than {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, STREAMS + 100), hard))
        self.host, port = shop.split(":")
        self.port, self.request = int(port), f"GET /api/v1/stream?sale={sale} HTTP/1.1\r\nHost: {shop}\r\n\r\n".encode()
        self.selector, self.bytes, self.ended = selectors.DefaultSelector(), 0, 0
        self.stop, self.thread = threading.Event(), threading.Thread(target=self.read, daemon=True)

    def __enter__(self):
        for number in range(STREAMS):
            client = socket.create_connection((self.host, self.port), 10, (f"127.2.0.{number // ADDRESS_MAX + 1}", 0))
            client.sendall(self.request)
            client.setblocking(False)
            self.selector.register(client, selectors.EVENT_READ)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()

    def read(self):
        while not self.stop.is_set():
            for key, _ in self.selector.select(0.1):
                with contextlib.suppress(BlockingIOError):
                    came = len(key.fileobj.recv(65536))
                    self.bytes += came
                    if not came:
                        self.ended += 1
                        self.selector.unregister(key.fileobj)


def kib(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4


def told(side):
    """Events that streams were sent, but for heartbeats."""
    return sum(n for labels, n in stage.samples(side.admin, "seckill_stream_events_total").items() if "beat" not in labels)


def measured(side, slices):
    """KiB of an idle stream, and of each slice events a second of CPU."""
    environment = side.environment(**sides.folder("push"), http__workers=1)
    key = stage.make_key(side, environment)
    command = [side.programs["seckill"], "serve", "--bind", side.shop, "--admin-bind", side.admin]
    with stage.running(command, environment, sides.SERVER_CORE, stderr=subprocess.DEVNULL) as server:
        stage.wait_ready(server, side.admin)
        sale, operator = stage.open_sale(side, environment, 10_000, key), stage.operating(side, environment, key)
        time.sleep(REST_S)
        before = kib(server.pid)
        with Clients(side.shop, sale) as clients:
            stage.wait_until("all streams are open", lambda: stage.value(side.admin, "seckill_streams") == STREAMS)
            time.sleep(REST_S)
            each = (kib(server.pid) - before) / STREAMS
            talk(f"  {each:.1f} KiB a stream")
            rates = []
            for number in range(slices):
                action = ("pause", "resume")[number % 2]
                first, began = told(side), stage.cpu_now({"server": server.pid})
                side.run("sale", action, sale, "--reason", "bench", environment=operator)
                stage.wait_until("all are told", lambda: told(side) - first >= STREAMS)
                spent = stage.cpu_between(began, stage.cpu_now({"server": server.pid}))["server"]
                rates.append((told(side) - first) / spent)
            check(clients.ended == 0, f"{clients.ended} streams have ended")
        return each, rates
