"""vLLM: weights in fused tensors, a paged cache, and a pool of what a profiled step leaves of its share of the GPU.

What is arithmetic here follows the source; what is measured (graphs, memory outside torch) is a range with the logs it
was seen in. The V0 engine ends at 0.7; since 0.8 V1 profiles with chunked prefills.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..estimate import Part
from ..formats import MXFP4, Recipe
from ..gpus import GPU
from ..model import Model
from ..parallel import Placement
from ..quantization import Microscaled, Packed
from ..setup import InferenceSetup
from ..units import GIB, MIB, ceil_div
from .arithmetic import needed_cache, weights_part
from .base import RESERVED, Engine, Measured, Option, Pool, Question, Share, Value, Version, visible
from .holdings import Loading, cache_formats, weights_held
from .moments import widest
from .pages import Pages, kinds, paged
from .transformers import CONTEXT

LOADING = Loading(vocabulary=64, cut_towers=True, allocator=True, fused=True)  # DEFAULT_VOCAB_PADDING_SIZE

# A sampler that sorts holds for each sequence and token of the vocabulary: logits in 16 bit (2) and in float32 (4), the
# sorted values (4) and their places (8), and what torch's segmented sort works with: pairs of place and segment twice
# (2 × 8) and a second copy of the keys (4). [ATen/native/cuda/Sort.cu: segmented_sort_pairs_by_full_sort]
SORTED = 2 + 4 + 4 + 8 + 2 * 8 + 4
# Since 0.16 a Triton kernel cuts without sorting: logits in 16 bit (2), in float32 (4), and probabilities (4); beside
# them a row of float32 for each program that runs at once. [vllm-project/vllm#33538]
CUT = 2 + 4 + 4
PROGRAMS = 132  # one for each multiprocessor of an H100
IDS = 3 * 8  # token ids, positions, slots: int64 for each token of a step

LARGE_GPU = 70 * GIB
SMALL_GPU = 48 * GIB
GRAPH = Measured(350_000, 200_000, 900_000, "14 logs of vLLM 0.9 to 0.26, graph memory ÷ (sizes × (layers + 1))")
GRAPH_V0 = Measured(200_000, 100_000, 900_000, "a log of the V0 engine: 35 graphs of 40 layers took 0.27 GiB")
OUTSIDE_SMALL = Measured(50 * MIB, 20 * MIB, 130 * MIB, "5 logs on GPUs of 12 to 32 GB: 0.02 to 0.12 GiB outside torch")
OUTSIDE_LARGE = Measured(260 * MIB, 180 * MIB, 350 * MIB, "5 logs on A100 and H100: 0.18 to 0.33 GiB outside torch")
OUTSIDE_MANY = Measured(300 * MIB, 130 * MIB, 3600 * MIB, "8 logs on 2 to 8 GPUs: mostly 0.13 to 0.73 GiB, once 3.6")

# Percent of the figure that logs printed, over those that printed it: what was seen, and its range.
SEEN_V0 = ("within 3 % of 7 logs of the V0 engine", 90, 110)
SEEN = ("within 10 % of what 8 logs of V1 left of their GPUs; half of it on one with experts", 50, 125)

OPTIONS = (
    Option("max_model_len", int, None, "longest sequence; the model's own context if absent", 1, 10**9),
    Option(
        "max_num_batched_tokens",
        int,
        None,
        "tokens of one step; 8,192 on GPUs of 70 GiB and more that are no A100, else 2,048; before 0.8 max_model_len",
        1,
        10**7,
    ),
    Option("max_num_seqs", int, None, "sequences of one step; 1,024 on those large GPUs since 0.8, else 256", 1, 10**6),
    Option("gpu_memory_utilization", float, 0.9, "share of the GPU's total memory that may be used", 0.01, 1),
    Option("block_size", int, 16, "tokens of a cache block", 1, 4096),
    Option("enforce_eager", bool, False, "no CUDA graphs"),
    Option("swap_space", float, 4.0, "GiB of CPU memory for swapped blocks: none of it is on the GPU", 0, 10**5),
)


def is_large(gpu: GPU | None) -> bool:
    """Whether vLLM takes the larger defaults there: 70 GiB or more, and no A100. [arg_utils.py: get_batch_defaults]"""
    return gpu is not None and gpu.memory >= LARGE_GPU and "a100" not in gpu.name.lower()


def settle(question: Question) -> Question:
    """Options that follow from the model, the GPU and the version."""
    setup, model = question.setup, question.model
    options = dict(question.options)
    longest = question.number("max_model_len", model.max_context or max(setup.sequence_length, 2048))
    options["max_model_len"] = longest
    large = is_large(setup.gpu) and question.since(0, 8)
    if options["max_num_seqs"] is None:
        options["max_num_seqs"] = 1024 if large else 256
    if options["max_num_batched_tokens"] is None:
        # V0 prefills whole prompts; chunks come by themselves beyond 32K
        whole = not question.since(0, 8) and longest <= 32768
        options["max_num_batched_tokens"] = max(longest, 2048) if whole else 8192 if large else 2048
    recipe = question.once("repacked", lambda: repacked(question))
    return question._replace(recipe=recipe, options=options)


def repacked(question: Question) -> Recipe | None:
    """What kernels make of a checkpoint once it is loaded: MXFP4 experts are padded; GPTQ's zero points and group
    indices, which symmetric weights do not need, are dropped. [gptq_marlin.py: process_weights_after_loading]"""
    recipe = question.recipe
    if isinstance(recipe, Microscaled) and recipe.format is MXFP4:
        return padded(recipe, question)
    if isinstance(recipe, Packed) and recipe.name.startswith("gptq"):
        return replace(recipe, zeros=False, order=False)
    return recipe


def padded(recipe: Microscaled, question: Question) -> Recipe:
    """MXFP4 experts as kernels want them: Marlin pads hidden sides to 256 and inner ones to 128, Triton's layout on
    Hopper (since 0.10.2, and where the GPU is not named) hidden sides to 256. [mxfp4.py: Mxfp4MoEMethod]"""
    return replace(recipe, pads=(256, 64) if question.since(0, 10, 2) else (256, 128))


def pages_of(question: Question, stage: int) -> Pages:
    """The cache's pages of a stage. Before 0.9.1 windows are not made use of."""
    assert question.setup.kv_cache_precision
    stored = cache_formats(question.setup.kv_cache_precision)
    layers = kinds(question.model, question.placement, stage, stored, question.width)
    if not question.since(0, 9, 1):
        layers = tuple(replace(kind, window=None) for kind in layers)
    ratio = 1.5 if question.since(0, 17) else 1.25 if question.since(0, 11) else 1
    return paged(layers, question.number("block_size", 16), ratio)


