"""SGLang: fused weights, a cache without blocks, and pools that are a share of the GPU less what the weights take."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidSetup
from ..estimate import Part
from ..gpus import GPU
from ..units import GIB, MIB, ceil_div
from .arithmetic import needed_cache, weights_part
from .base import Engine, Measured, Option, Pool, Question, Share, visible
from .holdings import Loading, cache_formats, states_held, weights_reserved
from .moments import widest
from .pages import kinds
from .transformers import CONTEXT
from .vllm import IDS, repacked, tables

LOADING = Loading(vocabulary=64, cut_towers=True, allocator=True, fused=True)
WINDOW_SHARE = 0.8  # server_args.py: swa_full_tokens_ratio, tokens of window layers for each token of full ones
STATE_SHARE = 0.9  # server_args.py: mamba_full_memory_ratio, bytes of states for each byte of cache
GRAPHS = Measured(700 * MIB, 180 * MIB, 3000 * MIB, "a log of Qwen2.5-1.5B: 0.18 and 0.51 GiB for its two captures")

OPTIONS = (
    Option(
        "mem_fraction_static",
        float,
        None,
        "share of the GPU for weights and pools; by the GPU's size if absent",
        0.01,
        1,
    ),
    Option("chunked_prefill_size", int, None, "tokens of one prefill step; by the GPU's size if absent", 1, 10**7),
    Option("context_length", int, None, "longest sequence; the model's own context if absent", 1, 10**9),
    Option("max_running_requests", int, None, "sequences of one step; by the pool if absent", 1, 10**6),
    Option("page_size", int, 1, "tokens of a cache page", 1, 4096),
    Option("enable_dp_attention", bool, False, "replicas share experts: as data_parallel_attention"),
    Option("disable_cuda_graph", bool, False, "no CUDA graphs"),
)

# server_args.py: GPU memory below so many MiB → chunked_prefill_size, cuda_graph_max_bs
SIZES = ((20, 2048, 8), (35, 2048, 24), (60, 4096, 32), (90, 8192, 256), (160, 8192, 512), (10**6, 16384, 512))


def defaults(gpu: GPU | None) -> tuple[int, int]:
    """Tokens of a prefill step and the largest captured batch, by the GPU's size. [server_args.py]"""
    size = gpu.memory if gpu is not None else 80 * GIB
    return next((tokens, batch) for below, tokens, batch in SIZES if size < below * GIB)


def settle(question: Question) -> Question:
    """Options that follow from the GPU; data-parallel attention may be said in either way."""
    setup, options = question.setup, dict(question.options)
    if options["enable_dp_attention"] and setup.data_parallel > 1 and not question.placement.joined:
        raise InvalidSetup("enable_dp_attention goes with data_parallel_attention: say both", "data_parallel_attention")
    options["enable_dp_attention"] = question.placement.joined or options["enable_dp_attention"]
    tokens, batch = defaults(setup.gpu)
    if options["chunked_prefill_size"] is None:
        options["chunked_prefill_size"] = tokens
    if options["context_length"] is None:
        options["context_length"] = question.model.max_context or max(setup.sequence_length, 2048)
    if options["mem_fraction_static"] is None and setup.gpu is not None:
        options["mem_fraction_static"] = fraction(question, setup.gpu, int(options["chunked_prefill_size"] or 0), batch)
    return question._replace(options=options, recipe=question.once("repacked", lambda: repacked(question)))


def fraction(question: Question, gpu: GPU, chunk: int, batch: int) -> float:
    """What is not reserved for activations, graphs and communication. [server_args.py: reserved_mem, in MiB]"""
    placement = question.placement
    reserved = 512 + max(chunk, 2048) * 1.5 + batch * 2 + placement.tensor * placement.pipeline / 8 * 1024
    size = gpu.memory / MIB
    return round(max(size - reserved, size * 0.1) / size, 3)


def reserved(question: Question, stage: int) -> tuple[int, int, str]:
    """Bytes of the slots that the workload takes on one GPU: of tokens, of states. A window's pool is a fixed share of
    the full layers' pool, whatever the window."""
    setup, placement = question.setup, question.placement
    assert setup.kv_cache_precision
    page = question.number("page_size", 1)
    tokens = ceil_div(setup.sequence_length, page) * page
    stored = cache_formats(setup.kv_cache_precision)
    full = windowed = 0
    for kind in kinds(question.model, placement, stage, stored, question.width, packed=False):
        if kind.window is not None:
            windowed += kind.layers * kind.token
        else:
            full += kind.layers * kind.token
    slots = tokens if not full else ceil_div(int(tokens * WINDOW_SHARE * 1000), 1000)
    state = states_held(question.model, placement, stage, question.width, spared=1)
    formula = f"{setup.batch_size} × {tokens:,} slots × {full + windowed:,} bytes"
    if windowed and full:
        formula = f"{setup.batch_size} × ({tokens:,} × {full:,} bytes + {slots:,} × {windowed:,} in windows' pool)"
    if state:
        formula += f" + {setup.batch_size} × {state:,} bytes of state"
    return setup.batch_size * (tokens * full + slots * windowed), setup.batch_size * state, formula


