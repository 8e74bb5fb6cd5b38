"""axe-core finds nothing serious on the page: in both languages, both themes, every kind of question and answer."""

import json
from pathlib import Path

import pytest
from conftest import link

AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = pytest.mark.skipif(
    not AXE.exists(), reason="not examined with axe-core: npm install --no-save --no-package-lock axe-core"
)

VIEWS = {
    "inference": link(fields={"model_name": "Qwen3-8B", "gpu": "RTX-4090", "engine": "vllm", "batch_size": 16}),
    "training": link(
        "training", {"model_name": "Qwen3-8B", "gpu": "H100-80GB", "data_parallel": 4, "zero_stage": 2, "compile": True}
    ),
    "compare": link(
        fields={"model_name": "Qwen3-0.6B"},
        compare=json.dumps(
            [
                {"calculation_type": "inference", "body": {"model_name": "Qwen3-0.6B", "gpu": "RTX-4090"}},
                {"calculation_type": "training", "body": {"model_name": "Qwen3-0.6B", "method": "lora"}},
                {"calculation_type": "training", "body": {"model_name": "Qwen3-8B", "gpu": "RTX-4090"}},
            ]
        ),
    ),
    "faults": link(fields={"model_name": "Qwen3-8B", "batch_size": 0, "tensor_parallel": 0}),
    "nothing chosen": link(fields={}, source="config"),
}


def serious(page):
    """What axe finds, in a line each. It is put into the page by the debugger, past the policy of the page."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_nothing_serious(visit, name, language, theme):
    page = visit(f"{VIEWS[name]}&language={language}", ready="#question fieldset", color_scheme=theme)
    for section in ("#curve", "#grid", "#cards", "#compare"):
        page.evaluate("(each) => document.querySelector(each).scrollIntoView()", section)
        page.wait_for_timeout(250)
    page.wait_for_function("document.querySelector('[aria-busy=true]') === null")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert serious(page) == []


def test_axe_finds_nothing_serious_in_the_list_of_models(visit):
    page = visit()
    page.get_by_role("combobox", name="Model").click()
    page.keyboard.press("ArrowDown")
    assert serious(page) == []
