"""What a question says: one frozen, hashable value per kind of calculation.

A field left at None was not said; `inference` and `training` settle it and report it in `Estimate.assumed`.
Lengths in tokens, memory in bytes. Options are sorted tuples of (name, value) so that a setup can be a cache key.
"""

from __future__ import annotations

from typing import NamedTuple

from .gpus import GPU

Options = tuple[tuple[str, "str | int | float | bool"], ...]


class InferenceSetup(NamedTuple):
    """A question about inference; the fields are those of `POST /api/memory/inference`, the workload and the card
    first."""

    batch_size: int = 1
    sequence_length: int = 2048
    prompt_length: int | None = None
    gpu: GPU | None = None
    gpu_count: int | None = None
    logits: str = "last"
    precision: str | None = None
    quantization: str | None = None
    quantization_options: Options = ()
    kv_cache_precision: str | None = None
    attention: str = "sdpa"
    engine: str | None = None
    engine_version: str | None = None
    engine_options: Options = ()
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    data_parallel: int = 1
    data_parallel_attention: bool = False


class Lora(NamedTuple):
    """Adapters of low rank beside frozen layers.

    `target_modules` holds names as the checkpoint has them, or the one word "all-linear".
    """

    rank: int = 16
    target_modules: tuple[str, ...] = ("all-linear",)
    precision: str = "float32"
    dora: bool = False


class TrainingSetup(NamedTuple):
    """A question about training; the fields are those of `POST /api/memory/training`, the workload and the card
    first."""

    batch_size: int = 1
    sequence_length: int = 2048
    gpu: GPU | None = None
    gpu_count: int | None = None
    attention: str = "sdpa"
    framework: str = "transformers"
    compile: bool = False
    kernels: str = "standard"
    precision: str | None = None
    mixed_precision: str | None = None
    gradient_precision: str | None = None
    optimizer_state_precision: str | None = None
    optimizer: str = "AdamW"
    optimizer_implementation: str = "foreach"
    optimizer_in_backward: bool = False
    trainable_parameters: float = 100.0
    method: str = "full"
    lora: Lora | None = None
    quantization: str | None = None
    quantization_options: Options = ()
    gradient_checkpointing: str = "none"
    activation_offload: bool = False
    loss: str = "standard"
    keep_logits: bool = False
    gradient_accumulation: int = 1
    data_parallel: int = 1
    zero_stage: int = 0
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    context_parallel: int = 1
    expert_parallel: int = 1
    pipeline_parallel: int = 1
    pipeline_schedule: str = "1f1b"
    virtual_stages: int = 1
    micro_batches: int = 1
