"""The script that prints predicted beside measured says what a row's figures are, and why a row has none."""

import io
import json

import pytest

from validation.compare import Figure, compare, main, percentile

REPLY = {
    "memory_bytes": {"inference_memory": 1100, "runtime_overhead": 100, "model_weights": 900},
    "phases": {"prefill": 1100, "decode": 1050},
    "peak": "prefill",
}


def ask(endpoint, request):
    if request.get("model_name") == "nobody":
        return 404, {"error": "Model 'nobody' not found", "suggestions": []}
    if "precison" in request:
        return 400, {"error": "…", "details": [{"field": "precison", "message": "unknown field"}]}
    return 200, REPLY


def case(expect, **more):
    return {"id": "a", "family": "f", "endpoint": "/x", "request": {}, "expect": expect, **more}


def figures(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = io.StringIO()
    return compare(path, ask, out), out.getvalue()


@pytest.mark.parametrize(
    ("row", "predicted", "error"),
    [
        (case({"memory_bytes.model_weights": 1000}), 900, -0.1),
        (case({"memory_bytes.inference_memory": 1000}), 1100, 0.1),
        # what torch allocated holds nothing of the driver's context
        (case({"memory_bytes.inference_memory": 1000}, metric="torch allocated"), 1000, 0.0),
        (case({"phases.decode": 950}, metric="torch allocated"), 950, 0.0),
        (case({}, expect_peak="prefill"), "prefill", 0.0),
        (case({}, expect_peak="decode"), "prefill", 1.0),
    ],
    ids=["path", "total", "torch allocated", "phase torch allocated", "right peak", "wrong peak"],
)
def test_a_case_is_looked_up_by_path(tmp_path, row, predicted, error):
    (found,), _ = figures(tmp_path, row)
    assert (found.predicted, found.error, found.refused) == (predicted, pytest.approx(error), None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (case({"memory_bytes.kv_cache": 1}), "the reply has no memory_bytes.kv_cache"),
        (case({"phases.decode": 1}, request={"model_name": "nobody"}), "404 Model 'nobody' not found"),
        (case({"phases.decode": 1}, request={"precison": 1}), "400 precison: unknown field"),
    ],
)
def test_a_refusal_says_why(tmp_path, row, reason):
    (found,), printed = figures(tmp_path, row)
    assert (found.predicted, found.error, found.refused) == (None, None, reason)
    assert f"refused 1: {reason}" in printed


def test_skipped_rows_are_counted_and_not_asked(tmp_path):
    found, printed = figures(tmp_path, {"id": "a", "family": "f", "skip": "no shape"})
    assert found == [] and "skipped 1: no shape" in printed


def test_a_model_is_counted_from_its_config(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 10,
        "tie_word_embeddings": True,
    }
    # embedding 10·8; q, k, v, o 4·8·8; gate, up, down 3·8·16; three norms of 8
    exact = 80 + 256 + 384 + 24
    row = {
        "hub_id": "a/b",
        "config": config,
        "parameters": exact,
        "active_parameters": exact,
        "components": {"norm": 20},
    }
    found, _ = figures(tmp_path, row)
    assert [(each.quantity, each.predicted, each.error) for each in found] == [
        ("parameters", exact, 0.0),
        ("active_parameters", exact, 0.0),
        ("components.norm", 24, 0.2),
    ]


def test_an_unknown_family_is_refused_in_every_quantity(tmp_path):
    row = {
        "hub_id": "a/b",
        "config": {"model_type": "llamma"},
        "parameters": 1,
        "active_parameters": 1,
        "components": {},
    }
    found, _ = figures(tmp_path, row)
    assert len(found) == 2 and all("unknown model_type 'llamma'" in (each.refused or "") for each in found)


def test_a_prediction_never_reads_what_is_expected(tmp_path):
    one, _ = figures(tmp_path, case({"phases.decode": 1}))
    two, _ = figures(tmp_path, case({"phases.decode": 10**9}))
    assert one[0].predicted == two[0].predicted == 1050


def test_json_has_one_line_a_row_and_quantity(tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    config = {"model_type": "none"}
    rows.write_text(json.dumps({"hub_id": "a/b", "config": config, "parameters": 5, "active_parameters": 6}))
    assert main([str(rows), "--json", str(out)], io.StringIO()) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["quantity"], line["measured"]) for line in lines] == [
        ("a/b", "parameters", 5),
        ("a/b", "active_parameters", 6),
    ]
    assert set(lines[0]) == set(Figure.__slots__) == {"id", "quantity", "measured", "predicted", "error", "refused"}


def test_the_95th_percentile_lies_between_neighbours():
    assert percentile([float(each) for each in range(101)], 0.95) == 95.0
