"""Optimizer states and the temporaries of a step, pinned to what torch and transformers allocate."""

import pytest

from calculator.errors import InvalidSetup, UnknownName
from calculator.optimizers import OPTIMIZERS, find_optimizer
from calculator.tensors import Tensor


def weights(*shapes: tuple[int, ...], component: str = "mlp_dense") -> list[Tensor]:
    return [Tensor(f"w{place}", shape, component, "ffn_up", linear=True) for place, shape in enumerate(shapes)]


UNIT = 512 * 512
FIRST = weights((4096, 512), (512, 512), (512, 512))  # 8, 1 and 1 units
LAST = weights((512, 512), (512, 512), (4096, 512))
PAIR = weights((4096, 512), (4096, 512), (512, 512))
ENDS = weights((4096, 512), (512, 512), (2048, 512), (4096, 512))

# torch 2.13.0 and transformers 5.23.0: bytes a step allocates above what lives before and after, in units
ALLOCATED = [
    ("AdamW", "foreach", 2, FIRST, 20.0),
    ("AdamW", "foreach", 4, PAIR, 68.0),
    ("AdamW", "fused", 2, ENDS, 0.0),
    ("AdamW", "for-loop", 2, FIRST, 32.0),  # 2 · 8 of 2 bytes
    ("AdamW", "for-loop", 2, LAST, 34.0),  # and the denominator of the one before
    ("AdamW", "for-loop", 2, PAIR, 48.0),
    ("AdamW", "for-loop", 4, ENDS, 80.0),
    ("SGD", "foreach", 4, ENDS, 0.0),
    ("SGD without momentum", "for-loop", 4, ENDS, 0.0),
    ("RMSprop", "foreach", 2, FIRST, 20.0),
    ("RMSprop", "for-loop", 2, PAIR, 32.0),
    ("Adagrad", "foreach", 2, FIRST, 40.0),
    ("Adamax", "for-loop", 4, PAIR, 32.0),
    ("RAdam", "for-loop", 2, ENDS, 32.0),
    ("Adafactor", "foreach", 2, FIRST, 128 + 4 * (4096 + 512) / UNIT),  # 16 · 8, and the factors
    ("Adafactor", "foreach", 2, LAST, 132.0),
    ("Adafactor", "foreach", 2, PAIR, 160.0),
    ("Adafactor", "foreach", 4, ENDS, 80.0),
    ("Muon", "foreach", 2, FIRST, 52.0),  # three of 8 and two Gram matrices of 1, in bfloat16
    ("Muon", "foreach", 4, PAIR, 68.0),
]


@pytest.mark.parametrize(("name", "implementation", "width", "tensors", "units"), ALLOCATED)
def test_a_step_allocates_what_torch_allocates(
    name: str, implementation: str, width: int, tensors: list[Tensor], units: float
) -> None:
    assert find_optimizer(name).temporary(tensors, width, implementation) == round(units * UNIT)


def test_the_steps_of_a_whole_model() -> None:
    """Llama-3.2-1B in bfloat16: the peak of its optimizer step less weights, gradients and states."""
    embedding = Tensor("embed", (128256, 2048), "embedding", "embedding")
    layer = weights((2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192))
    model = [embedding, *layer, *layer]
    assert find_optimizer("AdamW").temporary(model, 2, "for-loop") == 1_050_673_152
    assert find_optimizer("Adafactor").temporary(model, 2) == 4_203_213_824


@pytest.mark.parametrize(
    ("name", "bytes_per_parameter"),
    [("AdamW", 8), ("Quantized AdamW", 2), ("SGD", 4), ("SGD without momentum", 0), ("Lion", 4), ("AdamW 4-bit", 1)],
)
def test_the_table_of_bytes_a_parameter_holds_for_a_large_matrix(name: str, bytes_per_parameter: int) -> None:
    row = find_optimizer(name)
    (matrix,) = weights((4096, 4096))
    assert row.bytes_per_parameter == bytes_per_parameter
    assert row.states(matrix).moments == bytes_per_parameter * matrix.elements


def test_every_row_states_its_own_figure() -> None:
    (matrix,) = weights((4096, 4096))
    for row in OPTIMIZERS.values():
        assert row.source
        # Adafactor's vectors vanish beside a matrix, GaLore's figure is exact for this one
        assert row.states(matrix).moments == pytest.approx(row.bytes_per_parameter * matrix.elements, abs=32768)


def test_states_follow_the_precision_of_the_parameters_unless_the_optimizer_chooses() -> None:
    (matrix,) = weights((1024, 1024))
    assert find_optimizer("AdamW").states(matrix, 2).moments == 4 * 2**20
    assert find_optimizer("Paged AdamW").states(matrix, 2).moments == 8 * 2**20
    assert find_optimizer("Adafactor").states(matrix, 2).moments == 4 * 2048


def test_quantized_moments_have_scales_and_leave_small_tensors_alone() -> None:
    row = find_optimizer("Quantized AdamW")
    (matrix, small) = weights((1000, 1000), (4095,))
    assert row.states(matrix).extra == 2 * 3907 * 4  # 1,000,000 / 256 blocks, rounded up
    assert row.states(small).moments + row.states(small).extra == 2 * 4 * 4095
    embedding = Tensor("embed", (1000, 1000), "embedding", "embedding")
    assert row.states(embedding).moments + row.states(embedding).extra == 2 * 4 * 10**6
    (odd,) = weights((4097,))
    four = find_optimizer("AdamW 4-bit").states(odd)
    assert four.moments + four.extra == 2 * 4 * 4097


def test_paged_states_leave_the_gpu_where_the_tensor_is_large() -> None:
    large, small = weights((1000, 100), (1000, 99))
    for name in ("Paged AdamW", "Paged Quantized AdamW"):
        assert find_optimizer(name).states(large).resident == 0
        assert find_optimizer(name).states(small).resident > 0


def test_muon_and_galore_take_hidden_matrices_and_leave_the_rest_to_adamw() -> None:
    matrix = Tensor("up", (1024, 512), "mlp_dense", "ffn_up", linear=True)
    norm = Tensor("norm", (512,), "norm", "norm")
    head = Tensor("head", (1000, 512), "lm_head", "output", linear=True)
    experts = Tensor("experts", (8, 1024, 512), "experts", "ffn_up_exps", linear=True, experts=8)
    muon, galore = find_optimizer("Muon"), find_optimizer("GaLore AdamW")
    assert muon.states(matrix).moments == 4 * 1024 * 512
    assert muon.states(head).moments == 8 * 512_000
    assert muon.states(norm).moments == 8 * 512
    assert galore.states(matrix).moments == 4 * 128 * (512 + 2 * 1024)
    assert galore.states(experts).moments == 8 * galore.states(matrix).moments
    assert galore.states(head) == muon.states(head)


def test_names_in_any_case_and_unknown_ones() -> None:
    assert find_optimizer("paged quantized adamw").name == "Paged Quantized AdamW"
    assert find_optimizer("adamw_bnb_8bit").name == "Quantized AdamW"
    with pytest.raises(UnknownName, match="known: AdamW") as raised:
        find_optimizer("AdmaW")
    assert "AdamW" in raised.value.suggestions
    with pytest.raises(InvalidSetup, match="foreach, for-loop"):
        find_optimizer("RMSprop").temporary(FIRST, 4, "fused")
