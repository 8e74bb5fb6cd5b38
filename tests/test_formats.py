"""Number formats, checkpoint recipes and GGUF file types, pinned to hand-made sums and to published sizes."""

from collections.abc import Iterator

import pytest

from calculator.errors import InvalidConfig, InvalidSetup, UnknownName
from calculator.formats import DATA_TYPES, GGML, KV_CACHE_PRECISIONS, Facts, Format, Plain, find_format
from calculator.gguf import FILE_TYPES, file_type
from calculator.quantization import RECIPES, Microscaled, Modules, find_recipe
from calculator.tensors import Tensor
from calculator.units import GIB

DENSE = Facts(32)


def matrix(
    rows: int, columns: int, role: str = "attn_q", component: str = "attention", name: str = "q_proj.weight"
) -> Tensor:
    return Tensor(name, (rows, columns), component, role, linear=True)


@pytest.mark.parametrize(
    ("name", "bits"), [("float32", 32), ("float16", 16), ("bfloat16", 16), ("int8", 8), ("int4", 4)]
)
def test_plain_precisions(name: str, bits: int) -> None:
    assert DATA_TYPES[name].bits_per_weight == bits
    assert DATA_TYPES[name].bytes(7_000_000_000) == 7_000_000_000 * bits // 8


def test_a_block_that_is_not_full_counts_whole() -> None:
    assert GGML["q4_0"].bytes(32) == 18
    assert GGML["q4_0"].bytes(33) == 36
    assert Format("int4", 2, 1, "").bytes(3) == 2


@pytest.mark.parametrize(("name", "bits"), [("q8_0", 8.5), ("q4_k", 4.5), ("q6_k", 6.5625), ("iq1_s", 1.5625)])
def test_blocks_of_ggml_carry_their_scales(name: str, bits: float) -> None:
    assert GGML[name].bits_per_weight == bits


def test_formats_by_name() -> None:
    assert find_format("Q8_0", KV_CACHE_PRECISIONS, "kv_cache_precision").block_bytes == 34
    with pytest.raises(UnknownName, match="unknown precision 'int3'; known: float32") as raised:
        find_format("int3", DATA_TYPES, "precision")
    assert raised.value.field == "precision"


# ------------------------------------------------------------------------------------------------ GPU formats

