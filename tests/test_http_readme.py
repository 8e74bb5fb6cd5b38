"""The examples of both READMEs are run: each curl is sent, each answer beside it is part of the real one."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from server import create_app

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
EXAMPLE = re.compile(r"```bash\ncurl http://127\.0\.0\.1:5000(\S+) -d '(.+?)'\n```\n+```json\n(.+?)\n```", re.DOTALL)


def examples(name):
    return [match.groups() for match in EXAMPLE.finditer((ROOT / name).read_text("utf-8"))]


def part_of(said, real):
    """Whether everything that is said is in the real answer; of a list, some rows in their order."""
    if isinstance(said, dict):
        return isinstance(real, dict) and all(name in real and part_of(each, real[name]) for name, each in said.items())
    if isinstance(said, list):
        rows = iter(real)
        return all(any(part_of(each, row) for row in rows) for each in said)
    return said == real


@pytest.mark.parametrize("name", READMES)
def test_each_example_gives_the_answer_beside_it(name):
    client = create_app().test_client()
    found = examples(name)
    assert len(found) == (ROOT / name).read_text("utf-8").count("curl ") >= 3
    for path, body, answer in found:
        reply = client.post(path, data=body)
        assert reply.status_code == 200
        assert part_of(json.loads(answer), reply.get_json()), (body, reply.get_json())


def test_both_languages_show_the_same_examples():
    assert examples(READMES[0]) == examples(READMES[1])


def test_every_endpoint_is_in_both():
    paths = set(create_app().test_client().get("/openapi.json").get_json()["paths"])
    for name in READMES:
        text = (ROOT / name).read_text("utf-8")
        assert not [path for path in paths if path not in text and path.rsplit("/", 1)[-1] not in text]


def test_every_setting_is_in_both():
    code = "".join(path.read_text("utf-8") for path in (ROOT / "server.py", *(ROOT / "routes").glob("*.py")))
    for setting in set(re.findall(r"LLM_MEMORY_\w+", code)):
        assert all(setting in (ROOT / name).read_text("utf-8") for name in READMES)


def test_requirements_name_hashes_and_no_address():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert all(re.match(r"[a-z0-9-]+==", line) for line in packages)
    assert sum("--hash=sha256:" in line for line in lines) >= len(packages)
    assert "://" not in "".join(lines)


def test_the_continuous_integration_is_a_script_that_runs():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", ".ci/run"], cwd=ROOT).returncode == 0
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text() and "uv run pytest" in (ROOT / "README.md").read_text()
