"""Sweeps and comparisons as CSV: the same figures, one header line that names the units."""

import csv
import io
import json

import pytest

from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def post(client, endpoint, body, accept="text/csv"):
    return client.post(f"/api/memory/{endpoint}", data=json.dumps(body), headers={"Accept": accept})


def rows(reply):
    assert reply.content_type.startswith("text/csv")
    return list(csv.DictReader(io.StringIO(reply.get_data(as_text=True))))


def test_a_sweep_has_a_line_a_cell(client):
    body = SIZES | {"calculation_type": "inference", "over": ["sequence_length", "batch_size"]}
    body["values"] = [[100, 200], [1, 2]]
    table = rows(post(client, "sweep", body))
    plain = post(client, "sweep", body, "application/json").get_json()["rows"]
    assert len(table) == 4
    for line, row in zip(table, plain, strict=True):
        assert [line["sequence_length (tokens)"], line["batch_size (sequences)"]] == [
            str(each) for each in row["values"]
        ]
        assert line["inference_memory (bytes)"] == str(row["memory_bytes"]["inference_memory"])
        assert line["fits"] == "" and line["error"] == ""


def test_a_comparison_has_a_line_a_configuration(client):
    body = {"calculation_type": "training", "configurations": [SIZES, {"model_name": "Qwen3-8B", "method": "lora"}]}
    first, second = rows(post(client, "compare", body))
    plain = post(client, "compare", body, "*/*").get_json()
    assert first["training_memory (bytes)"] == str(plain["results"][0]["memory_bytes"]["training_memory"])
    assert (first["model"], second["model"], first["adapter_memory (bytes)"]) == ("", "Qwen3-8B", "")
    assert float(second["relative_to_first"]) == plain["summary"]["relative_to_first"][1]


@pytest.mark.parametrize(
    "accept", ["application/json", "*/*", "text/html, application/json;q=0.9", "application/json, text/csv;q=0.5"]
)
def test_json_is_the_answer_to_everybody_else(client, accept):
    body = SIZES | {"calculation_type": "inference", "over": "batch_size", "values": [1]}
    assert post(client, "sweep", body, accept).is_json


def test_faults_are_json_whatever_is_asked_for(client):
    reply = post(client, "sweep", SIZES | {"calculation_type": "inference"})
    assert reply.status_code == 400 and reply.get_json()["details"]
