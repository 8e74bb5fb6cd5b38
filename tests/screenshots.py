"""Makes docs/page.png, the picture in the README: `uv run tests/screenshots.py [OUT] [STATE]`.

STATE is the part of an address after #, as "Copy link" gives it. The picture is one window of the page in the light
theme, wide enough for both columns. Needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import BROWSERS, FLAGS, link
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
WINDOW = {"width": 1360, "height": 1130}
SHOWN = {"model_name": "Qwen3-8B", "sequence_length": 8192, "batch_size": 4, "gpu": "RTX-4090"}


def picture(where: str, out: Path) -> None:
    """One window of the page in this state."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit("no Chromium on this machine (Debian: apt-get install chromium)")
    command = [sys.executable, "server.py", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport=WINDOW, color_scheme="light", locale="en-US")
        page.goto(address + where)
        page.wait_for_selector("#figure")
        page.wait_for_selector("#curve svg")
        page.wait_for_timeout(500)
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=out)
        browser.close()
        server.terminate()
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    said = sys.argv[1:]
    picture(f"/#{said[1]}" if said[1:] else link(fields=SHOWN), Path(said[0]) if said else ROOT / "docs" / "page.png")
