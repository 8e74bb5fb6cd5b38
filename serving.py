"""waitress with a clean stop: whoever was let in is answered before the process ends.

waitress by itself drops what it is doing at a signal. Here a signal ends the listening, each answer under way is
finished and says `Connection: close`, and what waits in the kernel's queue is still taken in.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, WSGITask

PATIENCE = 30.0  # seconds for answers under way when the service stops
HALF_SENT = 5.0  # seconds for requests that have not arrived whole by then
QUIET = 0.3  # seconds after which a silent connection has nothing more to say

SETTINGS: dict[str, Any] = {
    "threads": 4,
    "ident": None,
    "connection_limit": 1000,  # half-sent bodies hold a connection, never a thread
    "asyncore_use_poll": True,  # select() ends at 1,024 descriptors
    "channel_timeout": 30,
    "cleanup_interval": 10,
    "backlog": 1024,
    "max_request_body_size": 2**24,  # above 1 MiB the application says so in its own words
    "inbuf_overflow": 2**21,  # neither bodies nor replies go through temporary files
    "outbuf_overflow": 2**26,
}


class Answer(WSGITask):  # type: ignore[misc]
    """One request; while the service stops, the last of its connection."""

    def execute(self) -> None:
        if self.channel.server.stopping.is_set():
            self.set_close_on_finish()
        super().execute()


class Refusal(ErrorTask):  # type: ignore[misc]
    """What waitress refuses before the application sees it (no HTTP, headers beyond bounds), in our JSON shape."""

    def execute(self) -> None:
        fault = self.request.error
        body = json.dumps({"error": f"{fault.reason}: {fault.body}"}).encode()
        self.status = f"{fault.code} {fault.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection."""

    task_class = Answer
    error_task_class = Refusal

    def idle_at(self, now: float) -> bool:
        """Whether nothing of it is under way and nothing came for a moment."""
        return not self.requests and not self.total_outbufs_len and now - self.last_activity > QUIET

    def half_sent(self) -> bool:
        """Whether a request has begun and not arrived whole."""
        return self.request is not None and not self.requests


class Service:
    """An application on a port."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        self.stopping = threading.Event()
        self.map: dict[int, Any] = {}
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        create_server(app, map=self.map, host=host, port=port, **SETTINGS)
        self.listeners = [each for each in self.map.values() if isinstance(each, BaseWSGIServer)]
        for listener in self.listeners:
            listener.channel_class = Channel
            listener.stopping = self.stopping

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        first = self.listeners[0]
        host = f"[{first.effective_host}]" if ":" in first.effective_host else first.effective_host
        return f"http://{host}:{first.effective_port}"

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Begin to stop; a second time, at once."""
        if self.stopping.is_set():
            raise SystemExit(1)
        self.stopping.set()
        self.listeners[0].pull_trigger()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish what was accepted."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self.stop)
        while not self.stopping.is_set():
            self._turn(1.0)
        self._drain()

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self.map, count=1)

    def _last_of(self, listening: socket.socket) -> list[tuple[socket.socket, Any]]:
        """Everybody in the kernel's queue. The door closes right after a look that found nobody: who comes between the
        two is reset, and there is no shorter way to say it."""
        taken: list[tuple[socket.socket, Any]] = []
        while True:
            try:
                while True:
                    taken.append(listening.accept())
            except BlockingIOError:
                listening.close()
                return taken
            except OSError:  # gone before it was let in
                continue

    def _drain(self) -> None:
        for listener in self.listeners:
            listener.adj.connection_limit = 2**20
            taken = self._last_of(listener.socket)
            listener.accept = iter(taken).__next__
            for _ in taken:
                listener.handle_accept()
            wasyncore.dispatcher.close(listener)
        began = time.time()
        while channels := [each for listener in self.listeners for each in [*listener.active_channels.values()]]:
            now = time.time()
            for channel in channels:
                overdue = channel.half_sent() and now - began > HALF_SENT
                if overdue or now - began > PATIENCE or (channel.request is None and channel.idle_at(now)):
                    channel.will_close = True
            self._turn(0.05)
        self.listeners[0].task_dispatcher.shutdown()
