"""Answers of one comparison that differ in nothing but the workload: what they have in common is said once.

A comparison mostly asks for many lengths or batches of one model. Where no engine and no card comes into it, the first
such answer stands for the next: only the cache, the activations, and what sums them up are made anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from calculator.engines.arithmetic import BARE, Stage, decoded, prefilled
from calculator.estimate import MAX_BYTES, Part
from calculator.inference import planned, standing
from calculator.parallel import ALONE
from calculator.units import gigabytes

WORKLOAD = ("batch_size", "sequence_length", "prompt_length")


class Line(NamedTuple):
    """An answer that others are like.

    fields, sent   of the request
    config         as bytes
    reply          its answer
    stage, weights what runs and what it weighs
    """

    fields: dict[str, Any]
    sent: set[str]
    config: bytes
    reply: dict[str, Any]
    stage: Stage
    weights: Part

    def answers(self, ask: Any) -> bool:
        """Whether a request differs in the workload alone."""
        if ask.model_fields_set != self.sent:
            return False
        fields = self.fields
        if {**ask.__dict__, **{name: fields[name] for name in WORKLOAD}} != fields:
            return False
        return ask.config is None or orjson.dumps(ask.config) == self.config  # where values are compared, true is 1

    def again(self, ask: Any) -> dict[str, Any] | None:
        """The answer of such a request; None where it is too large to be counted."""
        batch, length, prompt, weights, reply = (
            ask.batch_size,
            ask.sequence_length,
            ask.prompt_length,
            self.weights,
            self.reply,
        )
        if prompt is None:
            prompt = length
        sizes = self.stage.sizes(batch, prompt, length)
        first, last = weights.bytes + sizes.early + sizes.prefill, weights.bytes + sizes.late + sizes.decode
        if first >= last:
            peak, total, (cache, activations) = "prefill", first, prefilled(self.stage, batch, prompt, sizes)
        else:
            peak, total, (cache, activations) = "decode", last, decoded(self.stage, batch, length, sizes)
        if total > MAX_BYTES:
            return None
        needed = sizes.late - sizes.state
        said = reply["memory_requirements"]
        return {
            **reply,
            "parameters": {
                **reply["parameters"],
                "batch_size": batch,
                "sequence_length": length,
                "prompt_length": prompt,
            },
            "memory_requirements": {
                "model_weights": said["model_weights"],
                "kv_cache": gigabytes(cache.bytes),
                "activation_memory": gigabytes(activations.bytes),
                "inference_memory": gigabytes(total),
            },
            "memory_bytes": {
                "model_weights": weights.bytes,
                "kv_cache": cache.bytes,
                "activation_memory": activations.bytes,
                "inference_memory": total,
            },
            "phases": {"prefill": first, "decode": last},
            "peak": peak,
            "explanation": [reply["explanation"][0], exactly(cache), exactly(activations)],
            "cache": {"needed_bytes": needed, "reserved_bytes": needed, "state_bytes": sizes.state},
        }


def exactly(part: Part) -> dict[str, Any]:
    """A part that arithmetic decides, with its formula."""
    size = part.bytes
    return {"part": part.name, "bytes": size, "low": size, "high": size, "formula": part.formula}


def line_of(ask: Any, reply: dict[str, Any]) -> Line | None:
    """The line that an answer begins; None where it depends on more than a workload."""
    if (
        "engine" not in ask.__dict__
        or reply.get("fit") is not None
        or ask.gpu_count is not None
        or ask.quantization_options
    ):
        return None
    model, setup = ask.chosen()[0], ask.setup()
    plan = planned(model, setup)
    if plan.engine is not BARE or plan.placement is not ALONE:
        return None
    stage, weights, _ = standing(model, plan, setup)[0]
    return Line(ask.__dict__, ask.model_fields_set, orjson.dumps(ask.config), reply, stage, weights)
