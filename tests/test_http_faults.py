"""Whatever is wrong with a body, the reply is a 4xx that names every fault and what is allowed there."""

import json

import pytest

from server import create_app

SIZES = {"model_size": 7, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
INFERENCE, TRAINING, COMPARE = (f"/api/memory/{kind}" for kind in ("inference", "training", "compare"))


@pytest.fixture(scope="module")
def client():
    return create_app().test_client()


def post(client, endpoint, body):
    reply = client.post(endpoint, data=body if isinstance(body, bytes | str) else json.dumps(body))
    return reply.status_code, reply.get_json()


def fields(reply):
    return {each["field"]: each["message"] for each in reply["details"]}


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"precison": "int8"}, "precison", "unknown field; did you mean precision?"),
        ({"precision": "float17"}, "precision", "did you mean float16?"),
        ({"precision": "FLOAT16"}, "precision", "did you mean float16?"),
        ({"precision": None}, "precision", "must be one of float32, float16, bfloat16, int8, int4, not null"),
        ({"batch_size": 0}, "batch_size", "must be an integer from 1 to 1,000,000, not 0"),
        ({"batch_size": True}, "batch_size", "must be an integer from 1 to 1,000,000, not true"),
        ({"batch_size": "2"}, "batch_size", "must be an integer from 1 to 1,000,000, not '2'"),
        ({"batch_size": 1.5}, "batch_size", "not 1.5"),
        ({"batch_size": [1]}, "batch_size", "not a list of 1"),
        ({"sequence_length": 10**9 + 1}, "sequence_length", "must be an integer from 1 to 1,000,000,000"),
        ({"data_parallel_attention": 1}, "data_parallel_attention", "must be true or false, not 1"),
        ({"hidden_size": 10**6 + 1}, "hidden_size", "from 1 to 1,000,000"),
        ({"model_size": -1}, "model_size", "not -1"),
        ({"prompt_length": 4096}, "prompt_length", "must be at most sequence_length, 2,048"),
        ({"quantization": "fp8", "precision": "int8"}, "precision", "stands beside quantization"),
        ({"engine_options": {}}, "engine_options", "only goes beside engine"),
        ({"engine": "transformer"}, "engine", "did you mean transformers?"),
        ({"engine": "transformers", "engine_version": "new"}, "engine_version", "is a number such as"),
        ({"engine": "transformers", "engine_options": {"x": 1}}, "engine_options.x", "is no option of transformers"),
        (
            {"quantization": "gptq-int4", "quantization_options": {"group": 1}},
            "quantization_options.group",
            "group_size",
        ),
        (
            {"quantization": "gptq-int4", "quantization_options": {"group_size": [1]}},
            "quantization_options.group_size",
            "must be a string, a number, true or false, not a list of 1",
        ),
        (
            {"quantization": "gptq-int4", "quantization_options": {"group_size": 0}},
            "quantization_options.group_size",
            "is a positive integer",
        ),
        ({"quantization_options": {}}, "quantization_options", "only goes beside quantization"),
        ({"gpu": "H100-80GB", "gpu_memory_gib": 80}, "gpu_memory_gib", "stands beside gpu"),
        ({"num_key_value_heads": 5}, "num_key_value_heads", "must divide num_attention_heads"),
        ({"num_attention_heads": 31}, "hidden_size", "no multiple of 31"),
        ({"tensor_parallel": 1000, "data_parallel": 1000}, "data_parallel", "1,000,000 GPUs; the limit is 100,000"),
        ({"model_name": "Qwen3-8B"}, "model_size", "stands beside model_name"),
        ({"config": {}}, "model_size", "stands beside config"),
    ],
)
def test_a_fault_is_named_with_what_is_allowed(client, more, field, message):
    status, reply = post(client, INFERENCE, SIZES | more)
    assert status == 400
    assert list(fields(reply)) == [field]
    assert message in fields(reply)[field]
    assert reply["error"] == f"{field}: {fields(reply)[field]}"


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"method": "lora", "trainable_parameters": 50}, "trainable_parameters", "follows from the adapters"),
        ({"trainable_parameters": 0}, "trainable_parameters", "must be a number above 0 and at most 100, not 0"),
        ({"trainable_parameters": 100.5}, "trainable_parameters", "not 100.5"),
        ({"lora": {}}, "lora", "only goes beside method lora or qlora"),
        ({"method": "lora", "lora": {"rnk": 1}}, "lora.rnk", "unknown field; did you mean rank?"),
        ({"method": "lora", "lora": {"target_modules": []}}, "lora.target_modules", "'all-linear' or a list of 1 to"),
        ({"method": "lora", "lora": {"target_modules": [1]}}, "lora.target_modules", "'all-linear' or a list of 1 to"),
        ({"method": "lora", "quantization": "fp8"}, "quantization", "only goes beside method qlora"),
        ({"optimizer": "AdamWW"}, "optimizer", "did you mean AdamW?"),
        ({"optimizer": "adamw"}, "optimizer", "did you mean AdamW?"),
        ({"precision": "int8"}, "precision", "must be one of float32, float16, bfloat16, not 'int8'"),
        ({"zero_stage": 4}, "zero_stage", "must be an integer from 0 to 3, not 4"),
        ({"prompt_length": 1}, "prompt_length", "unknown field"),
    ],
)
def test_a_training_fault_is_named_with_what_is_allowed(client, more, field, message):
    status, reply = post(client, TRAINING, SIZES | more)
    assert (status, list(fields(reply))) == (400, [field])
    assert message in fields(reply)[field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model_name"),
        ({"hidden_size": 4096}, "model_size"),
        ({"config": {"model_type": "llama"}, "hidden_size": 64}, "hidden_size"),
        ({"model_size": 7, "hidden_size": 64, "num_hidden_layers": 1}, "num_attention_heads"),
    ],
)
def test_exactly_one_model_is_chosen(client, body, field):
    status, reply = post(client, INFERENCE, body)
    assert (status, list(fields(reply))) == (400, [field])


