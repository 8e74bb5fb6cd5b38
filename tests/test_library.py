"""The bundled models: each counts to its published figure, and is found under the names people use."""

import json
from pathlib import Path

import pytest

from calculator.checkpoints import recipe_of
from calculator.errors import UnknownModel
from calculator.library import FORMATS, MODELS, Entry, library, read_library

ENTRIES = library().entries


def test_every_file_is_read() -> None:
    assert library().problems == ()
    assert len(ENTRIES) == len(list(MODELS.glob("*.json"))) > 300


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_a_model_counts_to_its_published_parameters(entry: Entry) -> None:
    assert entry.model.parameters == entry.parameter_count
    assert sum(entry.model.components().values()) == entry.parameter_count
    assert entry.model.active_parameters <= entry.parameter_count


UPLOADS = [
    *(hub_id for entry in ENTRIES for hub_id in entry.quantized or {}),
    *(hub_id for entry in ENTRIES for hub_id, said in (entry.variants or {}).items() if "quantization_config" in said),
]


@pytest.mark.parametrize("hub_id", UPLOADS)
def test_the_format_of_a_quantized_upload_is_read(hub_id: str) -> None:
    model = library().get(hub_id)[0].model
    assert model.quantization is not None
    recipe_of(model.quantization, model.config)


VARIANTS = [(entry, hub_id) for entry in ENTRIES for hub_id in entry.variants or {}]


@pytest.mark.parametrize(("entry", "hub_id"), VARIANTS, ids=[hub_id for _, hub_id in VARIANTS])
def test_a_variant_has_the_parameters_of_its_file_and_says_something_else(entry: Entry, hub_id: str) -> None:
    assert entry.variants is not None
    variant, warning = library().get(hub_id)
    assert (variant.hub_id, variant.name, warning) == (hub_id, hub_id.rsplit("/", 1)[-1], None)
    assert variant.model.parameters == variant.parameter_count == entry.parameter_count
    assert variant.config != entry.config
    for field, value in entry.variants[hub_id].items():
        part = variant.config if field == "quantization_config" else variant.config.get("text_config", variant.config)
        assert part[field] == value


def test_a_hub_id_stands_in_one_place() -> None:
    """Whichever came first would hide the other."""
    ids: dict[str, str] = {}
    for entry in ENTRIES:
        for hub_id in (entry.hub_id, *entry.siblings, *(entry.variants or {}), *(entry.quantized or {})):
            assert ids.setdefault(hub_id.lower(), entry.name) == entry.name, hub_id
        listed = [*entry.siblings, *(entry.variants or {}), *(entry.quantized or {})]
        assert len(listed) == len({hub_id.lower() for hub_id in listed})


@pytest.mark.parametrize(
    ("asked", "name", "longest"),
    [
        ("Qwen/Qwen2-7B", "Qwen2-7B", 131072),
        ("Qwen/Qwen2-7B-Instruct", "Qwen2-7B-Instruct", 32768),
        ("qwen2 7b instruct", "Qwen2-7B-Instruct", 32768),
        ("unsloth/Qwen2-7B-Instruct", "Qwen2-7B-Instruct", 32768),
        ("unsloth/Qwen2-7B-Instruct-GGUF", "Qwen2-7B-Instruct", 32768),
        ("Qwen/Qwen2-7B-Instruct-AWQ", "Qwen2-7B-Instruct-AWQ", 32768),
        ("Qwen/Qwen2.5-14B-Instruct", "Qwen2.5-14B-Instruct", 32768),
        ("Qwen/Qwen2.5-Coder-14B", "Qwen2.5-Coder-14B", 32768),
        ("Qwen/Qwen3-8B-Base", "Qwen3-8B-Base", 32768),
        ("Qwen3-8B-Base-FP8", "Qwen3-8B-Base-FP8", 32768),
        ("zai-org/GLM-4.1V-9B-Base", "GLM-4.1V-9B-Thinking", 65536),
        ("zai-org/GLM-4.6V-Flash", "GLM-4.6V-Flash", 131072),  # said of its text part
        ("Qwen/Qwen1.5-MoE-A2.7B", "Qwen1.5-MoE-A2.7B", 8192),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen1.5-MoE-A2.7B-Chat", 32768),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4", "Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4", 32768),  # a variant's re-upload
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen2.5-7B-Instruct-GPTQ-Int4", 32768),
    ],
)
def test_a_chat_model_has_the_longest_context_of_its_own_configuration(asked: str, name: str, longest: int) -> None:
    entry, _ = library().get(asked)
    assert (entry.name.rsplit("/", 1)[-1], entry.model.max_context) == (name, longest)


