"""Hugging Face transformers: what its forward pass holds, a cache that grows by copies, and the process around it."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..estimate import Part
from ..formats import Recipe
from ..model import Model
from ..quantization import quantizable
from ..units import MIB
from .arithmetic import share as bare_share
from .arithmetic import stage_of
from .base import Engine, Measured, Question, Share, calibrated
from .holdings import Loading, block, layers_of

CONTEXT = Measured(
    450 * MIB,
    250 * MIB,
    650 * MIB,
    "driver context and loaded kernels of a torch process before its first tensor, as nvidia-smi shows it",
)
WORKSPACE = 8 * MIB + 128 * 1024  # torch's getChosenWorkspaceSize, `:4096:2:16:8` in KiB; Hopper takes 32 MiB

# Experts became stacks in 5.0; before that each of their matrices is a tensor of its own. Since 4.50 one block is set
# aside for all weights before they are loaded, in 4.x mostly for half of quantized ones.
STACKED = Loading(allocator=True, ahead=Fraction(1))
COLD, HALF, WHOLE = (
    Loading(allocator=True, apart=True, ahead=each) for each in (Fraction(0), Fraction(1, 2), Fraction(1))
)


def loading_of(question: Question) -> Loading:
    """How a version loads weights.

    [modeling_utils.py: caching_allocator_warmup; quantizers/base.py: get_cuda_warm_up_factor]
    """
    if question.since(5):
        return STACKED
    if not question.since(4, 50):
        return COLD
    recipe = question.recipe
    whole = recipe is None or not question.since(4, 51) or (recipe.name == "fp8" and question.since(4, 52))
    return WHOLE if whole else HALF


OVERHEAD = calibrated("runtime_overhead", CONTEXT, "driver context")


def share(question: Question, stage: int) -> Share:
    """As by arithmetic; with what older versions held, blocks of the allocator, and the process's own memory."""
    plain = bare_share(question, stage, loading_of(question))
    prefill, decode = plain.activations
    last = stage == question.placement.pipeline - 1
    if last and not question.since(4, 45):
        prefill = upcast(question, prefill)
    kept = 0
    if not question.since(4, 43):
        kept = layer_tables(question, stage)
    if last and not question.since(5):
        kept += loose_head(question)
    if not question.since(4, 48):
        kept += unpacking(question, stage)
    formula = f"cuBLAS workspace of {WORKSPACE:,}"
    if kept:
        formula += f", {kept:,} of rotary tables in each layer, a tied head that is stored twice, or a matrix unpacked"
    prefill, decode = [
        Part(part.name, part.bytes + kept + WORKSPACE, f"{part.formula}; {formula}") for part in (prefill, decode)
    ]
    if not question.since(4, 42):
        decode = with_old_cache(question, stage, decode)
    loading = untied_while_loading(question, kept) if last and not question.since(5) else None
    return plain._replace(activations=(prefill, decode), overhead=(OVERHEAD,), loading=loading)


def untied_while_loading(question: Question, kept: int) -> Part | None:
    """AWQ modules are put in before the head is tied, so that until then the table exists twice: with short prompts the
    peak of the totals published for Qwen2.5-0.5B and 3B is just that."""
    model, recipe = question.model, question.recipe
    if recipe is None or not recipe.name.startswith("awq") or not model.head.tied:
        return None
    vocabulary, width = model.embedding.vocabulary, model.embedding.width
    formula = f"a head of {vocabulary:,} × {width:,} before it is tied"
    return Part("activation_memory", vocabulary * width * question.width + kept, formula)


def upcast(question: Question, prefill: Part) -> Part:
    """Logits of the whole prompt in 16 bit, and their copy in float32, which versions before 4.45 always made."""
    setup, model = question.setup, question.model
    assert setup.prompt_length
    rows = setup.batch_size * setup.prompt_length
    vocabulary = model.head.vocabulary
    both = rows * vocabulary * (question.width + 4) + rows * model.hidden * question.width
    if both <= prefill.bytes:
        return prefill
    formula = f"logits of {rows:,} tokens × {vocabulary:,} in {8 * question.width} bits and again in float32"
    return Part("activation_memory", both, formula)