def pages_for(question: Question, pages: Pages, tokens: int) -> int:
    """Pages that one sequence of so many tokens takes; a state takes two where prefixes of it are cached."""
    batched = question.number("max_num_batched_tokens", 2048)
    return pages.per_sequence(tokens, batched, 2 if question.since(0, 20) else 1)


def reserved(question: Question, pages: Pages) -> tuple[int, str]:
    """Bytes of the blocks that the workload takes on a GPU with such pages."""
    setup = question.setup
    each = pages_for(question, pages, setup.sequence_length)
    formula = f"{setup.batch_size} × {each:,} pages of {pages.page:,} bytes"
    if len(pages.groups) > 1:
        formula += f" ({len(pages.groups)} groups of layers share them)"
    return setup.batch_size * each * pages.page, formula


def forward(question: Question, stage: int, tokens: int) -> int:
    """Bytes of a forward pass's largest moment."""
    return tokens * (widest(question.model, question.placement, stage) * question.width + IDS)


def sampler(question: Question, stage: int, tokens: int, sequences: int) -> tuple[int, str]:
    """Bytes of sampling: the hidden states of a step, and logits on their way through a sort or a kernel that needs
    none."""
    if stage != question.placement.pipeline - 1:
        return 0, ""
    vocabulary, hidden = question.model.head.vocabulary, tokens * question.model.hidden * question.width
    each = CUT if question.since(0, 16) else SORTED
    size = hidden + sequences * vocabulary * each
    formula = f"{sequences:,} sequences × {vocabulary:,} logits × {each} bytes"
    if question.since(0, 16):
        programs = min(sequences, PROGRAMS)
        size += programs * vocabulary * 4
        formula += f" + {programs} × {vocabulary:,} × 4"
    return size, f"{formula}, beside {tokens:,} hidden states"


def profiled(question: Question, stage: int) -> tuple[int, str]:
    """What the profiled step takes: the larger of its forward pass and its sampling."""
    tokens, sequences = question.number("max_num_batched_tokens", 2048), question.number("max_num_seqs", 256)
    sequences = min(sequences, tokens)
    passed, (sampled, formula) = forward(question, stage, tokens), sampler(question, stage, tokens, sequences)
    if passed < sampled:
        return sampled, formula
    width = widest(question.model, question.placement, stage)
    return passed, f"{tokens:,} tokens × ({width:,} elements × {8 * question.width} bits + {IDS} bytes)"