SIDE = 4096
QUANTIZED = [  # bytes of a 4096 × 4096 matrix: elements, then what lies beside
    ("fp8", {}, SIDE**2 + 32 * 32 * 4),
    ("fp8", {"strategy": "tensor"}, SIDE**2 + 4),
    ("fp8", {"strategy": "channel"}, SIDE**2 + SIDE * 4),
    ("bnb-int8", {}, SIDE**2 + SIDE * 4),
    ("w8a8-int8", {}, SIDE**2 + SIDE * 4),
    ("gptq-int4", {}, SIDE**2 // 2 + 32 * SIDE * 2 + 32 * SIDE // 2 + SIDE * 4),
    ("gptq-int4", {"group_size": 32}, SIDE**2 // 2 + 128 * SIDE * 2 + 128 * SIDE // 2 + SIDE * 4),
    ("gptq-int4", {"group_size": -1}, SIDE**2 // 2 + SIDE * 2 + SIDE // 2 + SIDE * 4),
    ("gptq-int8", {}, SIDE**2 + 32 * SIDE * 2 + 32 * SIDE + SIDE * 4),
    ("awq-int4", {}, SIDE**2 // 2 + 32 * SIDE * 2 + 32 * SIDE // 2),
    ("w4a16", {}, SIDE**2 // 2 + 32 * SIDE * 2),
    ("bnb-nf4", {}, SIDE**2 // 2 + SIDE**2 // 64 * 4 + 64),
    ("bnb-nf4-dq", {}, SIDE**2 // 2 + SIDE**2 // 64 + SIDE**2 // 64 // 256 * 4 + 1028 + 64),
    ("mxfp4", {"experts_only": False}, SIDE**2 // 32 * 17),
    ("nvfp4", {}, SIDE**2 // 16 * 9 + 8),
]


@pytest.mark.parametrize(("name", "options", "size"), QUANTIZED)
def test_a_matrix_and_what_lies_beside_it(name: str, options: dict[str, object], size: int) -> None:
    recipe = find_recipe(name, options)
    assert recipe.bytes(matrix(SIDE, SIDE), 0, DENSE) == size
    assert recipe.source


def test_double_quantization_saves_what_the_paper_says() -> None:
    """arXiv:2305.14314: 0.5 bit of constants a weight become 0.127."""
    plain, double = (find_recipe(name).bytes(matrix(SIDE, SIDE), 0, DENSE) for name in ("bnb-nf4", "bnb-nf4-dq"))
    assert 8 * (plain - double) / SIDE**2 == pytest.approx(0.373, abs=0.001)


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("gguf")])
def test_embeddings_heads_routers_norms_and_towers_stay_in_16_bit(name: str) -> None:
    recipe = find_recipe(name)
    for tensor in (
        Tensor("embed_tokens.weight", (1000, 64), "embedding", "embedding"),
        matrix(1000, 64, "output", "lm_head", "lm_head.weight"),
        matrix(64, 64, "router", "router", "mlp.gate.weight"),
        Tensor("input_layernorm.weight", (64,), "norm", "norm"),
        matrix(64, 64, "attn_q", "multimodal", "vision_tower.q_proj.weight"),
    ):
        assert recipe.bytes(tensor, 0, DENSE) == 2 * tensor.elements


def test_each_expert_of_a_stack_is_a_matrix_of_its_own() -> None:
    stack = Tensor("mlp.experts.down_proj", (8, 100, 200), "experts", "ffn_down_exps", linear=True, experts=8)
    assert find_recipe("fp8").bytes(stack, 0, DENSE) == 8 * (100 * 200 + 1 * 2 * 4)


def test_mxfp4_as_published_takes_the_experts_alone() -> None:
    stack = Tensor("mlp.experts.down_proj", (8, 64, 64), "experts", "ffn_down_exps", linear=True, experts=8)
    assert find_recipe("mxfp4").bytes(stack, 0, DENSE) == 8 * 64 * 64 // 32 * 17
    assert find_recipe("mxfp4").bytes(matrix(64, 64), 0, DENSE) == 2 * 64 * 64


def test_kernels_may_pad_the_sides_of_experts() -> None:
    """gpt-oss has 2880 on both sides; Marlin wants multiples of 256 and 128, and each half of a fused pair alone."""
    padded = Microscaled("mxfp4", "", experts=True, pads=(256, 128))
    facts = Facts(36, hidden=2880)
    up = Tensor("up", (4, 2880, 2 * 2880), "experts", "ffn_gate_up_exps", linear=True, experts=4)
    down = Tensor("down", (4, 2880, 2880), "experts", "ffn_down_exps", linear=True, experts=4)
    assert padded.bytes(up, 0, facts) == 4 * 3072 * 2 * 2944 // 32 * 17
    assert padded.bytes(down, 0, facts) == 4 * 3072 * 2944 // 32 * 17
    assert padded.bytes(matrix(64, 64), 0, facts) == 2 * 64 * 64


def test_a_gate_of_one_output_is_not_packed() -> None:
    gate = matrix(1, 2048, "other", "shared_experts", "mlp.shared_expert_gate.weight")
    assert find_recipe("gptq-int4").bytes(gate, 0, DENSE) == 2 * 2048


def test_the_share_of_one_gpu_takes_its_share_of_the_scales() -> None:
    recipe, tensor = find_recipe("awq-int4"), matrix(SIDE, SIDE)
    assert 4 * recipe.bytes(tensor, 0, DENSE, tensor.elements // 4) == recipe.bytes(tensor, 0, DENSE)
    assert Plain("int4", DATA_TYPES["int4"]).bytes(tensor, 0, DENSE, 3) == 2


def test_names_and_options_are_checked() -> None:
    assert find_recipe("GGUF-Q4_K_M").name == "gguf-q4_k_m"
    assert find_recipe("gguf-q4_k").name == "gguf-q4_k_m"
    with pytest.raises(UnknownName, match="did you mean gguf-q4_k_m") as raised:
        find_recipe("gguf-q4_km")
    assert raised.value.field == "quantization"
    with pytest.raises(InvalidSetup, match="it knows group_size") as wrong:
        find_recipe("gptq-int4", {"groupsize": 64})
    assert wrong.value.field == "quantization_options.groupsize"
    for bad in (0, -2, True, "128"):
        with pytest.raises(InvalidSetup, match="positive integer"):
            find_recipe("gptq-int4", {"group_size": bad})
    with pytest.raises(InvalidSetup, match="true or false"):
        find_recipe("awq-int4", {"zero_point": 1})
    with pytest.raises(InvalidSetup, match="tensor, channel, block"):
        find_recipe("fp8", {"strategy": "row"})


@pytest.mark.parametrize(
    ("listed", "inside", "outside"),
    [
        ("lm_head", "lm_head", "layers.0.lm_head_norm"),
        ("gate", "layers.3.mlp.gate", "layers.3.mlp.gate_proj"),
        ("model.layers.0.mlp.gate", "layers.0.mlp.gate", "layers.10.mlp.gate"),
        ("model.layers.0*", "layers.0.mlp.up_proj", "layers.10.mlp.up_proj"),
        ("model.layers.1.*", "layers.1.mlp.up_proj", "layers.11.mlp.up_proj"),
        ("model.layers.*.self_attn", "layers.7.self_attn.q_proj", "layers.7.mlp.up_proj"),
        ("*.attn.*", "layers.7.self_attn.q_proj", "layers.7.mlp.up_proj"),
        ("language_model.model.layers.2.block_sparse_moe.gate", "layers.2.mlp.gate", "layers.3.mlp.gate"),
        ("re:.*lm_head", "lm_head", "layers.0.mlp.gate"),
        ("re:model.layers.\\d+.mlp.gate$", "layers.12.mlp.gate", "layers.12.self_attn.o_proj"),
        ("re:.*experts.*down_proj$", "layers.0.mlp.experts.3.down_proj", "layers.0.mlp.experts.3.down_proj_scale"),
        ("re:^model\\.layers\\.(?:0|1)\\..*", "layers.1.mlp.gate", "layers.10.mlp.gate"),
    ],
)
def test_lists_of_modules(listed: str, inside: str, outside: str) -> None:
    modules = Modules.of([listed])
    assert inside in modules
    assert outside not in modules


@pytest.mark.parametrize("hostile", ["re:(a+)+$", "re:(.*)*x", "re:[", "re:(?!x).*", "re:" + "a" * 300, "?" * 300])
def test_patterns_that_could_run_for_ever_are_refused(hostile: str) -> None:
    with pytest.raises(InvalidConfig, match="pattern of modules"):
        Modules.of([hostile])


def test_many_stars_cost_no_more_than_the_path_is_long() -> None:
    path = "layers.0." + "ab." * 200 + "c"
    for listed in ("*a*b" * 40 + "x", "re:" + ".*a.*b" * 30 + "x$", "re:" + "[a-z]+[a-z]*" * 14 + "x$"):
        assert path not in Modules.of([listed])
    with pytest.raises(InvalidConfig, match="more than 32 patterns"):
        Modules.of([f"*x{each}*y" for each in range(33)])


# ------------------------------------------------------------------------------------------------ GGUF


def dense(
    hidden: int, feed: int, layers: int, heads: int, shared: int, vocabulary: int, tied: bool, head: int = 128
) -> tuple[list[tuple[Tensor, int | None]], Facts]:
    """A Llama-like model as tensors with their layer."""
    return list(_llama(hidden, feed, layers, heads, shared, vocabulary, tied, head, 0)), Facts(
        layers, tied, 0, heads // shared, "llama"
    )


def _llama(
    hidden: int, feed: int, layers: int, heads: int, shared: int, vocabulary: int, tied: bool, head: int, experts: int
) -> Iterator[tuple[Tensor, int | None]]:
    yield Tensor("embed", (vocabulary, hidden), "embedding", "embedding"), None
    stack, kind = ((experts,), "_exps") if experts else ((), "")
    for layer in range(layers):
        for role, rows, columns in (
            ("attn_q", heads * head, hidden),
            ("attn_k", shared * head, hidden),
            ("attn_v", shared * head, hidden),
            ("attn_output", hidden, heads * head),
        ):
            yield Tensor(role, (rows, columns), "attention", role, True), layer
        for role, rows, columns in (
            ("ffn_gate", feed, hidden),
            ("ffn_up", feed, hidden),
            ("ffn_down", hidden, feed),
        ):
            yield Tensor(role, (*stack, rows, columns), "experts", role + kind, True, experts=experts), layer
        if experts:
            yield Tensor("gate", (experts, hidden), "router", "router", True), layer
        yield Tensor("norms", (hidden,), "norm", "norm", count=2), layer
    yield Tensor("norm", (hidden,), "norm", "norm"), None
    if not tied:
        yield Tensor("lm_head", (vocabulary, hidden), "lm_head", "output", True), None


LLAMA_8B = dense(4096, 14336, 32, 32, 8, 128256, False)
LLAMA_70B = dense(8192, 28672, 80, 64, 8, 128256, False)
LLAMA_1B = dense(2048, 8192, 16, 32, 8, 128256, True, 64)
LLAMA_2 = dense(4096, 11008, 32, 32, 32, 32000, False)
MIXTRAL = list(_llama(4096, 14336, 32, 32, 8, 32000, False, 128, 8)), Facts(32, False, 8, 4, "mixtral")
QWEN_30B = list(_llama(2048, 768, 48, 32, 4, 151936, False, 128, 128)), Facts(48, False, 128, 8, "qwen3_moe")

PUBLISHED = [  # GiB as llama-bench and llama.cpp's tools/quantize/README.md print them
    (LLAMA_8B, "f16", 14.96),
    (LLAMA_8B, "q8_0", 7.95),
    (LLAMA_8B, "q6_k", 6.14),
    (LLAMA_8B, "q5_k_s", 5.21),
    (LLAMA_8B, "q4_k_m", 4.58),
    (LLAMA_8B, "q3_k_l", 4.02),
    (LLAMA_8B, "q2_k", 2.95),
    (LLAMA_8B, "iq4_xs", 4.17),
    (LLAMA_8B, "iq3_m", 3.52),
    (LLAMA_8B, "iq3_xs", 3.27),
    (LLAMA_8B, "iq3_xxs", 3.04),
    (LLAMA_8B, "iq2_m", 2.74),
    (LLAMA_8B, "iq2_xs", 2.42),
    (LLAMA_8B, "iq1_m", 2.01),
    (LLAMA_70B, "q4_k_m", 39.59),
    (LLAMA_70B, "q4_0", 37.22),
    (LLAMA_1B, "q4_k_m", 0.7449),
    (LLAMA_2, "q4_0", 3.56),
    (LLAMA_2, "q8_0", 6.67),
    (MIXTRAL, "q4_k_m", 26.49),
    (QWEN_30B, "iq4_xs", 15.32),
]


@pytest.mark.parametrize(("model", "mix", "gib"), PUBLISHED)
def test_file_types_weigh_what_files_weigh(
    model: tuple[list[tuple[Tensor, int | None]], Facts], mix: str, gib: float
) -> None:
    tensors, facts = model
    recipe = file_type(mix)
    size = sum(recipe.bytes(tensor, layer, facts) for tensor, layer in tensors) / GIB
    assert size == pytest.approx(gib, rel=0.007)


def test_every_file_type_stores_every_tensor_and_fewer_bits_take_less() -> None:
    sizes = {
        mix: sum(recipe.bytes(tensor, layer, LLAMA_8B[1]) for tensor, layer in LLAMA_8B[0])
        for mix, recipe in FILE_TYPES.items()
    }
    order = ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "q2_k", "iq3_xxs", "iq3_xs", "q3_k_s", "iq3_s"]
    order += ["iq3_m", "q3_k_m", "q3_k_l", "iq4_xs", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q8_0", "f16"]
    assert [sizes[mix] for mix in order] == sorted(sizes[mix] for mix in order)


def test_what_is_no_weight_matrix_is_float32_and_towers_are_files_of_their_own() -> None:
    recipe = file_type("q4_k_m")
    for tensor in (
        Tensor("norm", (4096,), "norm", "norm"),
        Tensor("bias", (4096,), "attention", "bias"),
        matrix(64, 4096, "router", "router"),
        matrix(1, 4096, "other", "shared_experts"),
        Tensor("conv1d", (4096, 1, 4), "ssm", "ssm_other"),
    ):
        assert recipe.bytes(tensor, 0, DENSE) == 4 * tensor.elements
    assert recipe.bytes(matrix(64, 4096, component="multimodal"), 0, DENSE) == 0


@pytest.mark.parametrize(
    ("mix", "columns", "name"),
    [
        ("q4_k_s", 896, "q5_0"),
        ("q5_k_s", 896, "q5_1"),
        ("q6_k", 896, "q8_0"),
        ("iq4_xs", 896, "iq4_nl"),
        ("q2_k_s", 896, "q4_0"),
        ("q4_k_s", 900, "f16"),
        ("q4_0", 900, "f16"),
    ],
)
def test_rows_that_are_no_multiple_of_a_block_take_another_type(mix: str, columns: int, name: str) -> None:
    assert file_type(mix).format_of(matrix(64, columns, "attn_q"), 10, DENSE).name == name


def test_the_layers_that_get_more_bits() -> None:
    """use_more_bits of 32 layers: 0 to 3, 28 to 31, and every third from 6."""
    down = matrix(4096, 14336, "ffn_down", "mlp_dense")
    more = [layer for layer in range(32) if file_type("q4_k_m").format_of(down, layer, DENSE).name == "q6_k"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    # only every other layer has a feed-forward layer: the second of them is the second of its kind
    hybrid = Facts(32, down_layers={layer: layer // 2 for layer in range(0, 32, 2)})
    assert file_type("q4_k_m").format_of(down, 12, hybrid).name == "q6_k"


def test_few_and_many_experts_and_importances() -> None:
    key = matrix(1024, 4096, "attn_k")
    assert file_type("q4_k_m").format_of(key, 5, Facts(32, experts=8)).name == "q8_0"
    assert file_type("q4_k_m").format_of(key, 5, Facts(32, experts=64)).name == "q4_k"
    down = matrix(4096, 14336, "ffn_down", "mlp_dense")
    assert file_type("q4_0").format_of(down, 0, DENSE).name == "q4_0"
    assert file_type("q4_0", known=True).format_of(down, 0, DENSE).name == "q4_1"
    assert find_recipe("gguf-iq4_xs", {"imatrix": False}).stored(down, 0, DENSE).format.name == "q5_k"


def test_mxfp4_files_hold_experts_in_mxfp4_and_the_rest_in_q8_0() -> None:
    recipe = file_type("mxfp4_moe")
    stack = Tensor("experts", (8, 2880, 2880), "experts", "ffn_up_exps", linear=True, experts=8)
    assert recipe.format_of(stack, 0, DENSE).name == "mxfp4"
    for other in (matrix(4096, 2880), Tensor("embed", (1000, 2880), "embedding", "embedding")):
        assert recipe.format_of(other, 0, DENSE).name == "q8_0"