@lru_cache(maxsize=1024)
def _largest_packed(model: Model, recipe: Recipe, pipeline: int, stage: int) -> int:
    """Elements of the largest matrix that a recipe takes."""
    return max(
        (
            tensor.elements // max(tensor.experts * (2 if "gate_up" in tensor.role else 1), tensor.count)
            for layer in layers_of(model, pipeline, stage)
            for tensor in layer.tensors()
            if quantizable(tensor)
        ),
        default=0,
    )


def unpacking(question: Question, stage: int) -> int:
    """AutoGPTQ's exllama kernels, which transformers takes for 4 bit, keep room for the largest matrix in 16 bit: long
    prompts are multiplied by unpacked ones. Since 4.48 GPTQModel may stand in its place. [auto_gptq/modeling/_utils.py:
    autogptq_post_init, temp_dq]"""
    recipe, placement = question.recipe, question.placement
    if recipe is None or recipe.name != "gptq-int4":
        return 0
    return block(2 * _largest_packed(question.model, recipe, placement.pipeline, stage))


def with_old_cache(question: Question, stage: int, decode: Part) -> Part:
    """Until 4.41 `generate` handed each step the keys and values as tuples and kept them until the step was over, while
    the model put new ones, a token longer, beside them: both caches are there at the end of a step. Of the layer at
    work, the old ones are part of what the step takes in any version."""
    held, before = stage_of(question, stage), question.setup.sequence_length - 1
    at_work = max(layer.cache(before, held.ways) for layer, _ in held.layers)
    size = question.setup.batch_size * held.stored.bytes(held.elements(before) - at_work)
    if not size:
        return decode
    return Part(decode.name, decode.bytes + size, f"{decode.formula}, beside the cache of {before:,} tokens before it")


@lru_cache(maxsize=1024)
def _table_elements(model: Model) -> int:
    """Elements of cos and sin for every position of the configuration."""
    return (model.max_context or 0) * sum(table[1] for table in model.tables)


def layer_tables(question: Question, stage: int) -> int:
    """Until 4.42 every layer had rotary tables of its own, for all positions of the configuration."""
    layers = layers_of(question.model, question.placement.pipeline, stage)
    attending = sum(count for layer, count in layers.items() if layer.cache(1))
    return attending * _table_elements(question.model) * question.width


def loose_head(question: Question) -> int:
    """Loading block-scaled fp8 left a tied head apart from the embedding in 4.51, as the totals published for Qwen3
    show: they exceed weights and cache by just that matrix where the model is tied, and by nothing where it is not."""
    model, recipe = question.model, question.recipe
    if recipe is None or recipe.name != "fp8" or not model.head.tied:
        return 0
    return model.embedding.vocabulary * model.embedding.width * question.width


def report(question: Question, shares: tuple[Share, ...]) -> dict[str, Any]:
    """transformers prints nothing of the kind."""
    return {}


TRANSFORMERS = Engine(
    "transformers",
    ("5.23.0", "4.51.3", "4.46.0", "4.38.2"),
    (),
    share,
    report,
    {
        "forward pass": "models of transformers 5.23.0, allocations counted on fake CUDA tensors of torch 2.13.0",
        "logits": "modeling_llama.py until 4.44: logits of every position, then .float(); num_logits_to_keep since",
        "old cache": "generation/utils.py until 4.41: past_key_values as tuples; DynamicCache since 4.42",
        "rotary tables": "modeling_qwen2.py until 4.42: Qwen2RotaryEmbedding in each attention layer",
        "fp8 head": "github.com/QwenLM/Qwen3, docs: GPU memory under transformers 4.51.3, tied and untied models",
        "allocator": "c10/cuda/CUDACachingAllocator.cpp; modeling_utils.py: caching_allocator_warmup",
        "unpacking": "auto_gptq/modeling/_utils.py: autogptq_post_init",
        "context": CONTEXT.source,
    },
)
