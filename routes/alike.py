"""Answers of one comparison that differ in nothing but the workload: what they have in common is said once.

A comparison mostly asks for many lengths or batches of one model. On one GPU that is not named, without an engine, the
first such answer stands for the next: only what the workload changes is made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from calculator.engines.arithmetic import BARE, Stage, decoded, prefilled
from calculator.estimate import MAX_BYTES, Part
from calculator.inference import planned, standing
from calculator.model import Model
from calculator.parallel import ALONE
from calculator.setup import TrainingSetup
from calculator.tape import evaluate
from calculator.training import planned as planned_training
from calculator.units import gigabytes

from .replies import TRAINING_PARTS, at_peak, explanation

WORKLOAD = ("batch_size", "sequence_length", "prompt_length")


class Line(NamedTuple):
    """An answer that others are like.

    fields, sent   of the request
    workload       those fields that may differ
    config         as bytes
    reply          its answer
    anew           what a request's workload changes of it, None where that is too large to be counted
    """

    fields: dict[str, Any]
    sent: set[str]
    workload: tuple[str, ...]
    config: bytes
    reply: dict[str, Any]
    anew: Callable[[Any, dict[str, Any]], dict[str, Any] | None]

    def answers(self, ask: Any) -> bool:
        """Whether a request differs in the workload alone."""
        if ask.model_fields_set != self.sent:
            return False
        fields = self.fields
        if {**ask.__dict__, **{name: fields[name] for name in self.workload}} != fields:
            return False
        return ask.config is None or orjson.dumps(ask.config) == self.config  # where values are compared, true is 1

    def again(self, ask: Any) -> dict[str, Any] | None:
        """The answer of such a request, None where it has none."""
        made = self.anew(ask, self.reply)
        return None if made is None else {**self.reply, **made}


def line_of(ask: Any, reply: dict[str, Any]) -> Line | None:
    """The line that an answer begins; None where it depends on more than a workload."""
    if "fit" in reply or "per_gpu" in reply or ask.gpu_count is not None or ask.quantization_options:
        return None
    model, setup = ask.chosen()[0], ask.setup()
    if isinstance(setup, TrainingSetup):
        anew = trained_anew(model, setup)
    else:
        plan = planned(model, setup)
        if plan.engine is not BARE or plan.placement is not ALONE:
            return None
        stage, weights, _ = standing(model, plan, setup)[0]
        anew = served_anew(stage, weights)
    workload = tuple([name for name in WORKLOAD if name in ask.__dict__])
    return Line(ask.__dict__, ask.model_fields_set, workload, orjson.dumps(ask.config), reply, anew)


def served_anew(stage: Stage, weights: Part) -> Callable[[Any, dict[str, Any]], dict[str, Any] | None]:
    """Inference on one GPU that runs this stage: what `at_peak` says, written out for three parts known by name, since
    this is what a long comparison spends its time on."""

    def anew(ask: Any, reply: dict[str, Any]) -> dict[str, Any] | None:
        batch, length, prompt = ask.batch_size, ask.sequence_length, ask.prompt_length
        if prompt is None:
            prompt = length
        sizes = stage.sizes(batch, prompt, length)
        first, last = weights.bytes + sizes.early + sizes.prefill, weights.bytes + sizes.late + sizes.decode
        if first >= last:
            peak, total, (cache, activations) = "prefill", first, prefilled(stage, batch, prompt, sizes)
        else:
            peak, total, (cache, activations) = "decode", last, decoded(stage, batch, length, sizes)
        if total > MAX_BYTES:
            return None
        needed = sizes.late - sizes.state
        return {
            "parameters": {
                **reply["parameters"],
                "batch_size": batch,
                "sequence_length": length,
                "prompt_length": prompt,
            },
            "memory_requirements": {
                "model_weights": reply["memory_requirements"]["model_weights"],
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
            "explanation": [reply["explanation"][0], *explanation((cache, activations))],
            "cache": {"needed_bytes": needed, "reserved_bytes": needed, "state_bytes": sizes.state},
        }

    return anew


def trained_anew(model: Model, setup: TrainingSetup) -> Callable[[Any, dict[str, Any]], dict[str, Any] | None]:
    """A training step on one GPU."""

    def anew(ask: Any, reply: dict[str, Any]) -> dict[str, Any] | None:
        batch, length = ask.batch_size, ask.sequence_length
        (steps,) = planned_training(model, setup._replace(batch_size=batch, sequence_length=length)).stages
        totals = steps.totals(batch, length)
        most = max(totals)
        if most > MAX_BYTES:
            return None
        return {
            "parameters": {**reply["parameters"], "batch_size": batch, "sequence_length": length},
            "phases": dict(zip(reply["phases"], totals, strict=True)),
            **at_peak(steps.phase(totals.index(most), batch, length), TRAINING_PARTS, "training_memory"),
            "saved_bytes_per_layer": evaluate(steps.saved_first, batch, length),
        }

    return anew
