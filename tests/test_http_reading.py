"""What can be asked without a body: health, models, options, the description of the API."""

import json

import pytest

from calculator.library import library
from server import create_app


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def test_health_says_the_version_and_how_many_models(client):
    reply = client.get("/health").get_json()
    assert reply == {"status": "healthy", "version": "0.1.0", "models": len(library())}


def test_models_are_listed_by_family_then_size(client):
    reply = client.get("/api/models").get_json()
    order = [(each["family"].lower(), each["parameter_count"]) for each in reply["models"]]
    assert order == sorted(order) and reply["count"] == len(order) > 100


def test_models_are_filtered_by_family_and_words(client):
    found = client.get("/api/models?family=qwen3&q=8b").get_json()
    assert "Qwen3-8B" in [each["name"] for each in found["models"]]
    assert {each["family"] for each in found["models"]} == {"Qwen3"}
    assert client.get("/api/models?q=no-such-model").get_json() == {"models": [], "count": 0}


def test_an_unknown_filter_is_refused(client):
    reply = client.get("/api/models?famly=Qwen3")
    assert reply.status_code == 400 and "did you mean family?" in reply.get_json()["error"]


@pytest.mark.parametrize("name", ["Qwen3-8B", "qwen3-8b", "Qwen/Qwen3-8B", "qwen/QWEN3-8b"])
def test_a_model_is_found_by_name_or_hub_id_in_any_case(client, name):
    reply = client.get(f"/api/models/{name}").get_json()
    assert (reply["name"], reply["hub_id"], reply["parameter_count"]) == ("Qwen3-8B", "Qwen/Qwen3-8B", 8_190_735_360)
    assert sum(reply["parameters_by_component"].values()) == reply["parameter_count"]
    assert reply["kv_cache_bytes_per_token"] == 2 * 36 * 8 * 128 * 2  # a key and a value of 8 heads of 128 in 36 layers
    assert reply["config"]["num_hidden_layers"] == 36 and reply["source"]


@pytest.mark.parametrize(
    ("name", "cache", "state"),
    [
        ("Llama-3.1-8B", 131_072, 0),  # 2·32·8·128·2
        ("DeepSeek-V3", 70_272, 0),  # 61·(512+64)·2: one latent a layer
        ("gpt2", 36_864, 0),  # 2·12·768·2
    ],
)
def test_a_model_says_what_a_token_and_a_sequence_keep(client, name, cache, state):
    reply = client.get(f"/api/models/{name}").get_json()
    assert (reply["kv_cache_bytes_per_token"], reply["state_bytes_per_sequence"]) == (cache, state)
    assert sum(each["layers"] for each in reply["saved_for_backward"]) == reply["config"].get(
        "num_hidden_layers", reply["config"].get("n_layer")
    )


@pytest.mark.parametrize(
    "name",
    [
        "InvalidModel",
        "..",
        "../../etc/passwd",
        "..%2f..%2fserver.py",
        "%00",
        "a//b",
        "Qwen/",
        "x" * 5000,
        "%ff",
        "%F0%9F%98%80",
    ],
)
def test_an_unknown_model_is_404_whatever_its_name(client, name):
    reply = client.get(f"/api/models/{name}")
    assert reply.status_code == 404 and reply.get_json()["error"]
    assert len(reply.data) < 2000


def test_the_404_of_a_model_is_the_one_of_the_seed(client):
    reply = client.get("/api/models/InvalidModel").get_json()
    assert reply["error"] == "Model 'InvalidModel' not found" and isinstance(reply["suggestions"], list)
    assert "Qwen3-8B" in client.get("/api/models/Qwen3-8C").get_json()["suggestions"]


def test_options_hold_the_seeds_tables(client):
    reply = client.get("/api/config/options").get_json()
    assert reply["data_types"] == {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5}
    assert {name: reply["optimizers"][name] for name in ("AdamW", "Quantized AdamW", "SGD")} == {
        "AdamW": 8,
        "Quantized AdamW": 2,
        "SGD": 4,
    }
    assert {"name", "memory_gib", "source"} <= set(reply["gpus"][0])
    assert reply["limits"]["total_bytes"] == 2**53
    assert "q_proj" in reply["lora_target_modules"] and "llama" in reply["model_types"]
    assert reply["defaults"]["sequence_length"] == 2048 and reply["defaults"]["lora"]["rank"] == 16


@pytest.mark.parametrize(
    ("endpoint", "field", "table", "more"),
    [
        ("inference", "precision", "data_types", {}),
        ("inference", "attention", "attention", {}),
        ("training", "optimizer", "optimizers", {"optimizer_implementation": "for-loop"}),
        ("training", "gradient_checkpointing", "gradient_checkpointing", {}),
        ("training", "mixed_precision", "mixed_precisions", {}),
    ],
)
def test_every_option_that_is_listed_is_taken(client, endpoint, field, table, more):
    sizes = {"model_size": 0.1, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    for option in client.get("/api/config/options").get_json()[table]:
        reply = client.post(f"/api/memory/{endpoint}", data=json.dumps(sizes | {field: option} | more))
        assert reply.status_code == 200, (option, reply.get_json())


def test_the_api_describes_itself(client):
    api = client.get("/openapi.json").get_json()
    assert api["openapi"].startswith("3.1")
    assert {"/health", "/api/models", "/api/models/{name}", "/api/config/options"} <= set(api["paths"])
    request = api["components"]["schemas"]["InferenceRequest"]
    assert request["additionalProperties"] is False
    assert request["properties"]["batch_size"] == {
        "default": 1,
        "description": request["properties"]["batch_size"]["description"],
        "maximum": 1_000_000,
        "minimum": 1,
        "type": "integer",
    }
    assert "default" not in request["properties"]["precision"]  # absent, not null
    assert "null" not in json.dumps(request)


def test_every_reference_in_the_description_leads_somewhere(client):
    text = client.get("/openapi.json").get_data(as_text=True)
    known = set(json.loads(text)["components"]["schemas"])
    used = {part.split('"', 1)[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= known


def test_every_example_of_the_description_is_answered(client):
    for path, methods in client.get("/openapi.json").get_json()["paths"].items():
        body = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in body.get("examples", {}).items():
            reply = client.post(path, data=json.dumps(example["value"]))
            assert reply.status_code == 200, (path, name, reply.get_json())


def test_the_description_is_a_page_too(client):
    reply = client.get("/docs")
    text = reply.get_data(as_text=True)
    assert reply.status_code == 200 and "/api/memory/inference" in text and "quantization" in text
    assert text.count("<script") == text.count('src="/static/docs.js"') == 1 and "style=" not in text
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["..%2fserver.py", "../server.py", "%2e%2e/server.py", "nothing.js"])
def test_static_serves_nothing_but_the_page(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_the_page_asks_nobody_else(client):
    reply = client.get("/static/style.css")
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff" and reply.headers["Referrer-Policy"]
    reply.close()
