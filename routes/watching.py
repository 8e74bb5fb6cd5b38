"""Around the application: each request gets an id, is counted, logged and, where that is asked for, limited.

What happens while a client waits is an id, a clock and two sums; formatting and writing are another thread's.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv6Address
from itertools import count
from typing import Any

import orjson

IDENTITY = re.compile(r"[A-Za-z0-9._~-]{1,100}")
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN = "none"  # the route of what no endpoint answers, so that strangers cannot make up series
ROUTE = "llm_memory.route"  # where Flask's way leaves the route in the WSGI environment
ALWAYS = frozenset({"/health", "/metrics"})  # probes are never limited
REMEMBERED = 10_000  # clients whose requests are being counted
WAITING = 100_000  # lines that wait for a slow log; beyond them the oldest is dropped
STREAMS = {"stdout": 1, "stderr": 2}  # without Python's buffers, whose locks a stuck write would hold at the end
EVERY = 0.2  # seconds between writes

Key = tuple[str, str, str]  # method, route, status
Environment = dict[str, Any]


class Counts:
    """How many requests had which outcome, and how long they took."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.series: dict[Key, list[float]] = {}

    def add(self, key: Key, seconds: float) -> None:
        """One more. A series is one number for each bound, one beyond them all, and the sum of the seconds."""
        with self.lock:
            series = self.series.get(key)
            if series is None:
                series = self.series[key] = [0] * (len(BOUNDS) + 1) + [0.0]
            series[bisect_left(BOUNDS, seconds)] += 1
            series[-1] += seconds

    def snapshot(self) -> dict[Key, list[float]]:
        """All series as they stand."""
        with self.lock:
            return {key: [*series] for key, series in sorted(self.series.items())}


Seen = tuple[float, str, str, str, str, str, str, float]


class AccessLog:
    """One line of JSON a request, written behind the requests' backs: a log that is stuck holds nobody up."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.waiting: deque[Seen] = deque(maxlen=WAITING)
        self.starting, self.writing = threading.Lock(), threading.Lock()
        self.ending = threading.Event()
        self.thread: threading.Thread | None = None

    def add(self, seen: Seen) -> None:
        """Take note; the thread starts with the first request, which is after a server has forked its workers."""
        self.waiting.append(seen)
        if self.thread is None:
            with self.starting:
                if self.thread is None:
                    self.thread = threading.Thread(target=self._follow, name="access log", daemon=True)
                    self.thread.start()
                    atexit.register(self.close)

    def close(self, patience: float = 1.0) -> None:
        """Write the last lines, unless the log is stuck for so many seconds."""
        self.ending.set()
        if self.thread is not None:
            self.thread.join(patience)

    def _follow(self) -> None:
        while not self.ending.wait(EVERY):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits. A file is opened each time, so that whoever rotates logs may rename it."""
        with self.writing:
            self._write()

    def _write(self) -> None:
        try:
            lines = b"".join(line(self.waiting.popleft()) for _ in range(len(self.waiting)))
            if self.target in STREAMS:
                while lines:
                    lines = lines[os.write(STREAMS[self.target], lines) :]
            elif lines:
                with open(self.target, "ab") as file:
                    file.write(lines)
        except OSError:  # a full disk or a closed stream costs the lines, never the service
            pass


def line(seen: Seen) -> bytes:
    """A request as JSON. Neither queries nor bodies are in it."""
    when, identity, client, method, path, route, status, seconds = seen
    said = {
        "time": datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds"),
        "request_id": identity,
        "client": client,
        "method": method[:20],
        "path": path[:500].encode("latin-1", "replace").decode("utf-8", "replace"),
        "route": route,
        "status": int(status),
        "milliseconds": round(1e3 * seconds, 3),
    }
    return json.dumps(said).encode() + b"\n"