def test_order_is_by_family_then_size() -> None:
    order = [(entry.family.lower(), entry.parameter_count) for entry in ENTRIES]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("Qwen3-0.6B", "Qwen3-0.6B"),
        ("qwen/QWEN3-0.6b", "Qwen3-0.6B"),
        (" Qwen3 8B ", "Qwen3-8B"),
        ("nvidia/Nemotron-Orchestrator-8B", "Qwen3-8B"),  # a sibling of the same sizes
        ("meta-llama/Meta-Llama-3.1-8B", "Llama-3.1-8B"),  # renamed on the hub
        ("llama-3-8b", "Meta-Llama-3-8B"),
        ("mistral-7b", "Mistral-7B-v0.1"),
        ("gpt-2", "gpt2"),
        ("NousResearch/Llama-2-7b-chat-hf", "Llama-2-7b-chat-hf"),
        ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b-bnb-4bit"),
        ("lmsys/vicuna-7b-v1.5", "Llama-2-7b-hf"),
        ("lmsys/vicuna-33b-v1.3", "llama-30b"),
        ("THUDM/glm-4-9b-chat", "glm-4-9b-chat-hf"),  # of the longer context, not the base
        ("Qwen/Qwen-7B-Chat-Int4", "Qwen-7B-Chat-Int4"),
        ("Qwen/Qwen3.6-27B", "Qwen3.5-27B"),
        ("Qwen/Qwen1.5-14B-Chat", "Qwen1.5-14B"),
        ("Qwen/Qwen1.5-7B-Chat-GPTQ-Int8", "Qwen1.5-7B-Chat-GPTQ-Int8"),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4", "Qwen1.5-MoE-A2.7B-Chat-GPTQ-Int4"),
    ],
)
def test_names_that_mean_a_model(asked: str, name: str) -> None:
    entry, warning = library().get(asked)
    assert (entry.name, warning) == (name, None)


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ("Qwen3-7B", "Qwen3-8B", "never released"),
        ("Qwen/Qwen3-7B", "Qwen3-8B", "never released"),
        ("gemma-3-27b", "gemma-3-27b-it", "not bundled under that name"),
        ("unsloth/Qwen3-8B", "Qwen3-8B", "not bundled under that name"),
        ("unsloth/Qwen3-8B-GGUF", "Qwen3-8B", "not bundled under that name"),  # the kind is a field of the request
    ],
)
def test_names_that_mean_a_model_with_a_warning(asked: str, name: str, words: str) -> None:
    entry, warning = library().get(asked)
    assert entry.name == name
    assert warning is not None and words in warning and name in warning


@pytest.mark.parametrize(
    ("asked", "method"),
    [("Qwen/Qwen3-32B-FP8", "fp8"), ("nvidia/GLM-5.1-NVFP4", "modelopt"), ("Qwen/Qwen2.5-7B-Instruct-AWQ", "awq")],
)
def test_a_quantized_upload_is_its_base_model_in_that_format(asked: str, method: str) -> None:
    entry, _ = library().get(asked)
    base, _ = library().get(asked.rsplit("-", 1)[0].split("/")[1])
    assert entry.hub_id == asked
    assert entry.parameter_count == base.parameter_count
    assert entry.config["quantization_config"]["quant_method"] == method
    assert "quantization_config" not in base.config


@pytest.mark.parametrize(
    ("packed", "base", "more"),
    [
        ("Qwen/Qwen1.5-32B-Chat-GPTQ-Int4", "Qwen/Qwen1.5-32B-Chat", 64 * 3 * 5120 * (27648 - 27392)),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "Qwen/Qwen2.5-72B-Instruct", 80 * 3 * 8192 * (29696 - 29568)),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "Qwen/Qwen2.5-72B-Instruct", 80 * 3 * 8192 * (29696 - 29568)),
    ],
)
def test_an_upload_that_was_padded_for_packing_keeps_its_own_width(packed: str, base: str, more: int) -> None:
    """Groups of 128 rows are to divide over GPUs, so that the feed-forward layers grew before they were packed."""
    padded = library().get(packed)[0]
    assert padded.model.parameters - library().get(base)[0].model.parameters == more
    assert padded.model.quantization is not None