def capture_sizes(question: Question) -> int:
    """How many batch sizes graphs are captured for. [vllm/config: cudagraph_capture_sizes]"""
    most = min(2 * question.number("max_num_seqs", 256), 512)
    if not question.since(0, 8):
        most = min(ceil_div(question.number("max_num_seqs", 256), 8) * 8, 256)
    sizes = [1, 2, 4, *range(8, 257, 8)]
    sizes += range(272, 513, 16) if question.since(0, 11) else range(264, 513, 8)
    return sum(1 for size in sizes if size <= most)


def graphs(question: Question, stage: int) -> Measured:
    """Memory of CUDA graphs: V1 captures the pieces between attentions, one more than there are layers."""
    if question.options.get("enforce_eager"):
        return Measured(0, 0, 0, "enforce_eager")
    first_layers = len(question.model.layers) // question.placement.pipeline
    each = GRAPH if question.since(0, 8) else GRAPH_V0
    times = capture_sizes(question) * (first_layers + 1)
    return Measured(times * each.expected, times * each.low, times * each.high, each.source)


def outside(question: Question, held: int) -> Measured:
    """Memory that the engine takes outside torch's allocator. Where no GPU is named, what is seen on the smallest kind
    whose share holds these weights and activations, with the range of all."""
    placement, gpu = question.placement, question.setup.gpu
    if placement.gpus > placement.data or placement.joined:
        return OUTSIDE_MANY
    if gpu is not None:
        return OUTSIDE_LARGE if gpu.memory >= LARGE_GPU else OUTSIDE_SMALL
    least = held / float(question.options.get("gpu_memory_utilization") or 0.9)
    kind = OUTSIDE_LARGE if least > SMALL_GPU else OUTSIDE_SMALL
    return replace(kind, low=OUTSIDE_SMALL.low, high=OUTSIDE_LARGE.high)


@dataclass(frozen=True, slots=True)
class Standing:
    """What one GPU of a stage holds whatever the workload: the profiled step is as large as the options let it be.

    graphs, outside   of `overhead`, what is not the driver's context
    """

    weights: Part
    activations: Part
    overhead: Part
    graphs: Measured
    outside: Measured
    pages: Pages


def standing(question: Question, stage: int) -> Standing:
    """The standing part of an answer, worked out once for all workloads of a model under the same settings."""
    setup = question.setup
    return _standing(
        question.model,
        question.recipe,
        question.placement,
        tuple(question.options.items()),
        question.version,
        setup.precision,
        setup.kv_cache_precision,
        setup.gpu,
        stage,
    )


@lru_cache(maxsize=2048)
def _standing(
    model: Model,
    recipe: Recipe | None,
    placement: Placement,
    options: tuple[tuple[str, Value], ...],
    version: Version,
    precision: str | None,
    cache: str | None,
    gpu: GPU | None,
    stage: int,
) -> Standing:
    setup = InferenceSetup(precision=precision, kv_cache_precision=cache, gpu=gpu)
    assert precision
    question = Question(model, setup, recipe, placement, dict(options), version)
    turned = tables(question)
    weights = weights_held(model, recipe, precision, placement, stage, LOADING) + turned
    activation, said = profiled(question, stage)
    seen, low, high = SEEN if question.since(0, 8) else SEEN_V0
    activations = Part(
        "activation_memory",
        activation,
        f"profiled: {said} [{seen}]",
        activation * low // 100,
        activation * high // 100,
    )
    captured, beside = graphs(question, stage), outside(question, weights + activation)
    overhead = Part(
        "runtime_overhead",
        CONTEXT.expected + captured.expected + beside.expected,
        f"driver context {CONTEXT.expected:,}, CUDA graphs {captured.expected:,}, outside torch {beside.expected:,}"
        f" [{captured.source}; {beside.source}]",
        CONTEXT.low + captured.low + beside.low,
        CONTEXT.high + captured.high + beside.high,
    )
    return Standing(
        weights_part(question, weights, f" in blocks of torch's allocator + {turned:,} of rotary tables"),
        activations,
        overhead,
        captured,
        beside,
        pages_of(question, stage),
    )


def share(question: Question, stage: int) -> Share:
    """One GPU: fused weights, whole pages, a profiled step, graphs and what lies outside torch."""
    placement, held = question.placement, standing(question, stage)
    needed, state = needed_cache(question, stage)
    blocks, formula = reserved(question, held.pages)
    cache = Part("kv_cache", blocks, formula)
    return Share(
        placement.tensor * placement.data,
        held.weights,
        (cache, cache),
        (held.activations, held.activations),
        (held.overhead,),
        needed,
        min(state, blocks),
    )


