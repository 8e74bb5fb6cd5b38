"""No engine: weights and cache by arithmetic, and the largest moment of transformers' forward pass."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..estimate import Part
from ..model import Model
from ..parallel import ALONE, part_of, stage_ends
from ..precisions import tape_dtype
from ..profile import Profile, inference_profile
from ..quantization import NormalFloat
from ..tape import Mode
from .base import Engine, Question, Share
from .holdings import PLAIN, Loading, cache_formats, cache_held, spelled, states_held, weights_held

IDS = 8  # bytes a token id
NO_WINDOWS: frozenset[int] = frozenset()


@lru_cache(maxsize=4096)
def _profile(
    model: Model,
    step: str,
    dtype: str,
    attention: str,
    one: bool,
    exceeded: frozenset[int],
    fresh: bool,
    all_logits: bool,
    quantized: bool,
) -> Profile:
    mode = Mode(
        step=step,
        weights=dtype,
        attention=attention,
        frozen=True,
        one=one,
        exceeded=exceeded,
        fresh=fresh,
        quantized=quantized,
    )
    return inference_profile(model, mode, all_logits)


def need(question: Question, stage: int, step: str, length: int) -> int:
    """Bytes that one forward pass takes beside weights, cache included as transformers stores it in 16 or 32 bit."""
    model, setup, placement = question.model, question.setup, question.placement
    if placement is not ALONE:
        first, last = stage_ends(len(model.layers), placement.pipeline)[stage]
        model = part_of(model, placement.tensor, first, last)
    assert setup.precision
    profile = _profile(
        model,
        step,
        tape_dtype(setup.precision),
        setup.attention,
        setup.batch_size == 1,
        frozenset([window for window in model.windows if length >= window]) if model.windows else NO_WINDOWS,
        setup.prompt_length == setup.sequence_length,
        setup.logits == "all",
        unpacked(question, step),
    )
    return profile.need(step, setup.batch_size, length)


def unpacked(question: Question, step: str) -> bool:
    """Whether weights are unpacked to a 16-bit copy for a product: bitsandbytes does so in 4 bit for more than one row.
    [bitsandbytes/autograd/_functions.py: matmul_4bit]"""
    setup = question.setup
    rows = setup.batch_size if step == "decode" else setup.batch_size * (setup.prompt_length or 1)
    return isinstance(question.recipe, NormalFloat) and rows > 1


def moments(question: Question, stage: int, elements: tuple[int, int], state: int) -> tuple[Part, Part]:
    """Activations of a prefill and of a decode step: the largest moment less the cache, of so many elements a sequence
    in either, and less the states."""
    setup, width = question.setup, question.width
    assert setup.prompt_length
    batch, prompt, length = setup.batch_size, setup.prompt_length, setup.sequence_length
    inputs, beside = IDS * batch * (prompt + 1), batch * width
    early, late = elements
    prefill = max(need(question, stage, "prefill", prompt) - early * beside - state, 0) + inputs
    decode = max(need(question, stage, "decode", length) - late * beside - state, 0) + inputs
    return (
        Part("activation_memory", prefill, f"largest moment of prefill: {batch} × {prompt:,} tokens"),
        Part("activation_memory", decode, f"largest moment of decode: {batch} × {length:,} tokens"),
    )


def weights_part(question: Question, size: int, beside: str = "") -> Part:
    """Weights of one GPU, named as the request names them; `beside` says what else is in the figure."""
    placement, precision = question.placement, question.setup.precision
    assert precision
    ways = placement.gpus // placement.data
    return _weights_part(question.model.parameters, spelled(question.recipe, precision), ways, size, beside)


@lru_cache(maxsize=2048)
def _weights_part(parameters: int, stored: str, ways: int, size: int, beside: str) -> Part:
    shared = "" if ways == 1 else f", one of {ways} GPUs"
    return Part("model_weights", size, f"{parameters:,} parameters × {stored}{shared}{beside}")


def cache_part(question: Question, elements: int, state: int) -> Part:
    """Cache of every sequence, of so many elements each, and the states of all."""
    batch, precision = question.setup.batch_size, question.setup.kv_cache_precision
    assert precision
    stored = cache_formats(precision)
    size = batch * stored.bytes(elements) + state
    formula = f"{batch} × {elements:,} elements × {stored.bits_per_weight:g} bits"
    return Part("kv_cache", size, f"{formula} + {state:,} bytes of state" if state else formula)


def needed_cache(question: Question, stage: int) -> tuple[int, int]:
    """Bytes of the cache by arithmetic on one GPU: what grows with tokens, and states."""
    setup, placement = question.setup, question.placement
    assert setup.kv_cache_precision
    elements = cache_held(question.model, placement, stage, setup.sequence_length)
    state = states_held(question.model, placement, stage, question.width)
    return setup.batch_size * cache_formats(setup.kv_cache_precision).bytes(elements), setup.batch_size * state


def share(question: Question, stage: int, loading: Loading = PLAIN) -> Share:
    """One GPU by arithmetic alone."""
    model, setup, placement = question.model, question.setup, question.placement
    assert setup.precision and setup.prompt_length
    late = early = cache_held(model, placement, stage, setup.sequence_length)
    state = setup.batch_size * states_held(model, placement, stage, question.width)
    cache = first = cache_part(question, late, state)
    if setup.prompt_length != setup.sequence_length:
        early = cache_held(model, placement, stage, setup.prompt_length)
        first = cache_part(question, early, state)
    return Share(
        placement.tensor * placement.data,
        weights_part(
            question,
            weights_held(model, question.recipe, setup.precision, placement, stage, loading),
            ", in blocks of torch's allocator" if loading.allocator else "",
        ),
        (first, cache),
        moments(question, stage, (early, late), state),
        (),
        cache.bytes - state,
        state,
    )


def _nothing(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    return {}


def _share(question: Question, stage: int) -> Share:
    return share(question, stage)


BARE = Engine("none", ("0",), (), _share, _nothing, {})