def activation(question: Question, stage: int) -> tuple[int, str]:
    """A prefill step of a chunk, and logits of the sequences that end in it in 16 bit and in float32."""
    setup = question.setup
    tokens = min(question.number("chunked_prefill_size", 8192), setup.batch_size * setup.sequence_length)
    width = widest(question.model, question.placement, stage)
    passed = tokens * (width * question.width + IDS)
    if stage == question.placement.pipeline - 1:
        passed = max(passed, setup.batch_size * question.model.head.vocabulary * (question.width + 2 * 4))
    return passed, f"{tokens:,} tokens × ({width:,} elements × {8 * question.width} bits + {IDS} bytes) [not measured]"


def share(question: Question, stage: int) -> Share:
    """One GPU: fused weights in whole segments, rotary tables in float32, slots for the workload, a chunk's
    activations, graphs."""
    model, setup, placement = question.model, question.setup, question.placement

    def stored() -> tuple[Part, Part]:
        assert setup.precision
        turned = 2 * tables(question)
        size = weights_reserved(model, question.recipe, setup.precision, placement, stage, LOADING) + turned
        graphs = Measured(0, 0, 0, "disable_cuda_graph") if question.options.get("disable_cuda_graph") else GRAPHS
        overhead = Part(
            "runtime_overhead",
            CONTEXT.expected + graphs.expected,
            f"driver context {CONTEXT.expected:,}, CUDA graphs {graphs.expected:,} [{graphs.source}]",
            CONTEXT.low + graphs.low,
            CONTEXT.high + graphs.high,
        )
        said = f" in segments of torch's allocator + {turned:,} of rotary tables"
        return weights_part(question, size, said), overhead

    weights, overhead = question.once(("held", stage), stored)
    needed, _ = needed_cache(question, stage)
    slots, state, formula = reserved(question, stage)
    cache = Part("kv_cache", slots + state, formula)
    passed, said = activation(question, stage)
    activations = Part("activation_memory", passed, said, passed * 3 // 4, passed * 2)
    return Share(
        placement.tensor * placement.data,
        weights,
        (cache, cache),
        (activations, activations),
        (overhead,),
        needed,
        state,
    )


def pool(question: Question, held: Share) -> Pool:
    """mem_fraction_static of the memory that is free at start, less the weights."""
    gpu = question.setup.gpu
    assert gpu is not None
    free = visible(gpu) - CONTEXT.expected
    limit = int(free * float(question.options["mem_fraction_static"] or 0.88))
    return Pool(limit, limit - held.weights.bytes, held.cache[1].bytes)


def report(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    """Its lines at start, for the fullest GPU: the weights are a difference of free memory."""
    setup = question.setup
    held = max(shares, key=lambda each: each.weights.bytes)
    slots = max(each.cache[1].bytes for each in shares)
    said: dict[str, Any] = {
        "model_weights_gib": round(held.weights.bytes / GIB, 2),
        "kv_cache_gib": round(slots / GIB, 2),
        "max_total_num_tokens": setup.batch_size * setup.sequence_length,
    }
    if setup.gpu is None:
        return said
    tokens, sizes = [], []
    for each in shares:
        left = max(pool(question, each).size, 0)
        per_token = max(each.cache[1].bytes - each.state, 1) / (setup.batch_size * setup.sequence_length)
        if each.state:  # the pool is dealt between states and tokens
            left = int(left / (1 + STATE_SHARE))
        sizes.append(left)
        tokens.append(int(left / per_token))
    return said | {"kv_cache_gib": round(min(sizes) / GIB, 2), "max_total_num_tokens": min(tokens)}


SGLANG = Engine(
    "sglang",
    ("0.5.6",),
    OPTIONS,
    share,
    report,
    {
        "defaults": "sglang/srt/server_args.py: chunked_prefill_size, mem_fraction_static by GPU memory",
        "pools": "sglang/srt/model_executor/model_runner.py: swa_full_tokens_ratio, mamba_full_memory_ratio",
        "load": "c10/cuda/CUDACachingAllocator.cpp: the weights are a difference of free memory, so whole segments",
        "graphs": GRAPHS.source,
        "context": CONTEXT.source,
    },
    pool,
    settle,
)
