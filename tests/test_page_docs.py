"""The API as a page: every endpoint can be asked from it, and it loads nothing from elsewhere."""

import json
import re
import subprocess
import sys

import pytest
from conftest import serious


@pytest.fixture
def docs(visit):
    return lambda hash="", **more: visit(f"/docs{hash}", ready="form.try", **more)


def sent(page, place):
    page.locator(f"#{place} button.primary").click()
    page.wait_for_selector(f"#{place} .reply pre")
    return page.inner_text(f"#{place} .reply .verdict"), page.inner_text(f"#{place} .reply pre")


def test_a_documented_example_is_sent(docs):
    page = docs()
    line, text = sent(page, "post-api-memory-inference")
    assert line.startswith("200 ") and json.loads(text)["memory_bytes"]["model_weights"] == 1192099840
    page.get_by_role("button", name="Explicit sizes").click()
    assert json.loads(page.input_value("#post-api-memory-inference textarea"))["model_size"] == 7


def test_every_endpoint_answers_what_stands_in_its_form(docs, service):
    page = docs()
    places = page.eval_on_selector_all("section:has(form.try)", "all => all.map((each) => each.id)")
    assert len(places) == len(page.locator("form.try").all()) >= 9
    for place in places:
        line, text = sent(page, place)
        assert line.startswith("200 ") and json.loads(text), place


def test_a_refusal_is_shown_as_it_is(docs):
    page = docs()
    page.fill("#post-api-memory-training textarea", '{"model_name": "Qwen3-8B", "optimiser": "AdamW"}')
    line, text = sent(page, "post-api-memory-training")
    assert line.startswith("400 ") and "optimizer" in json.loads(text)["details"][0]["message"]


def test_parameters_go_into_the_address(docs):
    page = docs()
    page.fill("#get-api-models-name input", "Qwen/Qwen3-0.6B")
    assert json.loads(sent(page, "get-api-models-name")[1])["name"] == "Qwen3-0.6B"
    page.fill("#get-api-models input[name=q]", "qwen3 0.6b")
    assert json.loads(sent(page, "get-api-models")[1])["count"] >= 1


def test_its_curl_runs(docs):
    page = docs(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#post-api-memory-compare [data-copy]").click()
    page.get_by_role("button", name="Copied").wait_for()
    text = page.evaluate("navigator.clipboard.readText()")
    words = re.fullmatch(r"curl -s '(\S+)' -d '(.+)'", text, re.DOTALL)
    script = "import sys, requests; print(requests.post(sys.argv[1], data=sys.argv[2]).status_code)"
    done = subprocess.run([sys.executable, "-c", script, *words.groups()], capture_output=True, text=True, check=True)
    assert done.stdout == "200\n"


def test_a_link_opens_a_body(docs):
    page = docs("#TrainingRequest")
    assert page.locator("#TrainingRequest table").is_visible()
    page.locator("#post-api-memory-inference a", has_text="InferenceRequest").click()
    page.locator("#InferenceRequest table").wait_for()
    broken = page.eval_on_selector_all(
        'a[href^="#"]',
        "all => all.filter((each) => !document.getElementById(each.hash.slice(1))).map((each) => each.hash)",
    )
    assert broken == []


def test_a_narrow_screen_never_scrolls_sideways(docs):
    page = docs(width=390)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    sent(page, "get-api-config-options")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(docs, theme):
    page = docs(color_scheme=theme)
    sent(page, "post-api-memory-inference")
    page.evaluate("for (const each of [...document.querySelectorAll('details')].slice(0, 12)) each.open = true")
    assert serious(page) == []
