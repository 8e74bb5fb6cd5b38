"""From start to first answer, and what the process then holds, beside a bare Flask app under waitress.

    uv run python benchmarks/startup.py [--rounds 7]

The two are started in turn, as processes of their own, and asked until they answer; figures are wall time and, since
other work on the machine moves that, the CPU time the process has used by then. Memory is what is resident after every
bundled model has been asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import sys
from flask import Flask
from waitress import serve
app = Flask("bare")
app.get("/health")(lambda: {"status": "healthy"})
serve(app, host="127.0.0.1", port=int(sys.argv[1]))
"""
OURS = [sys.executable, "server.py", "--port"]
THEIRS = [sys.executable, "-c", BARE]
MIB = 2**20


def ask(port: int, path: str, body: bytes | None = None) -> bytes:
    """One request; its reply's body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST" if body else "GET", path, body)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    if reply.status != 200:
        sys.exit(f"{path}: {reply.status} {data[:300].decode()}")
    return data


def spent(process: int) -> float:
    """CPU seconds of a process so far: the 14th and 15th field of its line in /proc."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def started(command: list[str], whole: bool = False) -> tuple[float, float, int]:
    """Seconds to the first answer, CPU seconds by then, and bytes resident; `whole` asks for every model first."""
    port = free_port()
    began = time.perf_counter()
    with subprocess.Popen([*command, str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        try:
            while True:
                try:
                    ask(port, "/health")
                    break
                except OSError:
                    if one.poll() is not None:
                        sys.exit(f"{command} ended with {one.returncode}")
                    time.sleep(0.005)
            seconds, cpu = time.perf_counter() - began, spent(one.pid)
            if whole:
                for each in json.loads(ask(port, "/api/models"))["models"]:
                    for kind in ("inference", "training"):
                        ask(port, f"/api/memory/{kind}", json.dumps({"model_name": each["name"]}).encode())
            return seconds, cpu, resident(one.pid)
        finally:
            one.kill()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Start to first answer beside a bare Flask app.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    started(THEIRS), started(OURS)  # compiles, and fills the disk's cache
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(started(THEIRS))
        ours.append(started(OURS))
    for place, name in enumerate(("wall s", "CPU s")):
        bare, full = (statistics.median(each[place] for each in runs) for runs in (theirs, ours))
        ratios = sorted(a[place] / b[place] for a, b in zip(ours, theirs, strict=True))
        print(
            f"start to first answer, {name:6}  {full:6.2f}  bare {bare:5.2f}  "
            f"{statistics.median(ratios):.2f} times  ({ratios[0]:.2f} … {ratios[-1]:.2f})"
        )
    print(f"resident, started: {ours[-1][2] / MIB:.0f} MiB, bare {theirs[-1][2] / MIB:.0f} MiB")
    print(f"resident, every model asked for: {started(OURS, whole=True)[2] / MIB:.0f} MiB (at most 150)")


if __name__ == "__main__":
    main()
