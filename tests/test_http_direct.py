"""The short way from bytes to answer says what Flask's way says, to the letter."""

import json

import pytest

from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
BODIES = {
    "answered": json.dumps(SIZES),
    "integral": json.dumps(SIZES | {"batch_size": 2.0}),
    "unknown model": '{"model_name": "InvalidModel"}',
    "faulty": '{"model_name": 1}',
    "no json": "{",
    "empty": "",
    "uncalculable": json.dumps(SIZES | {"tensor_parallel": 3}),
    "too large": json.dumps(SIZES) + " " * 2**20,
}


@pytest.mark.parametrize("endpoint", ["/api/memory/inference", "/api/memory/training"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_both_ways_give_the_same_reply(endpoint, body):
    short, long = create_app(), create_app()
    assert endpoint in short.direct
    long.direct.clear()
    same = {"X-Request-ID": "same"}
    one, other = (app.test_client().post(endpoint, data=body, headers=same) for app in (short, long))
    assert (one.status_code, one.data) == (other.status_code, other.data)
    assert dict(one.headers) == dict(other.headers)


def test_where_origins_are_named_each_is_looked_at(monkeypatch):
    monkeypatch.setenv("LLM_MEMORY_CORS_ORIGINS", "https://a.example")
    client = create_app().test_client()
    for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        reply = client.post("/api/memory/inference", data=json.dumps(SIZES), headers={"Origin": origin})
        assert reply.status_code == 200 and reply.headers.get("Access-Control-Allow-Origin") == allowed


def test_a_fault_of_our_own_leaves_through_the_error_handler(monkeypatch, caplog):
    app = create_app()
    monkeypatch.setitem(app.direct, "/api/memory/inference", lambda raw: {"a": 2**80})
    monkeypatch.setitem(app.view_functions, "memory.infer", lambda: {"a": 2**80})
    reply = app.test_client().post("/api/memory/inference", data="{}")
    assert (reply.status_code, reply.get_json()) == (500, {"error": "Internal server error"})
