"""axe-core finds nothing serious on the page: in both languages, both themes, every kind of question and answer."""

import json

import pytest
from conftest import link, serious

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


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_nothing_serious(visit, name, language, theme):
    page = visit(f"{VIEWS[name]}&language={language}", ready="#question fieldset", color_scheme=theme)
    for section in ("#curve", "#grid", "#cards", "#compare"):
        page.evaluate("(each) => document.querySelector(each).scrollIntoView()", section)
        page.wait_for_timeout(250)
    page.wait_for_selector("[aria-busy=true]", state="detached")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert serious(page) == []


def test_axe_finds_nothing_serious_in_the_list_of_models(visit):
    page = visit()
    page.get_by_role("combobox", name="Model").click()
    page.keyboard.press("ArrowDown")
    assert serious(page) == []
