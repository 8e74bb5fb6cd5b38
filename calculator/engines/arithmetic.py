"""No engine: weights and cache by arithmetic, and the largest moment of transformers' forward pass."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from ..estimate import Part
from ..formats import Format
from ..layers.blocks import Block
from ..model import Model
from ..parallel import ALONE, part_of, stage_ends
from ..precisions import tape_dtype
from ..profile import inference_profile, largest, leading
from ..quantization import NormalFloat
from ..tape import Mode, Moment
from .base import Engine, Question, Share
from .holdings import PLAIN, Loading, cache_formats, layers_of, spelled, states_held, weights_held

Moments = tuple[Moment, ...]
IDS = 8  # bytes a token id


class Sizes(NamedTuple):
    """What so many sequences take on one GPU of a stage, beside weights.

    early, late        bytes of the cache with its states, once the prompt is through and at the end
    prefill, decode    bytes of the largest moment less the cache
    elements           of the cache that one sequence keeps, early and late
    state              bytes of all states
    """

    early: int
    late: int
    prefill: int
    decode: int
    elements: tuple[int, int]
    state: int


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """What a stage's GPU runs and keeps, whatever the workload.

    model     the layers with their share of heads and widths
    layers    each different layer as the whole model has it, and how many of it there are
    ways      tensor parallelism
    stored    the cache's format
    state     bytes of states a sequence
    mode      of a forward pass
    width     bytes of an activation's element
    logits    whether they are made for every position
    packed    whether weights are unpacked to a 16-bit copy for a product of more than one row, as bitsandbytes does in
              4 bit [bitsandbytes/autograd/_functions.py: matmul_4bit]
    passes    the moments of a prefill and of a decode step, by what they depend on
    """

    model: Model
    layers: tuple[tuple[Block, int], ...]
    ways: int
    stored: Format
    state: int
    mode: Mode
    width: int
    logits: bool
    packed: bool
    passes: dict[tuple[bool, bool, bool, int, int], tuple[Moments, Moments]]

    def elements(self, tokens: int) -> int:
        """Elements of the cache that one sequence keeps."""
        held, ways = 0, self.ways
        for layer, count in self.layers:
            held += count * layer.cache(tokens, ways)
        return held

    def sizes(self, batch: int, prompt: int, length: int) -> Sizes:
        """Bytes with so many sequences, whose forward passes hold their cache in 16 or 32 bit as transformers does."""
        early = late = self.elements(length)
        if prompt != length:
            early = self.elements(prompt)
        windows = self.model.windows
        exceeded = (bisect_right(windows, prompt), bisect_right(windows, length)) if windows else (0, 0)
        key = (batch == 1, prompt == length, batch * prompt > 1, *exceeded)
        passes = self.passes.get(key)
        if passes is None:
            passes = self.passes[key] = self.passed(*key)
        prefill, decode = largest(passes[0], batch, prompt), largest(passes[1], batch, length)
        inputs, beside, state, stored = IDS * batch * (prompt + 1), batch * self.width, batch * self.state, self.stored
        return Sizes(
            batch * stored.bytes(early) + state,
            batch * stored.bytes(late) + state,
            max(prefill - early * beside - state, 0) + inputs,
            max(decode - late * beside - state, 0) + inputs,
            (early, late),
            state,
        )

    def passed(self, one: bool, fresh: bool, many: bool, first: int, last: int) -> tuple[Moments, Moments]:
        """A prefill and a decode step of `one` sequence or more; `many` rows; windows that each exceeds."""
        windows = self.model.windows

        def moments(step: str, exceeded: int, packed: bool) -> Moments:
            past = windows[:exceeded]
            mode = replace(self.mode, step=step, one=one, fresh=fresh, exceeded=frozenset(past), quantized=packed)
            profile = inference_profile(self.model, mode, self.logits)
            return leading(profile.phases[step], one, past[-1] if past else 1)

        return moments("prefill", first, self.packed and many), moments("decode", last, self.packed and not one)


def stage_of(question: Question, stage: int) -> Stage:
    """The stage, worked out once."""

    def work() -> Stage:
        model, placement, setup = question.model, question.placement, question.setup
        layers = tuple(layers_of(model, placement.pipeline, stage).items())
        assert setup.precision and setup.kv_cache_precision
        state = states_held(model, placement, stage, question.width)
        if placement is not ALONE:
            first, last = stage_ends(len(model.layers), placement.pipeline)[stage]
            model = part_of(model, placement.tensor, first, last)
        return Stage(
            model,
            layers,
            placement.tensor,
            cache_formats(setup.kv_cache_precision),
            state,
            Mode(weights=tape_dtype(setup.precision), attention=setup.attention, frozen=True),
            question.width,
            setup.logits == "all",
            isinstance(question.recipe, NormalFloat),
            {},
        )

    return question.once(("stage", stage, question.setup.kv_cache_precision), work)


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


def needed_cache(question: Question, stage: int) -> tuple[int, int]:
    """Bytes of the cache by arithmetic on one GPU: what grows with tokens, and states."""
    setup, held = question.setup, stage_of(question, stage)
    batch = setup.batch_size
    return batch * held.stored.bytes(held.elements(setup.sequence_length)), batch * held.state


def prefilled(held: Stage, batch: int, prompt: int, sizes: Sizes) -> tuple[Part, Part]:
    """Cache and activations at the largest moment of a prefill."""
    cache = _cache_part(held, batch, sizes.elements[0], sizes.early, sizes.state)
    return cache, Part("activation_memory", sizes.prefill, f"largest moment of prefill: {batch} × {prompt:,} tokens")


def decoded(held: Stage, batch: int, length: int, sizes: Sizes) -> tuple[Part, Part]:
    """The same of a decode step."""
    cache = _cache_part(held, batch, sizes.elements[1], sizes.late, sizes.state)
    return cache, Part("activation_memory", sizes.decode, f"largest moment of decode: {batch} × {length:,} tokens")


def _cache_part(held: Stage, batch: int, elements: int, size: int, state: int) -> Part:
    """Cache of every sequence, of so many elements each, and the states of all."""
    formula = f"{batch} × {elements:,} elements × {held.stored.bits_per_weight:g} bits"
    return Part("kv_cache", size, f"{formula} + {state:,} bytes of state" if state else formula)


def weights_of(question: Question, stage: int, loading: Loading = PLAIN) -> Part:
    """Weights of one GPU, worked out once."""

    def work() -> Part:
        assert question.setup.precision
        size = weights_held(
            question.model, question.recipe, question.setup.precision, question.placement, stage, loading
        )
        return weights_part(question, size, ", in blocks of torch's allocator" if loading.allocator else "")

    return question.once(("weights", stage), work)


def share(question: Question, stage: int, loading: Loading = PLAIN) -> Share:
    """One GPU by arithmetic alone."""
    setup, placement, held = question.setup, question.placement, stage_of(question, stage)
    batch, length, prompt = setup.batch_size, setup.sequence_length, setup.prompt_length
    assert prompt
    sizes = held.sizes(batch, prompt, length)
    first, prefill = prefilled(held, batch, prompt, sizes)
    cache, decode = decoded(held, batch, length, sizes)
    return Share(
        placement.tensor * placement.data,
        weights_of(question, stage, loading),
        (first, cache),
        (prefill, decode),
        (),
        sizes.late - sizes.state,
        sizes.state,
    )


def _nothing(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    return {}


def _share(question: Question, stage: int) -> Share:
    return share(question, stage)


BARE = Engine("none", ("0",), (), _share, _nothing, {})
