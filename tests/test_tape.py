"""What a decoder layer keeps for its backward pass, against closed forms derived by hand from transformers' code."""

import pytest

from calculator.layers.attention import Attention
from calculator.layers.blocks import PreNormBlock
from calculator.layers.feed_forward import GatedFeedForward
from calculator.layers.norms import RMSNorm
from calculator.tape import FLOAT, HALF, Adapter, Mode, evaluate, front
from calculator.trace import trace

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE, RANK, LENGTH = 4096, 32, 8, 128, 14336, 16, 2048
QUERY, KEY = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM


def llama_layer(head_norms: bool = False) -> PreNormBlock:
    """The layer of Llama-3.1-8B, with Qwen 3's norms on request."""
    norms = (RMSNorm(HEAD_DIM, "q_norm"), RMSNorm(HEAD_DIM, "k_norm")) if head_norms else (None, None)
    attention = Attention(HIDDEN, HEADS, KV_HEADS, HEAD_DIM, query_norm=norms[0], key_norm=norms[1])
    two = (RMSNorm(HIDDEN, "input_layernorm"), RMSNorm(HIDDEN, "post_attention_layernorm"))
    return PreNormBlock(attention, GatedFeedForward(HIDDEN, WIDE), two)


LINEAR = sum(tensor.elements for tensor in llama_layer().tensors() if tensor.linear)
ALL = Adapter(RANK, ("all-linear",), FLOAT)
QUERY_VALUE = Adapter(RANK, ("q_proj", "v_proj"), FLOAT)

# name, norms over heads, mode, bytes a token, bytes whatever the tokens
KEPT = [
    # two norms 8h each, q/k/v/out as flash keeps them, gate, up, act and product, one lse a head, one rsqrt a norm
    ("bf16 flash", False, Mode(one=True), 16 * HIDDEN + 4 * QUERY + 4 * KEY + 8 * WIDE + 4 * HEADS + 8, 0),
    (
        "qwen3 bf16 flash",  # a float32 and a 16-bit copy of q and of k more, and a rsqrt a head
        True,
        Mode(one=True),
        16 * HIDDEN + 10 * QUERY + 10 * KEY + 8 * WIDE + 8 * HEADS + 4 * KV_HEADS + 8,
        0,
    ),
    (
        "bf16 eager",  # k and v repeated to q, the softmax in float32 and in 16 bit
        False,
        Mode(one=True, attention="eager"),
        16 * HIDDEN + 8 * QUERY + 8 * WIDE + 6 * HEADS * LENGTH + 8,
        0,
    ),
    (
        "float32 grouped heads, math",
        False,
        Mode(one=True, weights=FLOAT),
        24 * HIDDEN + 16 * QUERY + 16 * WIDE + 4 * HEADS * LENGTH + 8,
        0,
    ),
    (
        "float32 under autocast",  # and a 16-bit copy of every matrix
        False,
        Mode(one=True, weights=FLOAT, autocast=True),
        26 * HIDDEN + 4 * QUERY + 4 * KEY + 8 * WIDE + 4 * HEADS + 8,
        2 * LINEAR,
    ),
    (
        "LoRA on all linear layers, float32 adapters",  # the input once more in float32 for each adapter
        False,
        Mode(one=True, frozen=True, adapter=ALL),
        28 * HIDDEN + 8 * QUERY + 4 * KEY + 10 * WIDE + 28 * RANK + 4 * HEADS + 8,
        0,
    ),
    (
        "LoRA on q and v, float32 adapters",
        False,
        Mode(one=True, frozen=True, adapter=QUERY_VALUE),
        16 * HIDDEN + 4 * QUERY + 4 * KEY + 6 * WIDE + 8 * RANK + 4 * HEADS + 8,
        0,
    ),
    (
        "LoRA on all linear layers, 16-bit adapters",
        False,
        Mode(one=True, frozen=True, adapter=Adapter(RANK, ("all-linear",), HALF)),
        12 * HIDDEN + 4 * QUERY + 4 * KEY + 8 * WIDE + 14 * RANK + 4 * HEADS + 8,
        0,
    ),
]


@pytest.mark.parametrize(("name", "norms", "mode", "per_token", "fixed"), KEPT, ids=[row[0] for row in KEPT])
def test_a_layer_keeps_what_the_closed_form_says(
    name: str, norms: bool, mode: Mode, per_token: int, fixed: int
) -> None:
    dtype = mode.hidden
    tables = tuple((table, (0, 0, HEAD_DIM, 0, 0, 0), dtype) for table in ("cos", "sin"))
    kept = trace(llama_layer(norms), mode, HIDDEN, dtype, tables).saved
    assert evaluate(kept, 1, LENGTH) == per_token * LENGTH + fixed


def test_gradients_are_as_large_as_the_trained_parameters() -> None:
    tables = tuple((table, (0, 0, HEAD_DIM, 0, 0, 0), HALF) for table in ("cos", "sin"))
    gradients = trace(llama_layer(), Mode(), HIDDEN, HALF, tables).gradients
    assert gradients == (0, 0, 0, 0, 0, 0, 2 * sum(tensor.elements for tensor in llama_layer().tensors()))


def test_front_keeps_only_what_nothing_exceeds() -> None:
    one, two, other = (1, 0, 0, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0, 0), (0, 0, 0, 5, 0, 0, 0)
    assert front([one, two, other]) == (two, other)
