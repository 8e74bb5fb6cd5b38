"""llama.cpp: GGUF files on one or several GPUs, a cache of cells set aside for the whole context, and one buffer in
which the graph of a step is laid out.

The compute buffer is what ggml's allocator needs for the graph of `n_ubatch` tokens over the full context: the largest
sum of tensors alive at once. Written down here are the moments that can be it: the logits beside the hidden states,
attention over all cells, and the feed-forward part. Activations are float32.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import InvalidSetup
from ..estimate import Part
from ..formats import GGML, MXFP4, Format, Recipe
from ..gguf import FileType, file_type
from ..layers.blocks import Block
from ..model import Model
from ..parallel import mixers, stage_ends
from ..quantization import Microscaled
from ..tensors import Tensor
from ..units import GIB, MIB, ceil_div, mib, round_up
from ..weights import facts_of
from .arithmetic import needed_cache, weights_part
from .base import Engine, Measured, Option, Question, Share, calibrated
from .holdings import growth, layers_between
from .moments import dense_width, routed_width

PADDING = 256  # cells: llama-context.cpp pads n_ctx, llama-kv-cache-iswa.cpp a window's cells
FLOAT = 4
COPIES = 4  # GGML_SCHED_MAX_COPIES: inputs of each GPU when several work as a pipeline
CONTEXT = Measured(
    244 * MIB, 150 * MIB, 600 * MIB, "nvidia-smi less all buffers of a 7B model on an RTX 5070: 244 MiB of CUDA context"
)
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
AS_CACHE_TYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "fp8": "q8_0", "int8": "q8_0", "int4": "q4_0"}
AS_PRECISION = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
FILES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

OPTIONS = (
    Option("n_ctx", int, None, "cells of the cache; batch_size × sequence_length if absent, padded to 256", 1, 10**10),
    Option("n_batch", int, 2048, "tokens handed over at once", 1, 10**7),
    Option("n_ubatch", int, 512, "tokens of one graph", 1, 10**7),
    Option("n_seq_max", int, None, "sequences that may be held; batch_size if absent", 1, 10**6),
    Option(
        "n_gpu_layers",
        int,
        None,
        "layers on the GPU, the output first and then the last ones; all of them if absent",
        0,
        10**5,
    ),
    Option("flash_attn", bool, True, "flash attention, which needs no score matrix"),
    Option("cache_type_k", str, "f16", "what keys are kept in", choices=CACHE_TYPES),
    Option("cache_type_v", str, "f16", "what values are kept in", choices=CACHE_TYPES),
    Option("swa_full", bool, False, "layers with a window keep the whole context"),
    Option(
        "mla_attn", int, 3, "latent attention: 0 whole keys and values, 1 latent and its transpose, 2, 3 latent", 0, 3
    ),
)


def settle(question: Question) -> Question:
    """Options that follow from the workload; the file type."""
    setup, options = question.setup, dict(question.options)
    said = dict(setup.engine_options)
    if setup.kv_cache_precision is not None and question.asked_cache is not None:
        kept = AS_CACHE_TYPE.get(question.asked_cache, question.asked_cache)
        for name in ("cache_type_k", "cache_type_v"):
            if name not in said:
                options[name] = kept
    if options["n_seq_max"] is None:
        options["n_seq_max"] = setup.batch_size
    if options["n_ctx"] is None:
        options["n_ctx"] = setup.batch_size * round_up(setup.sequence_length, PADDING)
    if options["n_gpu_layers"] is None:
        options["n_gpu_layers"] = len(question.model.layers) + 1
    key, value = str(options["cache_type_k"]), str(options["cache_type_v"])
    if GGML[value].block_weights > 1 and not options["flash_attn"]:
        raise InvalidSetup(
            "cache_type_v needs flash_attn where it is quantized: choose f16, or flash_attn true",
            "engine_options.cache_type_v",
        )
    setup = setup._replace(kv_cache_precision=AS_PRECISION.get(key, key if key != "iq4_nl" else "q4_0"))
    return question._replace(options=options, recipe=question.once("file", lambda: file_of(question)), setup=setup)


def file_of(question: Question) -> Recipe | None:
    """The GGUF file type: the one asked for, or that into which the checkpoint would be converted."""
    recipe, setup = question.recipe, question.setup
    if isinstance(recipe, FileType):
        return recipe
    if setup.quantization is not None:
        raise InvalidSetup(
            f"llama.cpp reads GGUF files, not {setup.quantization}: choose gguf-q4_k_m, gguf-q8_0 or another gguf kind",
            "quantization",
        )
    if recipe is not None:
        experts = isinstance(recipe, Microscaled) and recipe.format is MXFP4
        return file_type("mxfp4_moe" if experts else "bf16")
    assert setup.precision
    return file_type(FILES[setup.precision]) if setup.precision in FILES else None


# ---------------------------------------------------------------------------------------------- cache


@dataclass(frozen=True, slots=True)
class Cells:
    """What one layer stores for a cell: elements of keys and of values, and its window."""

    keys: int
    values: int
    window: int | None


@lru_cache(maxsize=4096)
def cells_of(layer: Block, latent: int) -> tuple[Cells, ...]:
    """Keys and values of a layer; of latent attention what `latent` (mla_attn) says."""
    made = []
    for mixer in mixers(layer):
        token = mixer.cache(1)
        if not token:
            continue
        window = getattr(mixer, "window", None)
        rank = getattr(mixer, "latent", 0)
        if not rank:
            made.append(Cells(token - token // 2, token // 2, window))
        elif latent == 0:
            made.append(Cells(mixer.heads * mixer.head_dim, mixer.heads * mixer.value, window))
        else:
            made.append(Cells(token, rank if latent == 1 else 0, window))
    if any(each.window is not None for each in made) and growth(layer):
        made.append(Cells(growth(layer), 0, None))  # compressed entries beyond the window
    return tuple(made)


def kept_cells(question: Question, window: int | None) -> int:
    """Cells of a layer: all of the context, or of its window for each sequence and one graph's tokens, padded.

    [llama-kv-cache-iswa.cpp: size_swa = GGML_PAD(min(size_base, n_swa·n_seq_max + n_ubatch), 256)]
    """
    whole = round_up(question.number("n_ctx", 4096), PADDING)
    if window is None or question.options.get("swa_full"):
        return whole
    few = window * question.number("n_seq_max", 1) + question.number("n_ubatch", 512)
    return min(round_up(few, PADDING), whole)


def cache_between(question: Question, first: int, last: int) -> int:
    """Bytes of the cells of some layers."""
    kinds = GGML[str(question.options["cache_type_k"])], GGML[str(question.options["cache_type_v"])]
    latent = question.number("mla_attn", 3)
    total = 0
    for layer, count in layers_between(question.model, first, last).items():
        for each in cells_of(layer, latent):
            cells = kept_cells(question, each.window)
            total += count * (_rows(kinds[0], each.keys, cells) + _rows(kinds[1], each.values, cells))
    return total


def _rows(stored: Format, elements: int, cells: int) -> int:
    return stored.bytes(elements * cells)


def states_between(question: Question, first: int, last: int) -> int:
    """Bytes of recurrent states, float32, one of each for every sequence that may be held."""
    total = 0
    for layer, count in layers_between(question.model, first, last).items():
        for state in layer.states():
            kept = state.elements * (state.columns - 1) // state.columns if state.columns else state.elements
            total += count * kept * FLOAT
    return total * question.number("n_seq_max", 1)


# ---------------------------------------------------------------------------------------------- weights


@lru_cache(maxsize=4096)
def _file(model: Model, recipe: Recipe | None, precision: str) -> tuple[int, int, int, tuple[int, ...]]:
    """Bytes of the file's parts: the table of tokens, the output matrix where it is not the table, the rest outside the
    layers, and each layer."""
    facts = facts_of(model)

    def size(tensor: Tensor, layer: int | None) -> int:
        if recipe is None:
            return ceil_div(tensor.elements * (8 if precision == "int8" else 4), 8)
        return recipe.bytes(tensor, layer, facts)

    table = sum(size(tensor, None) for tensor in model.embedding.tensors())
    outputs = [tensor for tensor in model.head.tensors() if tensor.role == "output"]
    output = sum(size(tensor, None) for tensor in outputs)
    rest = sum(size(tensor, None) for tensor in model.head.tensors() if tensor.role != "output")
    seen: dict[tuple[Block, Hashable], int] = {}
    layers = []
    for place, layer in enumerate(model.layers):
        key = layer, None if recipe is None else recipe.alike(place, facts)
        if key not in seen:
            seen[key] = sum(size(tensor, place) for tensor in layer.tensors())
        layers.append(seen[key])
    return table, output, rest, tuple(layers)


def file_parts(question: Question) -> tuple[int, int, int, tuple[int, ...]]:
    """The same for a question."""
    assert question.setup.precision
    return _file(question.model, question.recipe, question.setup.precision)


def on_gpu(question: Question, stage: int) -> tuple[int, int, bool]:
    """Layers of a stage that are on its GPU, and whether the output is there too: it counts as the last layer, and the
    last ones go first. [llama-model.cpp: i_gpu_start = n_layer + 1 - n_gpu_layers]"""
    count, placement = len(question.model.layers), question.placement
    offloaded = question.number("n_gpu_layers", count + 1)
    first, last = stage_ends(count, placement.pipeline)[stage]
    return max(first, min(count + 1 - offloaded, last)), last, offloaded > 0 and stage == placement.pipeline - 1


def weights_on_gpu(question: Question, stage: int) -> int:
    """The layers that are offloaded, and the output matrix. The table of tokens stays with the CPU; one that is the
    output too is there a second time."""
    table, output, rest, layers = file_parts(question)
    first, last, with_output = on_gpu(question, stage)
    total = sum(layers[first:last])
    if with_output:
        total += (output or table) + rest
    return ceil_div(total, question.placement.tensor)


# ---------------------------------------------------------------------------------------------- compute buffer


def attention_elements(question: Question, layer: Block) -> int:
    """float32 elements a token while a layer attends: two hidden states, queries and the output, and what runs along
    the cells: the mask (half as wide with flash attention) and, without it, a row of scores for each head."""
    hidden, flash = question.model.hidden, bool(question.options.get("flash_attn"))
    most = 0
    for mixer in mixers(layer):
        if not mixer.cache(1):
            continue
        cells = kept_cells(question, getattr(mixer, "window", None))
        rank = getattr(mixer, "latent", 0)
        if rank and question.number("mla_attn", 3):
            wide = mixer.heads * (rank + mixer.rotary) + mixer.heads * rank
        else:
            wide = 2 * getattr(mixer, "heads", 1) * getattr(mixer, "head_dim", mixer.cache(1))
        rows = ceil_div(cells, 2) if flash else cells * (getattr(mixer, "heads", 1) + 1)
        most = max(most, 2 * hidden + wide + rows)
    return most


def feeding_elements(question: Question, layer: Block) -> int:
    """float32 elements a token in the feed-forward part: the residual, what enters, and gate, up and their product."""
    tensors, placement, hidden = layer.tensors(), question.placement, question.model.hidden
    dense = dense_width(tensors, placement, "mlp_dense")
    return 2 * hidden + max(
        dense, dense_width(tensors, placement, "shared_experts"), routed_width(tensors, placement, hidden)
    )


def compute_buffer(question: Question, stage: int) -> tuple[int, str]:
    """Bytes of the graph's buffer on the GPU of a stage."""
    model, placement = question.model, question.placement
    tokens = min(question.number("n_ubatch", 512), question.number("n_ctx", 4096))
    hidden = model.hidden
    first, last, _ = on_gpu(question, stage)
    if first == last:
        return 0, "no layer is on the GPU"
    moments = {
        "attention": max(attention_elements(question, layer) for layer in layers_between(model, first, last)),
        "feed-forward": question.once(
            ("feeding", stage),
            lambda: max(feeding_elements(question, layer) for layer in layers_between(model, first, last)),
        ),
    }
    if stage == placement.pipeline - 1:
        moments["logits"] = model.head.vocabulary + hidden
    name = max(moments, key=lambda each: moments[each])
    size = moments[name] * tokens * FLOAT
    formula = f"{name}: {tokens:,} tokens × {moments[name]:,} elements × 32 bits"
    if placement.pipeline > 1:
        cells = kept_cells(question, None)
        copies = COPIES * tokens * (cells * 2 + hidden * FLOAT) + tokens * hidden * FLOAT
        size += copies
        formula += f" + {COPIES} copies of mask and hidden states"
    return size, formula


