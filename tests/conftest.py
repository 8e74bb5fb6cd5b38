"""What tests of the page share: the service as a process of its own, Chromium, and a page that is watched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
def service():
    """The address of a server that runs for the whole session."""
    command = [sys.executable, "server.py", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().split()[2]
        process.kill()


@pytest.fixture(scope="session")
def chromium():
    """A headless browser, or the reason why there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is not driven: playwright is missing")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("the page is not driven: no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def link(calculation_type="inference", fields=None, **rest):
    """The address of a state of the page."""
    said = {"calculation_type": calculation_type}
    said |= {f"f.{name}": json.dumps(value) for name, value in (fields or {}).items()}
    return "/#" + urlencode(said | rest)


def serious(page):
    """What axe finds, in a line each. It is put into the page by the debugger, past the policy of the page."""
    if not AXE.exists():
        pytest.skip("not examined with axe-core: npm install --no-save --no-package-lock axe-core")
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.fixture
def visit(chromium, service):
    """Opens pages; at the end none of them may have logged an error or asked anyone but the service."""
    contexts, errors, strays = [], [], []

    def console(message):
        refused = message.text.startswith("Failed to load resource") and "/api/" in message.location["url"]
        if message.type in ("error", "warning") and not refused:  # a 400 that the page shows is logged by the browser
            errors.append(message.text)

    def ask(request):
        if request.url.startswith(("http", "ws")) and urlsplit(request.url).netloc != urlsplit(service).netloc:
            strays.append(request.url)

    def opened(where="/", width=1280, ready="#figure", language="en-US", **more):
        context = chromium.new_context(viewport={"width": width, "height": 900}, locale=language, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", console)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", ask)
        page.goto(service + where)
        if ready:
            page.wait_for_selector(ready)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert strays == []
