"""Many clients, slow clients and poor surroundings, against the real process on loopback.

LOAD_SECONDS=20 uv run pytest tests/test_load.py keeps it up longer than the six seconds it takes by itself.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from calculator.library import library
from server import create_app

ROOT = Path(__file__).parent.parent
SECONDS = float(os.environ.get("LOAD_SECONDS", "6"))
SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
QWEN = {"model_name": "Qwen3-0.6B"}

MIX = [  # method, path, body, the status it deserves
    ("POST", "/api/memory/inference", SIZES, 200),
    ("POST", "/api/memory/inference", QWEN | {"gpu": "RTX-4090"}, 200),
    ("POST", "/api/memory/training", QWEN, 200),
    ("POST", "/api/memory/compare", {"calculation_type": "inference", "configurations": [QWEN] * 10}, 200),
    ("POST", "/api/memory/inference", SIZES | {"batch_size": 0}, 400),
    ("POST", "/api/memory/inference", {"model_name": "InvalidModel"}, 404),
    ("GET", "/api/models/Qwen3-0.6B", None, 200),
    ("GET", "/health", None, 200),
]


def message(method, path, body, *headers):
    """A request as it goes over the wire."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def connect(url, receive=None):
    """A connection; with `receive`, one whose kernel takes in few bytes that nobody has read."""
    at = urlsplit(url)
    connection = socket.socket()
    connection.settimeout(30)
    if receive:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    connection.connect((at.hostname, at.port))
    return connection


def reply(stream):
    """Status and body of the next reply on a connection that stays open."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, stream.read(length)


def answered(url):
    """Whether an ordinary client gets its answer."""
    return requests.post(f"{url}/api/memory/inference", json=SIZES, timeout=20).status_code == 200


@contextmanager
def running(root, log, command=("server.py",), **options):
    """A server of the tree at `root` and where it listens."""
    arguments = [sys.executable, *command, "--port", "0"]
    with (
        log.open("w") as file,
        subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, stderr=file, text=True, **options) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line.startswith("Serving on http://"), log.read_text()
            yield process, line.split()[2]
        finally:
            process.kill()


def test_sixty_four_connections_at_once_meet_no_error(service):
    ends, wrong, done = time.monotonic() + SECONDS, [], []

    def client(first):
        count = 0
        try:
            with connect(service) as connection, connection.makefile("rb") as stream:
                while time.monotonic() < ends:
                    method, path, body, status = MIX[(first + count) % len(MIX)]
                    connection.sendall(message(method, path, body))
                    got, data = reply(stream)
                    if got != status or not json.loads(data):
                        wrong.append((path, got, data[:200]))
                    count += 1
        except (OSError, ValueError, IndexError) as fault:
            wrong.append(repr(fault))
        done.append(count)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=SECONDS + 60)
    assert wrong == [] and len(done) == 64 and min(done) > 0


def test_two_hundred_slow_readers_keep_nobody_waiting_and_get_their_answers(service):
    wanted = message("GET", "/openapi.json", None, "Connection: close")
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(service, receive=2048)) for _ in range(200)]
        for each in slow:
            each.sendall(wanted)
        for each in slow:
            assert each.recv(100).startswith(b"HTTP/1.1 200")
        assert all(answered(service) for _ in range(10))
        whole = b"".join(iter(lambda: slow[-1].recv(65536), b""))
        assert json.loads(whole.split(b"\r\n\r\n", 1)[1])["openapi"].startswith("3.1")
    assert answered(service)


def test_two_hundred_who_never_finish_their_bodies_keep_nobody_waiting(service):
    begun = message("POST", "/api/memory/compare", {"calculation_type": "inference", "configurations": [SIZES] * 50})
    with ExitStack() as stack:
        for n in range(200):
            stack.enter_context(connect(service)).sendall(begun[: 80 + 40 * n % len(begun)])
        assert all(answered(service) for _ in range(10))


def test_a_stop_amid_long_answers_loses_none(tmp_path):
    """Each connection has been accepted and has sent its whole question when the signal comes."""
    asked = message("POST", "/api/memory/compare", {"calculation_type": "training", "configurations": [SIZES] * 40})
    with running(ROOT, tmp_path / "log") as (process, url), ExitStack() as stack:
        assert answered(url)
        clients = [stack.enter_context(connect(url)) for _ in range(16)]
        for each in clients:
            each.sendall(asked)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        for each in clients:
            with each.makefile("rb") as stream:
                status, data = reply(stream)
            assert status == 200 and len(json.loads(data)["results"]) == 40
        assert process.wait(timeout=20) == 0


def test_a_damaged_file_of_a_model_is_named_at_start_and_the_rest_is_served(tmp_path):
    root = tmp_path / "tree"
    kept = shutil.ignore_patterns(".*", "tests", "docs", "validation", "node_modules", "__pycache__")
    shutil.copytree(ROOT, root, ignore=kept)
    models = sorted((root / "models").glob("*.json"))
    known = len(models)
    named = json.loads(models[1].read_text())["name"]
    models[0].write_bytes(models[0].read_bytes()[:50])
    models[1].unlink()
    models[2].write_text('{"name": "half"}')
    models[3].write_bytes(b"\xff\xfe\x00")
    with running(root, tmp_path / "log") as (_, url):
        assert requests.get(f"{url}/health", timeout=20).json()["models"] == known - 4
        assert requests.get(f"{url}/api/models/{named}", timeout=20).status_code == 404
        assert answered(url)
    said = (tmp_path / "log").read_text()
    assert all(models[n].name in said for n in (0, 2, 3)) and "Traceback" not in said


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An installation whose `models/` is missing."""
    monkeypatch.setattr("calculator.library.MODELS", tmp_path / "models")
    library.cache_clear()
    yield
    library.cache_clear()


