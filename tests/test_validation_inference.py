"""The README's table of errors is what the carried rows give: as many figures, and no larger a median."""

import io
import re
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

from validation.compare import client, compare

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"^\| ([^|]+) \| (\d+) \| ([\d.]+ %) \|$", re.MULTILINE)


def group(each):
    """The line of the table that a figure belongs to, None for one that is not in it."""
    engine = each.id.split("-")[0]
    if each.quantity in ("memory_bytes.model_weights", "engine_report.model_size_gib"):
        return "stated weights"
    if each.quantity == "engine_report.model_weights_gib":
        return "weights of engines"
    if each.quantity.endswith(("memory_bytes.kv_cache", "kv_cache_gib", "kv_cache_mib")):
        return "caches"
    if each.quantity == "engine_report.cuda_graph_gib":
        return "graphs"
    if engine == "transformers":
        return "processes"
    if each.quantity.startswith(("phases.", "memory_bytes.")):
        return "peaks"
    return None


@pytest.fixture(scope="module")
def errors():
    found = defaultdict(list)
    for each in compare(ROOT / "validation" / "measured_inference.jsonl", client(), io.StringIO()):
        assert each.refused is None, each
        if group(each) is not None:
            found[group(each)].append(abs(each.error))
    return found


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_table_of_the_readme_holds(errors, name):
    lines = TABLE.findall((ROOT / name).read_text("utf-8"))
    order = ("stated weights", "weights of engines", "caches", "processes", "peaks", "graphs")
    said = [(int(count), float(bound.removesuffix(" %")) / 100) for _, count, bound in lines]
    assert [count for count, _ in said] == [len(errors[each]) for each in order]
    for each, (_, bound) in zip(order, said, strict=True):
        assert median(errors[each]) <= bound, each


def test_every_row_names_its_source():
    lines = (ROOT / "validation" / "measured_inference.jsonl").read_text("utf-8").splitlines()
    assert all(re.search(r'"source":"[^"]{5,}"', line) for line in lines)