def test_every_fault_of_a_body_is_in_one_reply(client):
    body = (
        '{"model_size": true, "hidden_size": 64.5, "batch_size": NaN, "precision": "int9", "sequense_length": 1,'
        ' "gpu": "A10", "gpu_memory_gib": 1e999, "logits": "all", "logits": "last", "engine_version": "1"}'
    )
    status, reply = post(client, INFERENCE, body)
    assert status == 400
    assert set(fields(reply)) == {
        "model_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "batch_size",
        "precision",
        "sequense_length",
        "gpu_memory_gib",
        "logits",
        "engine_version",
    }
    assert fields(reply)["logits"] == "stands more than once"
    assert "11 faults in all" in reply["error"]


def test_faults_of_configurations_have_their_path(client):
    configurations = [SIZES, SIZES | {"precision": "int9"}, SIZES | {"prompt_length": 9999, "batchsize": 1}, 7]
    _, reply = post(client, COMPARE, {"calculation_type": "inference", "configurations": configurations})
    assert set(fields(reply)) == {
        "configurations[1].precision",
        "configurations[2].prompt_length",
        "configurations[2].batchsize",
        "configurations[3]",
    }


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, {"calculation_type", "configurations"}),
        ({"calculation_type": "infer", "configurations": []}, {"calculation_type", "configurations"}),
        ({"calculation_type": 1, "configurations": [SIZES], "x": 1}, {"calculation_type", "x"}),
        ({"calculation_type": "training", "configurations": [SIZES] * 1001}, {"configurations"}),
        ({"calculation_type": "training", "configurations": SIZES}, {"configurations"}),
    ],
)
def test_a_comparison_says_what_it_compares(client, body, found):
    status, reply = post(client, COMPARE, body)
    assert (status, set(fields(reply))) == (400, found)


def test_an_integral_float_is_an_integer(client):
    status, reply = post(client, INFERENCE, SIZES | {"batch_size": 2.0, "sequence_length": 2e3})
    assert status == 200
    assert reply["parameters"]["batch_size"] == 2 and reply["parameters"]["sequence_length"] == 2000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object, not a list of 0"),
        (b"null", "must be a JSON object, not null"),
        (b'"model_name"', "must be a JSON object"),
        (b'{"model_size": 7} {}', "not valid JSON: trailing"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b'{"model_name": "\xff"}', "not valid JSON"),
        (b'{"model_name": "\\ud800"}', "not valid JSON"),
        (b'{"config": ' + b"[" * 100_000, "not valid JSON: recursion limit"),
        (b'{"config": ' + b'{"a":' * 100_000, "not valid JSON: recursion limit"),
        (b"model_size=7&hidden_size=1", "not valid JSON"),
    ],
    ids=str,
)
def test_what_is_no_json_object_is_said_so(client, body, message):
    for endpoint in (INFERENCE, TRAINING, COMPARE):
        status, reply = post(client, endpoint, body)
        assert status == 400 and message in reply["error"]