# ---------------------------------------------------------------------------------------------- the engine


OVERHEAD = calibrated("runtime_overhead", CONTEXT, "driver context")


def share(question: Question, stage: int) -> Share:
    """One GPU: offloaded layers with their cells and states, and the graph's buffer."""
    placement = question.placement
    first, last, with_output = on_gpu(question, stage)

    def stored() -> Part:
        output = " and the output" if with_output else ""
        count = len(question.model.layers)
        said = f": {last - first} of {count} layers{output}; the table of tokens stays with the CPU"
        return weights_part(question, weights_on_gpu(question, stage), said)

    weights = question.once(("weights", stage), stored)
    grown, state = cache_between(question, first, last), states_between(question, first, last)
    grown, state = ceil_div(grown, placement.tensor), ceil_div(state, placement.tensor)
    key, value = question.options["cache_type_k"], question.options["cache_type_v"]
    formula = (
        f"{last - first} layers × {kept_cells(question, None):,} cells (fewer in windows), keys {key}, values {value}"
    )
    if state:
        formula += f" + {question.number('n_seq_max', 1)} states of {state:,} bytes in all"
    cache = Part("kv_cache", grown + state, formula)
    size, said = compute_buffer(question, stage)
    cells = kept_cells(question, None)
    held = min(question.number("n_ubatch", 512), cells) * cells * FLOAT  # older versions kept the mask besides
    said += " [exact on 6 logs; an older one kept the mask besides, 20 % more]"
    buffer = Part("activation_memory", size, said, size * 9 // 10, size + held)
    needed, needed_state = needed_cache(question, stage)
    return Share(
        placement.tensor * placement.data,
        weights,
        (cache, cache),
        (buffer, buffer),
        (OVERHEAD,),
        needed,
        min(state, needed_state) if state else 0,
    )


def report(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    """Its lines at start: file, cache and states in all, buffers of the fullest GPU."""
    table, output, rest, layers = file_parts(question)
    count = len(question.model.layers)
    return {
        "model_size_gib": round((table + output + rest + sum(layers)) / GIB, 4),
        "kv_cache_mib": mib(cache_between(question, 0, count)),
        "recurrent_state_mib": mib(states_between(question, 0, count)),
        "model_buffer_mib": mib(max(each.weights.bytes for each in shares)),
        "compute_buffer_mib": mib(max(each.activations[0].bytes for each in shares)),
    }


def warn(question: Question, shares: tuple[Share, ...]) -> tuple[str, ...]:
    """A context too small for the workload."""
    setup, cells = question.setup, kept_cells(question, None)
    wanted = setup.batch_size * setup.sequence_length
    if wanted <= cells:
        return ()
    return (f"n_ctx holds {cells:,} tokens, batch_size × sequence_length asks for {wanted:,}: raise n_ctx",)


LLAMA_CPP = Engine(
    "llama.cpp",
    ("b7000",),
    OPTIONS,
    share,
    report,
    {
        "cells": "src/llama-context.cpp, src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp",
        "states": "src/llama-memory-recurrent.cpp: float32, kernel - 1 columns",
        "weights": "src/llama-model.cpp: the token table stays with the CPU",
        "compute buffer": "ggml/src/ggml-alloc.c, and logs: logits and one hidden state a token on seven models",
        "latent attention": "mla_attn as ik_llama.cpp counts it; llama.cpp itself keeps the latent",
        "context": CONTEXT.source,
    },
    None,
    settle,
    warn,
)
