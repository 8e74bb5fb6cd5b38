"""The real process on a real port: it says where it listens, and whoever was let in is answered before it ends."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parent.parent
SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture
def service(tmp_path):
    """A process of its own and where it listens; what it logs goes to a file."""
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "server.py", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
        line = process.stdout.readline()
        assert line.startswith("Serving on http://"), (tmp_path / "log").read_text()
        yield process, line.split()[2]
        process.kill()
        process.communicate()


def connect(url, data=b""):
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def whole(connection):
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    connection.close()
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(service, number, tmp_path):
    process, url = service
    assert requests.post(f"{url}/api/memory/inference", json=SIZES, timeout=10).status_code == 200
    process.send_signal(number)
    assert process.wait(timeout=10) == 0
    assert (tmp_path / "log").read_text() == ""


def test_a_taken_port_is_said_with_the_way_out(service):
    _, url = service
    port = url.rsplit(":", 1)[1]
    second = subprocess.run(
        [sys.executable, "server.py", "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert (
        second.stderr == f"Port {port} on 127.0.0.1 is taken; choose another: python server.py --port {int(port) + 1}\n"
    )


def test_a_request_that_has_begun_is_answered_after_the_signal(service):
    process, url = service
    body = json.dumps(SIZES).encode()
    head = b"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection = connect(url, head + body[:10])
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    connection.sendall(body[10:])
    reply = whole(connection)
    assert reply.startswith(b"HTTP/1.1 200") and b"Connection: close" in reply
    assert process.wait(timeout=10) == 0


def test_a_stop_under_load_loses_no_request_that_was_accepted(service):
    process, url = service
    body = json.dumps(SIZES).encode()
    message = b"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answers, begun, lost = [], threading.Event(), []

    def load():
        while True:
            try:
                connection = connect(url, message)
            except ConnectionRefusedError:
                return
            except OSError as fault:  # reset before it was accepted
                lost.append(fault)
                return
            try:
                size = connection.recv(2**20)
                answers.append(size[:12])
                while size and b"\r\n\r\n" not in size:
                    size += connection.recv(2**20)
            except OSError as fault:
                lost.append(fault)
                return
            finally:
                connection.close()
            if len(answers) > 100:
                begun.set()

    threads = [threading.Thread(target=load) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert begun.wait(timeout=20)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(timeout=20)
    assert process.wait(timeout=20) == 0
    assert set(answers) == {b"HTTP/1.1 200"} and not lost


def test_half_sent_bodies_and_silent_connections_keep_nobody_waiting(service):
    _, url = service
    head = b"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    held = [connect(url, head if each % 2 else b"") for each in range(200)]
    began = time.monotonic()
    for _ in range(20):
        assert requests.post(f"{url}/api/memory/inference", json=SIZES, timeout=5).status_code == 200
    assert time.monotonic() - began < 5
    for connection in held:
        connection.close()
    assert requests.post(f"{url}/api/memory/inference", json=SIZES, timeout=5).status_code == 200


def test_a_client_that_leaves_harms_nobody(service):
    _, url = service
    body = json.dumps({"calculation_type": "inference", "configurations": [SIZES] * 300}).encode()
    head = b"POST /api/memory/compare HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(5):
        connect(url, head + body).close()
    assert requests.post(f"{url}/api/memory/inference", json=SIZES, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**18 + b"\r\n\r\n", b"431"),
        (b"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /api/memory/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
    ],
)
def test_what_is_no_http_is_refused_in_json(service, message, status):
    _, url = service
    reply = whole(connect(url, message))
    head, body = reply.split(b"\r\n\r\n", 1)
    assert head.split()[1] == status and json.loads(body)["error"]


def test_a_body_sent_in_chunks_is_read(service):
    _, url = service
    reply = requests.post(f"{url}/api/memory/inference", data=iter([json.dumps(SIZES).encode()]), timeout=10)
    assert reply.status_code == 200
    reply = requests.post(f"{url}/api/memory/inference", data=iter([b" " * 2**19] * 3), timeout=10)
    assert reply.status_code == 413


def check(url):
    return subprocess.run([sys.executable, "test_api.py", url], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_checks_of_a_client_pass_against_a_running_server(service):
    _, url = service
    done = check(url)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"All checks passed at {url}", done.stdout


def test_the_checks_say_in_one_line_that_no_server_runs():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = check(url)
    assert done.returncode == 1 and done.stdout.count("\n") == 1 and done.stderr == ""
    assert done.stdout.startswith(f"No service answers at {url}") and "python server.py" in done.stdout