@pytest.mark.parametrize("digits", ["1" + "0" * 400, "1" + "0" * 4000, "1e400", "-1e400", "NaN", "-Infinity"])
def test_numbers_that_nothing_holds_are_refused_wherever_they_stand(client, digits):
    config = f'{{"config": {{"model_type": "llama", "rope_theta": [{digits}]}}}}'
    status, reply = post(client, INFERENCE, config)
    assert (status, list(fields(reply))) == (400, ["config.rope_theta[0]"])
    for field in ("batch_size", "gpu_memory_gib"):
        status, reply = post(client, INFERENCE, json.dumps(SIZES)[:-1] + f', "{field}": {digits}}}')
        assert (status, list(fields(reply))) == (400, [field])


def test_keys_that_stand_twice_are_found_at_any_depth(client):
    body = '{"config": {"model_type": "llama", "model_type": "a:b", "rope_scaling": [{"x": 1, "x": 1}]}, "config": 1}'
    status, reply = post(client, INFERENCE, body)
    assert status == 400 and fields(reply)["config"] == "stands more than once"
    body = '{"config": {"model_type": "llama", "model_type": "a:b", "rope_scaling": [{"x": 1, "x": 1}]}}'
    status, reply = post(client, INFERENCE, body)
    assert set(fields(reply)) == {"config.model_type", "config.rope_scaling[0].x"}


def test_a_colon_in_a_string_is_no_key(client):
    status, reply = post(client, INFERENCE, json.dumps(SIZES | {"gpu": "a:b"}))
    assert (status, list(fields(reply))) == (400, ["gpu"]) and "unknown GPU" in reply["error"]


def test_thousands_of_faults_stay_cheap_to_say(client):
    status, reply = post(client, INFERENCE, "{" + ",".join(f'"precision{each}": 1' for each in range(40_000)) + "}")
    assert status == 400 and len(reply["details"]) == 1000 and "40,001 faults" in reply["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None, "??"])
def test_a_body_is_json_whatever_its_content_type(client, kind):
    reply = client.post(INFERENCE, data=json.dumps(SIZES), content_type=kind)
    assert reply.status_code == 200


def test_a_body_over_one_mebibyte_is_413(client):
    body = json.dumps(SIZES).encode()
    assert client.post(INFERENCE, data=body + b" " * (2**20 - len(body))).status_code == 200
    reply = client.post(INFERENCE, data=body + b" " * (2**20 + 1 - len(body)))
    assert reply.status_code == 413 and "1 MiB" in reply.get_json()["error"]


def test_an_endpoint_that_is_not_there_is_404_in_json(client):
    reply = client.get("/api/memory/inferense")
    assert reply.status_code == 404 and "did you mean /api/memory/inference?" in reply.get_json()["error"]


def test_a_wrong_method_is_405_with_allow(client):
    reply = client.delete(INFERENCE)
    assert (
        reply.status_code == 405
        and "POST" in reply.headers["Allow"]
        and "use OPTIONS, POST" in reply.get_json()["error"]
    )


def test_our_own_fault_is_a_bare_500_and_stands_in_the_log(monkeypatch, caplog):
    app = create_app()

    def broken():
        raise RuntimeError("secret")

    monkeypatch.setitem(app.view_functions, "memory.infer", broken)
    reply = app.test_client().post(INFERENCE, data="{}")
    assert (reply.status_code, reply.get_json()) == (500, {"error": "Internal server error"})
    assert "secret" in caplog.text


def test_front_ends_elsewhere_may_call_the_api(client):
    reply = client.post(INFERENCE, data=json.dumps(SIZES), headers={"Origin": "http://elsewhere"})
    assert reply.headers["Access-Control-Allow-Origin"] in ("*", "http://elsewhere")
    asked = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    assert "POST" in client.options(INFERENCE, headers=asked).headers["Access-Control-Allow-Methods"]


def test_origins_are_set_by_environment(monkeypatch):
    monkeypatch.setenv("LLM_MEMORY_CORS_ORIGINS", "https://a.example, https://b.example")
    client = create_app().test_client()
    for origin, allowed in (("https://b.example", "https://b.example"), ("https://c.example", None)):
        reply = client.post(INFERENCE, data=json.dumps(SIZES), headers={"Origin": origin})
        assert reply.headers.get("Access-Control-Allow-Origin") == allowed