class Limit:
    """So many requests a minute for each client, as many of them at once as it has not used before.

    The generic cell rate algorithm: of each client only the moment is kept at which it will have all of them again.
    """

    def __init__(self, a_minute: int) -> None:
        self.apart = 60 / a_minute
        self.lock = threading.Lock()
        self.full: dict[str, float] = {}

    def wait(self, client: str, now: float) -> float:
        """Seconds until this client may ask again; 0 where it may now, which is then counted."""
        with self.lock:
            full = max(self.full.pop(client, now), now)
            late = full + self.apart - now - 60
            if late <= 1e-6:
                full += self.apart
            self.full[client] = full
            if len(self.full) > REMEMBERED:
                self._forget(now)
        return late if late > 1e-6 else 0.0

    def _forget(self, now: float) -> None:
        """Those who have all their requests again; if that does not help, those who have not asked for longest."""
        self.full = {client: full for client, full in self.full.items() if full > now}
        for client in [*self.full][: max(0, len(self.full) - REMEMBERED // 2)]:
            del self.full[client]


def network(address: str) -> str:
    """Whom an address stands for: with IPv6 everybody has a /64 to choose from.

    >>> network("192.0.2.7"), network("2001:db8:1:2:3:4:5:6")
    ('192.0.2.7', '2001:db8:1:2::')
    """
    if ":" not in address:
        return address
    try:
        given = IPv6Address(address.split("%")[0])
    except ValueError:
        return address
    return str(given.ipv4_mapped or IPv6Address(int(given) >> 64 << 64))


class Watch:
    """What stands between the server and `answer`, the application."""

    def __init__(self, answer: Callable[..., Iterable[bytes]], settings: Mapping[str, str]) -> None:
        self.answer = answer
        self.counts = Counts()
        target = settings.get("LLM_MEMORY_ACCESS_LOG", "")
        self.log = AccessLog(target) if target else None
        most = settings.get("LLM_MEMORY_REQUESTS_PER_MINUTE", "") or "0"
        if not most.isdecimal() or len(most) > 9:
            raise ValueError(f"LLM_MEMORY_REQUESTS_PER_MINUTE must be a whole number, 0 for no limit, not {most!r}")
        self.limit = Limit(int(most)) if int(most) else None
        self.prefix, self.numbers = os.urandom(6).hex(), count(1)

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = time.perf_counter()
        identity = environ.get("HTTP_X_REQUEST_ID")
        if identity is None or not IDENTITY.fullmatch(identity):
            identity = f"{self.prefix}-{next(self.numbers)}"
        said = ""

        def start(status: str, headers: list[tuple[str, str]], *fault: Any) -> Any:
            nonlocal said
            said = status
            headers.append(("X-Request-ID", identity))
            return start_response(status, headers, *fault)

        reply = self._limited(environ, start) if self.limit else None
        if reply is None:
            reply = self.answer(environ, start)
        seconds = time.perf_counter() - began
        method, route, status = environ["REQUEST_METHOD"], environ.get(ROUTE, UNKNOWN), said[:3]
        self.counts.add((method if method in METHODS else "other", route, status), seconds)
        if self.log:
            client, path = environ.get("REMOTE_ADDR", ""), environ["PATH_INFO"]
            self.log.add((time.time(), identity, client, method, path, route, status, seconds))
        return reply

    def _limited(self, environ: Environment, start: Callable[..., Any]) -> Iterable[bytes] | None:
        """The refusal of a client that asks too often."""
        if self.limit is None or environ["PATH_INFO"] in ALWAYS:
            return None
        wait = self.limit.wait(network(environ.get("REMOTE_ADDR", "")), time.monotonic())
        if not wait:
            return None
        seconds = int(wait) + 1
        body = orjson.dumps({"error": f"Too many requests from this address; ask again in {seconds} s"})
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        headers += [("Retry-After", str(seconds)), ("Access-Control-Allow-Origin", "*")]
        start("429 Too Many Requests", headers)
        return [body]