def tables(question: Question) -> int:
    """Rotary tables: cos and sin side by side, one of each width for all positions of the configuration."""
    model = question.model
    elements = {table[0]: table[1] for table in model.tables if table[0].startswith("cos")}
    return (model.max_context or 0) * sum(elements.values()) * question.width


def pool(question: Question, held: Share) -> Pool:
    """The share of the GPU less weights, activations and what lies outside torch; since 0.21 less graphs too."""
    gpu = question.setup.gpu
    assert gpu is not None
    limit = int(visible(gpu) * float(question.options["gpu_memory_utilization"] or 0.9))
    stage = 0 if question.placement.pipeline == 1 else question.placement.pipeline - 1
    taken = held.weights.bytes + held.activations[0].bytes
    taken += outside(question, taken).expected
    if question.since(0, 21):
        taken += graphs(question, stage).expected
    return Pool(limit, limit - taken, held.cache[1].bytes)


def warn(question: Question, shares: tuple[Share, ...]) -> tuple[str, ...]:
    """A pool that does not hold one sequence of max_model_len is refused at start."""
    if question.setup.gpu is None:
        return ()
    longest = question.number("max_model_len", 2048)
    for stage, held in enumerate(shares):
        pages = standing(question, stage).pages
        left = pool(question, held).size
        if left < pages_for(question, pages, longest) * pages.page:
            return (
                f"the pool holds no sequence of max_model_len ({longest:,} tokens): vLLM refuses to start; lower"
                " max_model_len or raise gpu_memory_utilization",
            )
    return ()


def report(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    """Its lines at start, for the fullest GPU, in GiB."""
    fullest = max(range(len(shares)), key=lambda stage: shares[stage].weights.bytes)
    held = shares[fullest]
    still = standing(question, fullest)
    said: dict[str, Any] = {
        "model_weights_gib": round(held.weights.bytes / GIB, 4),
        "activation_gib": round(max(each.activations[0].bytes for each in shares) / GIB, 2),
        "non_torch_gib": round(still.outside.expected / GIB, 2),
        "cuda_graph_gib": round(still.graphs.expected / GIB, 2),
    }
    if question.setup.gpu is None:
        return said
    longest = question.number("max_model_len", 2048)
    counts = []
    for stage, each in enumerate(shares):
        pages = standing(question, stage).pages
        size = max(pool(question, each).size, 0)
        counts.append((size, size // pages.page, pages_for(question, pages, longest), pages))
    size, blocks, each_request, pages = min(counts, key=lambda row: row[1] / max(row[2], 1))
    concurrency = blocks / max(each_request, 1)
    tokens = blocks * (pages.groups[0].block if pages.groups else 0)
    if len(pages.groups) > 1:
        tokens = int(concurrency * longest) if question.since(0, 20) else tokens // len(pages.groups)
    return said | {
        "kv_cache_gib": round(size / GIB, 2),
        "kv_cache_tokens": tokens,
        "max_concurrency": round(concurrency, 2),
    }


VLLM = Engine(
    "vllm",
    ("0.29.1", "0.21.0", "0.20.0", "0.17.0", "0.11.0", "0.10.2", "0.9.1", "0.8.0", "0.6.6"),
    OPTIONS,
    share,
    report,
    {
        "vocabulary": "vllm/model_executor/layers/vocab_parallel_embedding.py: padded to 64",
        "rotary tables": "vllm/model_executor/layers/rotary_embedding: max_position × rotary width in 16 bit",
        "pages": "vllm/v1/core/kv_cache_utils.py, vllm/v1/kv_cache_interface.py",
        "defaults": "vllm/engine/arg_utils.py: get_batch_defaults",
        "mxfp4": "vllm/model_executor/layers/quantization/mxfp4.py; measured 64.38 and 65.97 GiB for gpt-oss-120b",
        "sampler": "vllm/v1/sample/ops/topk_topp_sampler.py; ATen/native/cuda/Sort.cu; vllm-project/vllm#33538",
        "graphs": GRAPH.source,
        "outside torch": "; ".join(each.source for each in (OUTSIDE_SMALL, OUTSIDE_LARGE, OUTSIDE_MANY)),
        "context": CONTEXT.source,
        "reserved by the driver": RESERVED.source,
    },
    pool,
    settle,
    warn,
)
