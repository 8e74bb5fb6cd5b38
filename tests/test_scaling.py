"""Several granian workers behind nginx, with the command and the settings that the README shows."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parent.parent
SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
COMMAND = re.compile(r"pip install granian && granian (.+)")
SETTINGS = re.compile(r"```nginx\n(.+?)```", re.DOTALL)
AROUND = """{user}daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
access_log off;
client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
{settings}
}}
"""

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not on this machine (Debian: apt-get install nginx)"),
    pytest.mark.skipif(find_spec("granian") is None, reason="granian is not installed (uv sync)"),
]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def awaited(url, seconds=90):
    """The first answer of a server that is starting."""
    ends = time.monotonic() + seconds
    while True:
        try:
            reply = requests.get(f"{url}/health", timeout=5)
            if reply.status_code == 200:
                return reply
        except requests.RequestException:
            pass
        assert time.monotonic() < ends, f"{url} does not answer"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """nginx's address, the workers' own, and the process that holds the workers."""
    at, readme = tmp_path_factory.mktemp("scaled"), (ROOT / "README.md").read_text("utf-8")
    inner, outer = free_port(), free_port()
    command = COMMAND.search(readme)[1].replace("5001", str(inner)).replace("--workers 4", "--workers 2")
    settings = (
        SETTINGS.search(readme)[1].replace("5001", str(inner)).replace("listen 8080", f"listen 127.0.0.1:{outer}")
    )
    assert str(inner) in command and str(inner) in settings and "--workers 2" in command
    user = "user root; " if os.geteuid() == 0 else ""
    (at / "nginx.conf").write_text(AROUND.format(at=at, settings=settings, user=user))
    environment = os.environ | {"LLM_MEMORY_ACCESS_LOG": str(at / "access.log")}
    workers = [sys.executable, "-m", "granian", *shlex.split(command)]
    proxy = [NGINX, "-p", str(at), "-c", str(at / "nginx.conf"), "-e", str(at / "error.log")]
    with ExitStack() as stack:
        log = stack.enter_context((at / "granian.log").open("w"))
        running = [
            stack.enter_context(subprocess.Popen(workers, cwd=ROOT, env=environment, stdout=log, stderr=log)),
            stack.enter_context(subprocess.Popen(proxy, stdout=log, stderr=log)),
        ]
        try:
            awaited(f"http://127.0.0.1:{inner}")
            awaited(f"http://127.0.0.1:{outer}")
            yield f"http://127.0.0.1:{outer}", f"http://127.0.0.1:{inner}", at, running[0]
        finally:
            for each in reversed(running):
                each.send_signal(signal.SIGTERM)
            for each in running:
                try:
                    each.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    each.kill()


def asked(url, body=SIZES, path="/api/memory/inference", **options):
    return requests.post(url + path, json=body, timeout=30, **options)


def test_the_answer_is_that_of_one_process(scaled, service):
    for path, body in (
        ("/api/memory/inference", SIZES),
        ("/api/memory/training", {"model_name": "Qwen3-0.6B"}),
        ("/api/memory/inference", {"model_name": "InvalidModel"}),
        ("/api/memory/inference", SIZES | {"batch_size": 0}),
        ("/api/memory/compare", {"calculation_type": "inference", "configurations": [SIZES] * 1000}),
    ):
        many, one = asked(scaled[0], body, path), asked(service, body, path)
        assert (many.status_code, many.json()) == (one.status_code, one.json())
        assert many.headers["X-Request-ID"] and many.headers["Content-Type"] == "application/json"


def test_slow_clients_never_reach_a_worker(scaled):
    """What a worker is not given it does not log: 200 half-sent bodies are nginx's alone."""
    outside, _, at, _ = scaled
    host, port = outside.removeprefix("http://").split(":")
    body = json.dumps(SIZES).encode()
    head = f"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(200)]
        for each in held:
            each.sendall(head.encode() + b"X: slow\r\n\r\n" + body[:10])
        time.sleep(0.5)
        before = at.joinpath("access.log").read_text().count("\n")
        assert all(asked(outside).status_code == 200 for _ in range(20))
        time.sleep(1)
        assert at.joinpath("access.log").read_text().count("\n") == before + 20
        held[0].sendall(body[10:])
        assert held[0].recv(100).startswith(b"HTTP/1.1 200")


def test_a_body_beyond_the_limit_and_the_counts_stay_outside(scaled):
    outside, inside, _, _ = scaled
    assert requests.post(f"{outside}/api/memory/inference", data=b" " * (2**20 + 1), timeout=30).status_code == 413
    assert requests.get(f"{outside}/metrics", timeout=30).status_code == 403
    assert "http_requests_total" in requests.get(f"{inside}/metrics", timeout=30).text


def test_both_workers_answer_and_their_log_is_one(scaled):
    """Ids begin with what each process drew for itself, where no proxy gave one."""
    _, inside, _, _ = scaled
    ends, found = time.monotonic() + 20, set()
    while len(found) < 2 and time.monotonic() < ends:
        found.add(asked(inside).headers["X-Request-ID"].split("-")[0])
    assert len(found) == 2
