"""What a decoder layer keeps for its backward pass, against closed forms derived by hand from transformers' code."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calculator.architectures import read_model
from calculator.layers.attention import Attention
from calculator.layers.blocks import PreNormBlock
from calculator.layers.feed_forward import GatedFeedForward
from calculator.layers.norms import RMSNorm
from calculator.model import Model
from calculator.profile import inference_profile, largest, leading, training_profile
from calculator.tape import FLOAT, HALF, Adapter, Mode, Moment, evaluate, front
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


def grouped_window_model(**fields: object) -> Model:
    """A small Mistral whose window a sequence of 256 tokens exceeds."""
    return read_model(
        {
            "model_type": "mistral",
            "vocab_size": 1200,
            "hidden_size": 384,
            "intermediate_size": 1000,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "sliding_window": 128,
            **fields,
        }
    )


def test_the_first_decode_step_of_a_sliding_layer_holds_the_whole_prompt_and_both_joined_copies() -> None:
    # counted with torch 2.13.0 and transformers 5.23.0: 14,807,216 less 14,211,840 of weights, 256 of buffers, 2,056
    # of ids. The prompt's eight storages of 2·256·64 elements, the window's first two of 2·128·64, and what a layer
    # of one token makes.
    model = grouped_window_model()
    mode = Mode(step="decode", one=True, exceeded=frozenset({128}))
    need = inference_profile(model, mode).need("decode", 1, 257)
    storages = 8 * 2 * 2 * 256 * 64 + 2 * 2 * 2 * 128 * 64
    assert storages < need < storages + 8_000
    assert abs(need - (14_807_216 - 14_211_840 - 256 - 2_056)) < 1_000


def test_checkpointing_finds_gradients_of_adapters_waiting_when_it_runs_a_layer_again() -> None:
    # counted with torch 2.13.0, transformers 5.23.0 and peft 0.21.2: 24,474,912 in all; weights 14,211,840 and
    # adapters 859,136, ids and labels 4,096, buffers 256
    model = grouped_window_model(model_type="llama", sliding_window=None)
    mode = Mode(one=True, frozen=True, adapter=Adapter(8, ("all-linear",), FLOAT))
    profile = training_profile(model, mode, "full", first_input_grad=False)
    assert profile.need("backward", 1, 256) == pytest.approx(24_474_912 - 14_211_840 - 859_136 - 4_352, rel=3e-3)


def test_the_sum_of_two_gradients_of_a_tied_table_is_a_third_table() -> None:
    # at the sum the embedding's incoming gradient is gone: everything of the layers and the norm, and three tables
    model = grouped_window_model(model_type="llama", sliding_window=None, tie_word_embeddings=True, vocab_size=20_000)
    profile = training_profile(model, Mode(one=True))
    table = 20_000 * 384 * 2
    others = 2 * model.parameters - table
    assert profile.need("backward", 1, 4) == others + 3 * table


def test_under_autocast_the_two_gradients_of_a_tied_table_are_summed_in_place() -> None:
    # the head's gradient has just been copied to float32, so the engine may add to it: two tables and the incoming
    # gradient of four tokens (counted with torch 2.13.0 and transformers 5.23.0 for Gemma 2, Command R+ and Falcon)
    model = grouped_window_model(model_type="llama", sliding_window=None, tie_word_embeddings=True, vocab_size=20_000)
    profile = training_profile(model, Mode(one=True, weights=FLOAT, autocast=True))
    table = 20_000 * 384 * 4
    others = 4 * model.parameters - table
    assert profile.need("backward", 1, 4) == others + 2 * table + 4 * 384 * 4


def test_adapters_on_a_model_with_a_tied_table_make_no_gradient_of_it() -> None:
    # dropout after the embedding gives its output a gradient of its own under checkpointing, but the table is frozen
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 50_000}
    model = read_model({"model_type": "gpt2", **sizes})
    mode = Mode(one=True, frozen=True, adapter=Adapter(8, ("all-linear",), FLOAT))
    assert training_profile(model, mode, "full").need("backward", 1, 4) < 50_000 * 64


@settings(max_examples=200, deadline=None)
@given(
    moments=st.lists(st.tuples(*[st.integers(-50, 50)] * 6, st.just(0)), min_size=1, max_size=8),
    more=st.integers(0, 9),
    length=st.integers(1, 9),
    further=st.integers(0, 60),
)
def test_the_leading_moments_hold_the_largest_from_there_on(
    moments: list[Moment], more: int, length: int, further: int
) -> None:
    for one, sequences in ((True, 1), (False, 2 + more)):
        kept = leading(moments, one, length)
        assert largest(kept, sequences, length + further) == largest(moments, sequences, length + further)