def test_without_any_models_sizes_are_still_answered(bare, caplog):
    client = create_app().test_client()
    assert caplog.text.count("is not a folder: no models are bundled") == 1
    assert client.get("/health").get_json()["models"] == 0
    assert client.post("/api/memory/inference", json=SIZES).status_code == 200
    assert client.post("/api/memory/inference", json=QWEN).status_code == 404


READ_ONLY = """
import errno, os, runpy, sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

def refuse(event, arguments):
    if event in CHANGING or (event == "open" and not isinstance(arguments[0], int) and arguments[2] & WRITING):
        if "__pycache__" not in str(arguments[0]):
            print("tried to write:", event, arguments[0], file=sys.stderr)
        raise OSError(errno.EROFS, "Read-only file system", str(arguments[0]))

sys.addaudithook(refuse)
try:
    open("__pycache__", "a")
    sys.exit("nothing is refused")
except OSError:
    pass
sys.argv = sys.argv[:1] + sys.argv[2:]
sys.path[0] = os.getcwd()
runpy.run_path("server.py", run_name="__main__")
"""


def test_nothing_is_written_and_no_home_is_needed(tmp_path):
    """Python itself refuses every write, as a read-only file system does: /tmp as well."""
    script = tmp_path / "read_only.py"
    script.write_text(READ_ONLY)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    kept["LLM_MEMORY_ACCESS_LOG"] = "stderr"
    with running(ROOT, tmp_path / "log", (str(script), "server.py"), env=kept) as (process, url):
        for method, path, body, status in MIX:
            assert requests.request(method, url + path, json=body, timeout=20).status_code == status
        large = {"calculation_type": "inference", "configurations": [SIZES] * 1000}
        assert requests.post(f"{url}/api/memory/compare", json=large, timeout=60).status_code == 200
        large["configurations"] *= 20
        assert requests.post(f"{url}/api/memory/compare", json=large, timeout=60).status_code == 413
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each["status"] for each in logged] == [each[3] for each in MIX] + [200, 413]
    assert len({each["request_id"] for each in logged}) == len(logged)
