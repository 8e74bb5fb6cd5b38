"""The memory of inference: weights, cache, and the largest moment of a prefill and of a decode step."""

from __future__ import annotations

from dataclasses import replace

from .estimate import Estimate, Part, Phase
from .model import Model
from .precisions import BYTES, stored, tape_dtype
from .profile import inference_profile
from .setup import InferenceSetup
from .tape import Mode, evaluate

IDS = 8  # bytes a token id


def settled(model: Model, setup: InferenceSetup) -> InferenceSetup:
    """The setup with every default filled in that follows from the model or other fields."""
    precision = setup.precision or model.default_precision or "float16"
    cache = setup.kv_cache_precision or (precision if BYTES[precision] >= 2 else "float16")
    prompt = setup.prompt_length or setup.sequence_length
    return replace(setup, precision=precision, kv_cache_precision=cache, prompt_length=prompt)


def inference(model: Model, setup: InferenceSetup) -> Estimate:
    """The peak of serving `setup` on `model`: `phases` prefill and decode."""
    setup = settled(model, setup)
    assert setup.precision and setup.kv_cache_precision and setup.prompt_length
    batch, context, prompt = setup.batch_size, setup.sequence_length, setup.prompt_length
    weights = stored(model.parameters, setup.precision)
    weights_part = Part(
        "model_weights",
        weights,
        f"{model.parameters:,} parameters × {int(8 * BYTES[setup.precision])} bits ({setup.precision})",
    )
    cache_width = BYTES[setup.kv_cache_precision]
    phases: list[Phase] = []
    for step, length in (("prefill", prompt), ("decode", context)):
        held = batch * model.cache(length)
        cache = int(held * cache_width)
        state = batch * model.state() * 4
        mode = Mode(
            step=step,
            weights=tape_dtype(setup.precision),
            attention=setup.attention,
            frozen=True,
            one=batch == 1,
            exceeded=frozenset(window for window in model.windows if length >= window),
            fresh=prompt == context,
        )
        profile = inference_profile(model, mode, setup.logits == "all")
        need = profile.need(step, batch, length)
        computed = held * (4 if setup.precision == "float32" else 2) + state
        inputs = IDS * batch * prompt + IDS * batch
        activations = max(need - computed, 0) + inputs
        phases.append(
            Phase(
                step,
                (
                    weights_part,
                    Part(
                        "kv_cache",
                        cache + state,
                        f"{batch} × {model.cache(length):,} elements × {int(8 * cache_width)} bits"
                        + (f" + {state:,} bytes of state" if state else ""),
                    ),
                    Part("activation_memory", activations, f"largest moment of {step}: {batch} × {length} tokens"),
                ),
            )
        )
    needed = int(batch * model.cache(context) * cache_width)
    return Estimate(
        tuple(phases),
        cache={
            "needed_bytes": needed,
            "reserved_bytes": needed,
            "state_bytes": batch * model.state() * 4,
        },
        assumed={
            "precision": setup.precision,
            "kv_cache_precision": setup.kv_cache_precision,
            "prompt_length": prompt,
        },
    )


__all__ = ["evaluate", "inference", "settled"]