@pytest.mark.parametrize("ending", FORMATS)
def test_an_ending_that_names_a_format_is_read_for_any_bundled_model(ending: str) -> None:
    entry, warning = library().get(f"someone/Qwen3-8B{ending}")
    assert entry.name == f"Qwen3-8B{ending}"
    assert entry.config["quantization_config"] == FORMATS[ending]
    assert warning is not None and "this is Qwen3-8B with" in warning
    recipe_of(FORMATS[ending], entry.config)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownModel) as failure:
        library().get("Qwen3-8C")
    assert failure.value.message == "Model 'Qwen3-8C' not found"
    assert "Qwen3-8B" in failure.value.suggestions


def test_a_name_as_long_as_a_book_is_not_repeated() -> None:
    with pytest.raises(UnknownModel) as failure:
        library().get("x" * 1_000_000)
    assert len(failure.value.message) < 200


def test_a_damaged_file_is_reported_and_the_rest_served(tmp_path: Path) -> None:
    good = (MODELS / "qwen3-0.6b.json").read_text(encoding="utf-8")
    (tmp_path / "good.json").write_text(good, encoding="utf-8")
    (tmp_path / "twice.json").write_text(good, encoding="utf-8")
    (tmp_path / "cut.json").write_text(good[:100], encoding="utf-8")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lacks.json").write_text(json.dumps({"name": "x"}), encoding="utf-8")
    found = read_library(tmp_path)
    assert [entry.name for entry in found] == ["Qwen3-0.6B"]
    assert [problem.split()[0] for problem in found.problems] == [
        "bytes.json",
        "cut.json",
        "lacks.json",
        "list.json",
        "twice.json",
    ]


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("variant", {}, "unknown members: variant"),
        ("siblings", "Qwen/Qwen3-0.6B-Base", "siblings must be a list"),
        ("siblings", [None], "siblings must be a list"),
        ("quantized", ["a/b"], "quantized must be an object"),
        ("quantized", {"a/b": "awq"}, "quantized of a/b must be an object"),
        ("variants", [], "variants must be an object"),
        ("variants", {"a/b": {}}, "variants must be an object of hub ids, each with an object that is not empty"),
        ("variants", {"": {"torch_dtype": "float16"}}, "variants must be an object"),
        ("variants", {"a/b": ["torch_dtype"]}, "variants of a/b must be an object"),
        ("variants", {"a/b": {"hidden_size": 8}}, "hidden_size is none of the fields that may vary"),
        ("variants", {"a/b": {"max_position_embeddings": "32k"}}, "max_position_embeddings has a value of the wrong"),
        ("variants", {"a/b": {"max_position_embeddings": True}}, "max_position_embeddings has a value of the wrong"),
        ("variants", {"a/b": {"torch_dtype": None}}, "torch_dtype has a value of the wrong"),
    ],
)
def test_a_member_that_cannot_be_read_is_a_problem(tmp_path: Path, member: str, value: object, words: str) -> None:
    good = json.loads((MODELS / "qwen3-0.6b.json").read_text(encoding="utf-8"))
    (tmp_path / "odd.json").write_text(json.dumps(good | {member: value}), encoding="utf-8")
    found = read_library(tmp_path)
    assert len(found) == 0
    assert words in found.problems[0] and found.problems[0].startswith("odd.json")


def test_a_variant_lacks_what_it_says_null_of(tmp_path: Path) -> None:
    good = json.loads((MODELS / "mistral-7b-v0.1.json").read_text(encoding="utf-8"))
    good["variants"] = {"someone/Wide-7B": {"sliding_window": None}}
    (tmp_path / "wide.json").write_text(json.dumps(good), encoding="utf-8")
    variant = read_library(tmp_path).get("wide-7b")[0]
    assert variant.config["sliding_window"] is None
    assert variant.model.parameters == good["parameter_count"]


def test_a_missing_folder_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    found = read_library(tmp_path / "none")
    assert len(found) == 0 and len(found.problems) == 1
