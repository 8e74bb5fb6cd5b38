"""The script that measures on a GPU: what it takes, and the rows it writes. The runs themselves need a card."""

import io
import json
import sys
from pathlib import Path

import pytest

from server import create_app

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "validation"))

import measure

FIGURES = {
    "gpu": "NVIDIA A100-SXM4-80GB",
    "gpu_memory": 80 * 2**30,
    "driver": 21 * 2**30,
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "allocated": 19 * 2**30,
    "reserved": 20 * 2**30,
}


def case(word):
    return measure.chosen([word])[0]


def test_every_case_of_the_plan_is_a_request_the_service_answers():
    client = create_app().test_client()
    names = set()
    for each in measure.plan():
        reply = client.post(each.endpoint, json=each.request)
        assert reply.status_code == 200, (each.name, reply.json)
        names.add(each.name)
    assert len(names) == len(list(measure.plan()))


def test_a_run_becomes_three_rows():
    made = measure.rows(case("llama-3.1-8b-b2-s2048-lora-checkpointed"), FIGURES)
    assert [row["metric"] for row in made] == ["torch allocated", "torch reserved", "driver"]
    assert made[0]["expect"] == {"memory_bytes.training_memory": 19 * 2**30}
    assert made[2]["expect"] == {"fit.used_gib": 21.0} and made[2]["request"]["gpu_memory_gib"] == 80
    assert all(row["source"].endswith("torch 2.13.0, transformers 5.23.0, NVIDIA A100-SXM4-80GB") for row in made)


def test_inference_has_a_figure_for_each_phase():
    made = measure.rows(case("inference"), {**FIGURES, "prefill": 5, "decode": 4})
    assert made[0]["expect"] == {
        "memory_bytes.inference_memory": 19 * 2**30,
        "phases.prefill": 5,
        "phases.decode": 4,
    }


def test_a_new_run_replaces_its_own_rows_alone(tmp_path):
    path = tmp_path / "measured.jsonl"
    path.write_text(json.dumps({"id": "published", "expect": {}}) + "\n")
    for allocated in (1, 2):
        out = io.StringIO()
        word = "qwen3-0.6b-b8-s2048-pure-checkpointed"
        assert measure.main([word, "--out", str(path)], lambda _, a=allocated: {**FIGURES, "allocated": a}, out) == 0
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in found] == ["published", *(f"{word}#{m}" for m in ("allocated", "reserved", "driver"))]
    assert found[1]["expect"] == {"memory_bytes.training_memory": 2}


def test_a_case_that_does_not_fit_leaves_no_row(tmp_path):
    def full(_):
        raise RuntimeError("CUDA out of memory")

    out = io.StringIO()
    assert measure.main(["qwen3-14b-b1-s2048-lora", "--out", str(tmp_path / "none.jsonl")], full, out) == 1
    assert "CUDA out of memory" in out.getvalue() and not (tmp_path / "none.jsonl").exists()


def test_without_torch_it_says_how_to_run_it(tmp_path):
    out = io.StringIO()
    assert measure.main(["qwen3-0.6b-b8-s2048-pure", "--out", str(tmp_path / "none.jsonl")], out=out) == 2
    assert "uv run --with torch" in out.getvalue()


def test_words_choose_cases():
    out = io.StringIO()
    assert measure.main(["qlora", "--list"], out=out) == 0
    assert len(out.getvalue().split()) == 4
    with pytest.raises(SystemExit, match="no case is called nothing"):
        measure.main(["nothing"])
