"""The page, driven in headless Chromium as a reader would: what it shows is what the service answers."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import requests
from conftest import link

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}


def shown(page):
    """Bytes of the figure at the top."""
    return int(page.get_attribute("#figure", "data-bytes"))


def becomes(page, answer):
    """Waits until the figure is the total of this answer."""
    assert answer.status_code == 200, answer.text
    figures = answer.json()["memory_bytes"]
    whole = figures.get("inference_memory", figures.get("training_memory"))
    page.wait_for_selector(f'#figure[data-bytes="{whole}"]')
    return answer.json()


def field(page, name):
    return page.locator(f'[data-field="{name}"]:not([hidden]) :is(input:not([type=range]), select, textarea)').first


def fault(page, name):
    return page.locator(f'[data-field="{name}"]:not([hidden]) .fault').first


def choose(page, name, value):
    """Picks an option by its value in a request."""
    field(page, name).select_option(json.dumps(value))


@pytest.fixture
def ask(service):
    return lambda body, kind="inference": requests.post(f"{service}/api/memory/{kind}", json=body, timeout=30)


# ------------------------------------------------------------------ choose, see


def test_the_first_sight_is_an_answer(visit, ask):
    page = visit()
    fields = page.evaluate("import('/static/state.js').then((all) => all.START)")
    becomes(page, ask(fields))
    assert page.title() == "LLM Memory Calculator"


def test_choosing_a_model_shows_the_figures_of_the_service(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    field(page, "model_name").fill("qwen3 0.6b")
    page.get_by_role("option", name=re.compile("^Qwen3-0.6B ")).first.click()
    answer = becomes(page, ask({"model_name": "Qwen3-0.6B"}))
    for part in answer["explanation"]:
        row = page.locator(f'#total tr[data-part="{part["part"]}"]')
        assert part["formula"] in row.inner_text()
        assert row.get_attribute("data-bytes") == str(part["bytes"])
    widths = page.eval_on_selector_all(
        "#total .bar .piece", "all => all.map((each) => each.getBoundingClientRect().width)"
    )
    sizes = [part["bytes"] for part in answer["explanation"] if part["bytes"]]
    assert len(widths) == len(sizes)
    assert max(widths) / sum(widths) == pytest.approx(max(sizes) / sum(sizes), abs=0.02)
    assert "Qwen3-0.6B" in page.url


def test_hovering_a_piece_lights_its_row(visit):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    page.locator("#total .bar .piece").first.hover()
    assert page.locator('#total tr[data-part="model_weights"].lit').count() == 1
    page.locator("#total .bar .piece").nth(1).focus()
    assert page.locator('#total tr[data-part="kv_cache"].lit').count() == 1


def test_the_model_is_chosen_by_keyboard_alone(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    box = page.get_by_role("combobox", name="Model")
    box.focus()
    page.keyboard.press("ArrowDown")
    assert box.get_attribute("aria-expanded") == "true"
    marked = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
    assert marked.get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert box.get_attribute("aria-expanded") == "false"
    assert box.input_value() == "Qwen3-8B"
    box.fill("Qwen3-1.7B")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    becomes(page, ask({"model_name": "Qwen3-1.7B"}))


def test_a_slider_and_its_figure_are_one(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    field(page, "sequence_length").fill("10000")
    becomes(page, ask({"model_name": "Qwen3-8B", "sequence_length": 10000}))
    slider = page.get_by_role("slider", name="Sequences at once")
    slider.focus()
    for _ in range(200):
        page.keyboard.press("ArrowRight")
    batch = int(field(page, "batch_size").input_value())
    assert batch > 1
    becomes(page, ask({"model_name": "Qwen3-8B", "sequence_length": 10000, "batch_size": batch}))


def test_a_pasted_config_is_computed(visit, ask):
    page = visit()
    page.get_by_role("button", name="config.json").click()
    field(page, "config").fill(json.dumps(LLAMA, indent=2))
    becomes(page, ask({"config": LLAMA, **kept(page)}))


def kept(page):
    """The fields that stay when the source of the model changes."""
    said = page.evaluate("import('/static/state.js').then((all) => all.START)")
    return {name: value for name, value in said.items() if name != "model_name"}


def test_sizes_are_computed(visit, ask):
    page = visit(link(fields={}, source="sizes"), ready=".note")
    sizes = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    for name, value in sizes.items():
        field(page, name).fill(str(value))
    becomes(page, ask(sizes))


def test_precision_and_quantization_are_one_choice(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B", "precision": "int8"}))
    becomes(page, ask({"model_name": "Qwen3-8B", "precision": "int8"}))
    field(page, "format").select_option("q:awq-int4")
    becomes(page, ask({"model_name": "Qwen3-8B", "quantization": "awq-int4"}))
    assert "precision" not in page.url


def test_bytes_are_one_click_away(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    whole = ask({"model_name": "Qwen3-8B"}).json()["memory_bytes"]["inference_memory"]
    page.get_by_role("button", name="bytes", exact=True).click()
    assert page.inner_text("#figure") == f"{whole:,} B"
    page.get_by_role("button", name="GB", exact=True).click()
    assert page.inner_text("#figure") == f"{whole / 1e9:.2f} GB"


def test_numbers_are_written_as_the_reader_writes_them(visit):
    page = visit(link(fields={"model_name": "Qwen3-8B"}), language="de-DE")
    assert "," in page.inner_text("#figure")
    assert "8.190.735.360" in page.inner_text("#question")


def near(page, section, ready):
    """Brings a section near the screen, where it asks, and waits for what it shows."""
    page.evaluate("(each) => document.getElementById(each).scrollIntoView()", section)
    page.wait_for_selector(f"#{section}:not([aria-busy]) {ready}")
    return page.locator(f"#{section}")


CARD = {"model_name": "Qwen3-8B", "sequence_length": 8192, "gpu": "RTX-4090"}


def test_the_curve_says_where_it_crosses_the_card(visit, ask):
    page = visit(link(fields=CARD))
    fit = ask(CARD).json()["fit"]
    picture = near(page, "curve", "svg").locator("svg")
    assert f"fits up to {fit['max_sequence_length']:,} tokens" in picture.get_attribute("aria-label")
    assert picture.locator(".card-limit").count() == picture.locator(".cross").count() == 1
    x = float(picture.locator("circle.here").first.get_attribute("cx"))
    assert x < float(picture.locator(".cross").get_attribute("x1"))  # it fits as it is
    picture.hover()
    assert re.search(r"[\d,]+ tokens: [\d.]+ GiB · (fits|does not fit)", page.inner_text("#curve .told"))


def test_the_grid_holds_the_answer_and_what_the_service_says_around_it(visit, ask):
    page = visit(link(fields=CARD))
    grid = near(page, "grid", "td.now")
    assert page.inner_text("#figure") in grid.locator("td.now").inner_text()
    heads = [each.inner_text() for each in grid.locator("thead th").all()]
    row = grid.locator("tbody tr").filter(has=page.get_by_role("rowheader", name="32,768", exact=True))
    for batch, cell in zip(heads, row.locator("td").all(), strict=True):
        reply = ask(CARD | {"sequence_length": 32768, "batch_size": int(batch)}).json()
        assert ("fits" in cell.get_attribute("class")) == reply["fit"]["fits"]


def test_a_gpu_of_the_table_is_taken_with_its_split(visit, ask):
    model = {"model_name": "Qwen3-8B", "sequence_length": 8192}
    page = visit(link(fields=CARD))
    rows = near(page, "cards", "tbody tr").locator("tbody tr")
    found = ask({"calculation_type": "inference", **model}, "fit").json()["gpus"]
    assert [each.get_attribute("data-gpu") for each in rows.all()] == [each["gpu"] for each in found]
    chosen = next(each for each in found if each["gpu_count"] == 2)
    rows.nth(found.index(chosen)).get_by_role("button").click()
    answer = becomes(page, ask(model | {"gpu": chosen["gpu"]} | chosen["split"]))
    assert answer["fit"]["fits"] and answer["fit"]["gpu_count"] == 2
    assert chosen["gpu"] in page.inner_text("#total .verdict.yes")


def test_what_would_help_is_taken_with_one_click(visit, ask):
    body = {"model_name": "Qwen3-32B", "gpu": "RTX-4090"}
    page = visit(link(fields=body))
    fit = ask(body).json()["fit"]
    assert not fit["fits"] and "Does not fit on RTX-4090" in page.inner_text("#total .verdict.no")
    items = page.locator("#total .suggestions li")
    assert items.count() == len(fit["suggestions"])
    index = next(place for place, each in enumerate(fit["suggestions"]) if each["fits"])
    items.nth(index).get_by_role("button").click()
    answer = becomes(page, ask(body | fit["suggestions"][index]["change"]))
    assert answer["fit"]["fits"]
    page.locator("#total .verdict.yes").wait_for()


def test_an_engine_brings_its_own_options(visit, ask):
    page = visit(link(fields=CARD))
    assert field(page, "engine_options.block_size").count() == 0
    choose(page, "engine", "vllm")
    becomes(page, ask(CARD | {"engine": "vllm"}))
    page.locator('#question details[data-group="serving"] summary').click()
    field(page, "engine_options.max_model_len").fill("8192")
    becomes(page, ask(CARD | {"engine": "vllm", "engine_options": {"max_model_len": 8192}}))
    assert "driver context" in page.inner_text('#total tr[data-part="runtime_overhead"]')
    field(page, "engine_options.gpu_memory_utilization").fill("2")
    line = fault(page, "engine_options.gpu_memory_utilization")
    line.wait_for()
    choose(page, "engine", "llama.cpp")
    becomes(page, ask(CARD | {"engine": "llama.cpp"}))  # options of the other engine are gone


# ------------------------------------------------------------------ training


def test_training_shows_its_own_fields(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-0.6B"}))
    assert field(page, "optimizer").count() == 0
    page.get_by_role("button", name="Training", exact=True).click()
    answer = becomes(page, ask({"model_name": "Qwen3-0.6B"}, "training"))
    assert field(page, "kv_cache_precision").count() == 0
    for name in answer["phases"]:
        assert page.locator(f'#phases [data-phase="{name}"]').count() == 1
    assert "peak" in page.inner_text(f'#phases [data-phase="{answer["peak"]}"]')
    choose(page, "optimizer", "SGD")
    choose(page, "gradient_checkpointing", "full")
    recipe = {"model_name": "Qwen3-0.6B", "optimizer": "SGD", "gradient_checkpointing": "full"}
    becomes(page, ask(recipe, "training"))
    assert field(page, "lora.rank").count() == 0
    choose(page, "method", "lora")
    field(page, "lora.rank").fill("64")
    becomes(page, ask(recipe | {"method": "lora", "lora": {"rank": 64}}, "training"))
    choose(page, "method", "full")
    becomes(page, ask(recipe, "training"))  # what no longer applies is not sent


def test_stages_of_zero_wait_for_replicas(visit, ask):
    page = visit(link("training", {"model_name": "Qwen3-0.6B"}))
    assert field(page, "zero_stage").count() == 0
    field(page, "data_parallel").fill("8")
    field(page, "data_parallel").blur()
    choose(page, "zero_stage", 3)
    answer = becomes(page, ask({"model_name": "Qwen3-0.6B", "data_parallel": 8, "zero_stage": 3}, "training"))
    page.wait_for_selector("#total .of-one")
    figures = page.locator("#total .of-one").get_attribute("data-bytes")
    assert figures == str(answer["per_gpu"]["memory_bytes"]["training_memory"])


# ------------------------------------------------------------------ what goes wrong


def test_a_broken_field_has_its_message_beside_it(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    before = shown(page)
    field(page, "batch_size").fill("0")
    line = fault(page, "batch_size")
    line.wait_for()
    said = ask({"model_name": "Qwen3-8B", "batch_size": 0}).json()["details"][0]["message"]
    assert line.inner_text() == said
    assert field(page, "batch_size").get_attribute("aria-invalid") == "true"
    assert line.get_attribute("id") in field(page, "batch_size").get_attribute("aria-describedby")
    assert shown(page) == before  # the last answer stays
    field(page, "batch_size").fill("2")
    becomes(page, ask({"model_name": "Qwen3-8B", "batch_size": 2}))
    assert not line.is_visible()


def test_an_unknown_model_is_named_with_the_nearest(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    field(page, "model_name").fill("Qwen3-9BB")
    page.keyboard.press("Tab")
    line = fault(page, "model_name")
    line.wait_for()
    assert "not found" in line.inner_text() and "marked field" in page.inner_text("#status")
    line.get_by_role("button", name="Qwen3-8B", exact=True).click()
    becomes(page, ask({"model_name": "Qwen3-8B"}))
    assert not fault(page, "model_name").is_visible()


def test_what_is_no_json_is_said_at_the_config(visit):
    page = visit(link(fields={}, source="config"), ready=".note")
    field(page, "config").fill('{"model_type": ')
    fault(page, "config").wait_for()
    assert "JSON" in fault(page, "config").inner_text()
    field(page, "config").fill(json.dumps(LLAMA))
    page.wait_for_selector("#figure")
    assert not fault(page, "config").is_visible()


def test_a_fault_inside_a_config_is_said_at_the_config(visit):
    page = visit(link(fields={}, source="config"), ready=".note")
    field(page, "config").fill(json.dumps(LLAMA | {"hidden_size": "wide"}))
    fault(page, "config").wait_for()
    assert "hidden_size" in fault(page, "config").inner_text()


def test_a_late_answer_never_overwrites_a_newer_one(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    held = []

    def hold(route):
        if route.request.post_data_json.get("batch_size") == 7 and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/memory/inference", hold)
    field(page, "batch_size").fill("7")
    page.wait_for_timeout(600)
    assert held
    field(page, "batch_size").fill("9")
    becomes(page, ask({"model_name": "Qwen3-8B", "batch_size": 9}))
    now = shown(page)
    held[0].continue_()
    page.wait_for_timeout(500)
    assert shown(page) == now


def test_typing_asks_once(visit):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/api/memory/inference") else None)
    field(page, "sequence_length").press_sequentially("0000", delay=20)
    page.wait_for_timeout(800)
    assert len(asked) == 1


def test_a_service_that_is_gone_is_said_in_words(visit):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    before = shown(page)
    page.route("**/api/memory/inference", lambda route: route.fulfill(status=502, body="<html>bad gateway</html>"))
    field(page, "batch_size").fill("3")
    page.wait_for_selector(".note.bad")
    assert "does not answer" in page.inner_text(".note.bad")
    assert shown(page) == before


# ------------------------------------------------------------------ share


def test_a_link_restores_everything(visit, ask):
    first = visit(link("training", {"model_name": "Qwen3-8B"}))
    choose(first, "optimizer", "Lion")
    field(first, "sequence_length").fill("4096")
    becomes(first, ask({"model_name": "Qwen3-8B", "optimizer": "Lion", "sequence_length": 4096}, "training"))
    first.get_by_role("button", name="Add to the comparison").click()
    first.wait_for_selector("#compare article")
    first.get_by_role("button", name="GB", exact=True).click()
    first.get_by_role("button", name="中文").click()
    first.locator("#theme").click()
    where = first.evaluate("location.hash")
    second = visit("/" + where, ready="#compare article")
    assert shown(second) == shown(first)
    for part in ("#question", "#total", "#phases", "#compare"):
        assert second.inner_text(part) == first.inner_text(part)
    assert field(second, "optimizer").input_value() == '"Lion"'
    assert second.evaluate("document.documentElement.lang") == "zh-CN"
    assert second.evaluate("document.documentElement.dataset.theme") == "dark"
    assert second.inner_text("#figure").endswith(" GB")


def test_a_link_carries_a_pasted_config(visit, ask):
    page = visit(link(fields={"batch_size": 3}, source="config", config=json.dumps(LLAMA)))
    becomes(page, ask({"config": LLAMA, "batch_size": 3}))
    assert json.loads(field(page, "config").input_value()) == LLAMA


@pytest.mark.parametrize(
    "where", ["/#", "/#x", "/#compare=%5B1%5D", "/#f.batch_size=%7B", "/#calculation_type=x&units=y"]
)
def test_a_torn_link_still_opens_the_page(visit, where):
    visit(where, ready="#question fieldset")


def test_skipping_to_the_answer_keeps_the_state(visit):
    page = visit(link(fields={"model_name": "Qwen3-0.6B"}))
    before = shown(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "answer"
    assert shown(page) == before and "Qwen3-0.6B" in page.url


@pytest.fixture
def copied(visit):
    def copy(where, name):
        page = visit(where, permissions=["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="Copied").wait_for()
        return page, page.evaluate("navigator.clipboard.readText()")

    return copy


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl to run the copied command with")
def test_the_copied_curl_runs(copied):
    config = json.dumps(LLAMA | {"note": 'it\'s "quoted"'})
    page, text = copied(link(fields={"batch_size": 2}, source="config", config=config), "Copy as curl")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["memory_bytes"]["inference_memory"] == shown(page)


def test_the_copied_python_runs(copied):
    fields = {"model_name": "Qwen3-8B", "method": "lora", "lora.dora": True}
    page, text = copied(link("training", fields), "Copy as Python")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert f"{shown(page) / 1e9:.2f} GB" in done.stdout


def test_the_copied_link_is_the_address(copied):
    page, text = copied(link(fields={"model_name": "Qwen3-0.6B"}), "Copy link")
    assert text.split("#")[0] == page.url.split("#")[0] and "Qwen3-0.6B" in text


def test_pictures_and_figures_are_saved(visit, tmp_path):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))

    def saved(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        return download.value.path().read_bytes()

    picture = ET.fromstring(saved("Picture (SVG)"))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg" and "Qwen3-8B" in "".join(picture.itertext())
    assert saved("Picture (PNG)").startswith(b"\x89PNG\r\n")
    answer = json.loads(saved("Figures (JSON)"))
    assert answer["memory_bytes"]["inference_memory"] == shown(page)
    lines = saved("Figures (CSV)").decode().splitlines()
    assert lines[0].startswith('"part","bytes"')
    assert f'"inference_memory","{shown(page)}",""' in lines


# ------------------------------------------------------------------ compare


def test_up_to_four_stand_side_by_side(visit, ask):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    add = page.get_by_role("button", name="Add to the comparison")
    for batch in (1, 2, 3, 4):
        field(page, "batch_size").fill(str(batch))
        becomes(page, ask({"model_name": "Qwen3-8B", "batch_size": batch}))
        add.click()
        page.wait_for_selector(f"#compare article:nth-of-type({batch})")
    assert add.is_disabled()
    totals = [ask({"model_name": "Qwen3-8B", "batch_size": batch}).json() for batch in (1, 2, 3, 4)]
    expected = [str(each["memory_bytes"]["inference_memory"]) for each in totals]
    figures = page.locator("#compare article .big")
    assert [each.get_attribute("data-bytes") for each in figures.all()] == expected
    page.get_by_role("button", name=re.compile("^Remove")).first.click()
    page.wait_for_selector("#compare article:nth-of-type(4)", state="detached")
    assert [each.get_attribute("data-bytes") for each in figures.all()] == expected[1:]
    page.get_by_role("button", name=re.compile("^Open")).first.click()
    becomes(page, ask({"model_name": "Qwen3-8B", "batch_size": 2}))


# ------------------------------------------------------------------ languages, themes, screens


def test_everything_is_said_in_both_languages(visit):
    page = visit()
    missing = page.evaluate(
        "import('/static/text.js').then(({ LANGUAGES: { en, zh } }) =>"
        " [...Object.keys(en).filter((key) => !(key in zh)), ...Object.keys(zh).filter((key) => !(key in en))])"
    )
    assert missing == []


def test_the_language_changes_at_once(visit):
    page = visit(link(fields={"model_name": "Qwen3-8B"}))
    before = shown(page)
    page.get_by_role("button", name="中文").click()
    assert page.inner_text("h1") == "大模型显存计算器"
    assert "权重" in page.inner_text("#total")
    assert shown(page) == before
    page.get_by_role("button", name="English").click()
    assert page.inner_text("h1") == "LLM Memory Calculator"


def test_a_chinese_reader_is_met_in_chinese(visit):
    page = visit(language="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.title() == "大模型显存计算器"


def test_both_themes(visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visit().evaluate(ground)
    page = visit(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.locator("#theme").click()
    chosen = page.evaluate("document.documentElement.dataset.theme")
    assert page.evaluate(ground) == {"light": light, "dark": dark}[chosen]


NARROW = {
    "bundled": link(fields={"model_name": "Qwen3-8B"}),
    "long name": link(fields={"model_name": "Llama-3.1-Nemotron-Ultra-253B-v1-with-a-name-that-has-no-end"}),
    "config": link(fields={}, source="config", config=json.dumps(LLAMA)),
    "sizes": link(fields={}, source="sizes"),
    "gpu": link(fields={"model_name": "Qwen3-8B", "gpu": "RTX-PRO-6000-Blackwell", "engine": "vllm"}),
    "bytes": link(fields={"model_name": "Qwen3-235B-A22B", "tensor_parallel": 4}, units="bytes"),
    "training": link("training", {"model_name": "Qwen3-8B", "data_parallel": 8, "zero_stage": 3}, units="bytes"),
    "lora": link("training", {"model_name": "Qwen3-8B", "method": "qlora", "lora.dora": True}),
    "fault": link(fields={"model_name": "Qwen3-8B", "batch_size": 0}),
    "compare": link(
        fields={"model_name": "Qwen3-8B"},
        compare=json.dumps([{"calculation_type": "inference", "body": {"model_name": "Qwen3-8B"}}] * 4),
    ),
}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_screen_never_scrolls_sideways(visit, name, language):
    page = visit(f"{NARROW[name]}&language={language}", width=390, ready="#question fieldset")
    page.wait_for_timeout(400)
    for section in ("#curve", "#grid", "#cards"):
        page.evaluate("(each) => document.querySelector(each).scrollIntoView()", section)
        page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_answer_does_not_wait_for_the_list_of_models(visit):
    page = visit("/docs", ready=None)
    held = []
    page.route("**/api/models", lambda route: held.append(route))
    page.goto(page.url.replace("/docs", link(fields={"model_name": "Qwen3-8B"})))
    page.wait_for_selector("#figure")
    page.get_by_role("combobox", name="Model").click()
    assert page.inner_text("[role=listbox]") == "Asking the service…"
    held[0].continue_()
    page.get_by_role("option", name=re.compile("^Qwen3-8B ")).wait_for()
