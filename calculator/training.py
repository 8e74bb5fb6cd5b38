"""The memory of one training step: weights, gradients, optimizer states, and the largest moment of what comes and goes.

Phases: `forward`, `loss` (from the logits to the first gradient), `backward`, `optimizer_step`; the peak is their
maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from operator import ge
from typing import Any

from .driver import fit, load
from .driver import room as room_of
from .driver import used as used_of
from .errors import InvalidSetup
from .estimate import Brief, Estimate, Part, Phase, brief_of, parts_of
from .formats import FLOAT32, Recipe
from .layers.ends import Chunks
from .model import Model
from .optimizers import Optimizer, find_optimizer
from .precisions import BYTES, stored, tape_dtype
from .profile import Course, step_profile
from .quantization import Weights, find_recipe
from .setup import Lora, TrainingSetup
from .shards import (
    Stage,
    check_expert,
    check_tensor,
    local_model,
    megatron_model,
    placeholder_elements,
    stages,
)
from .tape import WIDTH, Adapter, Mode, Moment, evaluate
from .tensors import Tensor
from .units import ceil_div
from .weights import facts_of

LABELS = 16  # bytes a token: ids and labels, 64-bit integers


@dataclass(frozen=True, slots=True)
class Scheme:
    """In which precision everything is held.

    weights     of the parameters as the model holds them
    gradients   of trained parameters
    states      of the optimizer
    master      whether trained 16-bit parameters have a float32 copy
    autocast    whether a 16-bit autocast region runs
    persistent  whether gradient buffers stay allocated between steps
    """

    weights: str
    gradients: str
    states: str
    master: bool
    autocast: bool
    persistent: bool


def settled(model: Model, setup: TrainingSetup) -> TrainingSetup:
    """The setup with every default filled in that follows from other fields."""
    mixed = setup.mixed_precision
    precision = setup.precision or ("float32" if mixed == "autocast" else "bfloat16")
    mixed = mixed or ("none" if precision == "float32" else "master_weights")
    if mixed == "master_weights" and precision == "float32":
        raise InvalidSetup(
            "mixed_precision master_weights needs 16-bit weights: choose precision bfloat16 or float16",
            "mixed_precision",
        )
    lora = setup.lora
    if setup.method in ("lora", "qlora") and lora is None:
        lora = Lora()
    quantization = setup.quantization
    if setup.method == "qlora" and quantization is None:
        quantization = "bnb-nf4-dq"
    trained = lora.precision if lora is not None else precision
    gradients = setup.gradient_precision or ("float32" if setup.framework == "megatron" else trained)
    states = setup.optimizer_state_precision or ("float32" if mixed == "master_weights" else trained)
    return setup._replace(
        precision=precision,
        mixed_precision=mixed,
        gradient_precision=gradients,
        optimizer_state_precision=states,
        lora=lora,
        quantization=quantization,
    )


def scheme_of(setup: TrainingSetup) -> Scheme:
    """The scheme a settled setup describes."""
    assert setup.precision and setup.gradient_precision and setup.optimizer_state_precision
    trained = setup.lora.precision if setup.lora is not None else setup.precision
    return Scheme(
        setup.precision,
        setup.gradient_precision,
        setup.optimizer_state_precision,
        master=setup.mixed_precision == "master_weights" and trained != "float32",
        autocast=setup.mixed_precision == "autocast",
        persistent=setup.mixed_precision == "master_weights"
        or setup.gradient_accumulation > 1
        or setup.micro_batches > 1
        or cut_along_sequence(setup),
    )


def mode_of(model: Model, setup: TrainingSetup) -> Mode:
    """What the trace of a settled setup depends on."""
    assert setup.precision
    adapter = None
    if setup.lora is not None:
        lora = setup.lora
        adapter = Adapter(lora.rank, lora.target_modules, tape_dtype(lora.precision), lora.dora)
    return Mode(
        step="training",
        weights=tape_dtype(tape_precision(setup)),
        autocast=widened(setup) or (setup.mixed_precision == "autocast" and setup.framework != "torchtitan"),
        attention=setup.attention,
        frozen=adapter is not None,
        adapter=adapter,
        one=setup.batch_size == 1,
        exceeded=frozenset(window for window in model.windows if setup.sequence_length >= window),
        quantized=setup.method == "qlora",
        kernels="liger" if setup.compile else setup.kernels,
    )


def tape_precision(setup: TrainingSetup) -> str:
    """What the layers compute with: FSDP gathers float32 shards in 16 bit under autocast."""
    assert setup.precision
    if widened(setup):
        return "float32"
    if setup.mixed_precision == "autocast" and setup.zero_stage == 3 and _replicas(setup) > 1:
        return "bfloat16" if setup.precision == "float32" else setup.precision
    return setup.precision


def _replicas(setup: TrainingSetup) -> int:
    return setup.data_parallel * setup.context_parallel


def adapter_tensors(model: Model, lora: Lora) -> tuple[Tensor, ...]:
    """The low-rank pairs beside every targeted linear layer; embedding and head only where they are named. [peft]"""
    adapter = Adapter(lora.rank, lora.target_modules, "", lora.dora)
    made: list[Tensor] = []
    for tensor in (*model.embedding.tensors(), *model.head.tensors()):
        if tensor.role in ("embedding", "output") and tensor.module in lora.target_modules:
            made += _pair(tensor, lora)
    for layer in model.layers:
        for tensor in layer.tensors():
            if any(adapter.takes(name) for name in tensor.adapted_as):
                made += _pair(tensor, lora)
    return tuple(made)


def _pair(tensor: Tensor, lora: Lora) -> list[Tensor]:
    out, into = tensor.shape[-2:]
    base = tensor.name.removesuffix(".weight")
    rank = lora.rank * tensor.ranks * max(tensor.experts, 1)  # a stack has a pair for every expert
    pair = [
        Tensor(f"{base}.lora_A.weight", (rank, into), tensor.component, "other"),
        Tensor(f"{base}.lora_B.weight", (out, rank), tensor.component, "other"),
    ]
    if lora.dora:
        pair.append(Tensor(f"{base}.lora_magnitude_vector.weight", (out,), tensor.component, "other"))
    return pair


@dataclass(frozen=True, slots=True)
class Fresh:
    """What the backward pass has of gradients that it made, of those that a moment counts.

    share   of them, those that stay
    one     bytes of the largest gradient of a layer: where sums are kept in buffers, or parameters are stepped at
            once, one gradient at a time is there besides
    head    bytes of those that come before any layer's
    """

    share: Fraction
    one: int = 0
    head: int = 0

    def bytes(self, made: int) -> int:
        """Of so many bytes of gradients."""
        if self.one and made:
            return made if made <= self.head else self.one
        return made * self.share.numerator // self.share.denominator


def base_recipe(setup: TrainingSetup) -> Recipe | None:
    """What the frozen base of a settled setup is stored in, where that is not its precision."""
    if setup.quantization is None:
        return None
    wide = widened(setup) or setup.precision == "float32"
    return _prepared(setup.quantization, setup.quantization_options, wide)


@lru_cache(maxsize=256)
def _prepared(name: str, options: tuple[tuple[str, str | int | float | bool], ...], wide: bool) -> Recipe:
    recipe = find_recipe(name, dict(options))
    if wide and isinstance(recipe, Weights):
        return replace(recipe, rest=FLOAT32)
    return recipe


def widened(setup: TrainingSetup) -> bool:
    """Whether what is not packed is brought to float32, and with it the hidden states.

    peft's prepare_model_for_kbit_training does that, and products then run under autocast. It is assumed where the
    step would otherwise run in float16 alone, whose range is too small for norms and logits; recipes in bfloat16, or
    under autocast from the start, leave it out.
    """
    return setup.method == "qlora" and setup.precision == "float16" and setup.mixed_precision != "autocast"


# ------------------------------------------------------------------------------------------------ what a GPU holds


@dataclass(frozen=True, slots=True)
class Spread:
    """Over how many GPUs a setup spreads what.

    tensor, expert  ways a layer's tensors are cut
    group           GPUs that hold replicas of a tensor, which ZeRO shares out
    expert_group    the same for routed experts
    """

    tensor: int
    expert: int
    group: int
    expert_group: int

    def share(self, dense: int, experts: int) -> int:
        """Of so many elements or bytes, those of one GPU when replicas share them out."""
        return ceil_div(dense, self.group) + ceil_div(experts, self.expert_group)


def spread_of(setup: TrainingSetup) -> Spread:
    """The ways of a setup. Expert parallelism runs inside the replicas."""
    group = setup.data_parallel * setup.context_parallel
    experts = group * (setup.tensor_parallel if setup.expert_parallel > 1 else 1)
    return Spread(setup.tensor_parallel, setup.expert_parallel, group, max(experts // setup.expert_parallel, 1))


@dataclass(frozen=True, slots=True)
class Held:
    """What one GPU of a pipeline stage holds before replicas share it out.

    elements, experts    parameters, apart from routed experts, and of these
    weights, expert_weights   their bytes as the base is stored
    beside               bytes of packed weights' scales, which FSDP leaves whole on every GPU
    unit, root           elements of the largest layer; of embedding, last norm and head
    unit_weights         bytes of the largest layer as it is stored
    matrix, side         elements of the largest tensor of a layer, and the longest side of one
    head                 elements of the last norm and of the head, where it is a matrix of its own
    """

    elements: int
    experts: int
    weights: int
    expert_weights: int
    beside: int
    unit: int
    root: int
    unit_weights: int
    matrix: int
    side: int
    head: int


@lru_cache(maxsize=1024)
def _held(model: Model, begin: int, end: int, tensor: int, expert: int, precision: str, recipe: Recipe | None) -> Held:
    facts = facts_of(model)

    def price(each: Tensor) -> tuple[int, int, int]:
        """Elements, bytes, and of these what lies beside packed numbers."""
        held = each.held(tensor, expert)
        if recipe is None:
            return held, stored(held, precision), 0
        beside = recipe.stored(each, None, facts).beside
        return held, recipe.bytes(each, None, facts, held), ceil_div(beside * held, max(each.elements, 1))

    counted: dict[int, tuple[int, int, int, int, int, int]] = {}
    sums = [0, 0, 0, 0, 0]  # elements, experts, weights, expert weights, beside
    unit = unit_weights = matrix = side = head = 0
    for layer in model.layers[begin:end]:
        if id(layer) not in counted:
            found = [0, 0, 0, 0, 0, 0]
            for each in layer.tensors():
                held, size, beside = price(each)
                place = 1 if each.experts else 0
                found[place] += held
                found[2 + place] += size
                found[4] += beside
                found[5] = max(found[5], held)
                side = max(side, *each.shape[-2:])
            counted[id(layer)] = (found[0], found[1], found[2], found[3], found[4], found[5])
        made = counted[id(layer)]
        for index in range(5):
            sums[index] += made[index]
        unit = max(unit, made[0] + made[1])
        unit_weights = max(unit_weights, made[2] + made[3])
        matrix = max(matrix, made[5])
    root = 0
    outside = [*model.embedding.tensors()] if begin == 0 else []
    if end == len(model.layers):
        outside += model.head.tensors()
        head = sum(each.held(tensor) for each in model.head.tensors())
        if begin and model.head.tied:
            outside.append(next(iter(model.embedding.tensors())))
    for each in outside:
        held, size, beside = price(each)
        root += held
        sums[2] += size
        sums[4] += beside
    for tower in model.towers if begin == 0 else ():
        for each in tower.tensors():
            held, size, beside = price(each)
            sums[0] += held
            sums[2] += size
            sums[4] += beside
    sums[0] += root
    if model.stated is not None:
        scale = Fraction(model.stated, sum(each.elements for each in model.tensors()) or 1)
        if begin == 0 and end == len(model.layers) and tensor == expert == 1:
            sums[0] = model.stated - sums[1]
            if recipe is None:
                sums[2] = stored(model.stated, precision) - sums[3]
        else:
            sums = [int(each * scale) for each in sums]
    return Held(sums[0], sums[1], sums[2], sums[3], sums[4], unit, root, unit_weights, matrix, side, head)


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that an optimizer takes for all trained tensors of a model, and how many elements these are."""

    elements: int
    moments: int
    extra: int
    resident: int
    temporary: int


@lru_cache(maxsize=512)
def _kept(model: Model, lora: Lora | None, name: str, width: int, implementation: str) -> Kept:
    optimizer = find_optimizer(name)
    tensors = adapter_tensors(model, lora) if lora is not None else tuple(model.tensors())
    states = [optimizer.states(tensor, width) for tensor in tensors]
    return Kept(
        sum(tensor.elements for tensor in tensors),
        sum(each.moments for each in states),
        sum(each.extra for each in states),
        sum(each.resident for each in states),
        int(optimizer.temporary(tensors, width, implementation)),
    )


# ------------------------------------------------------------------------------------------------ the answer


WORKLOAD = TrainingSetup._fields.index("gpu_count") + 1  # fields that say how much goes through, and on what


@dataclass(frozen=True, slots=True)
class Plan:
    """All of an answer that depends neither on how many tokens go through a step nor on the card.

    setup     settled
    stages    what a GPU of each pipeline stage holds and does
    copies    GPUs of a stage
    """

    setup: TrainingSetup
    stages: tuple[Steps, ...]
    copies: int
    states: dict[str, int]
    assumed: dict[str, object]
    warnings: tuple[str, ...]


def planned(model: Model, setup: TrainingSetup) -> Plan:
    """The plan of a setup, made once for all its workloads that run alike; raises InvalidSetup."""
    length = setup.sequence_length
    if length % setup.context_parallel:
        checked(model, settled(model, setup))
    exceeded = max((window for window in model.windows if length >= window), default=0)
    return _planned(model, setup[WORKLOAD:], setup.batch_size == 1, exceeded)


@lru_cache(maxsize=1024)
def _planned(model: Model, resting: tuple[Any, ...], one: bool, exceeded: int) -> Plan:
    """`exceeded` is the largest window that a sequence fills, 0 for none; those below it are filled too."""
    setup = settled(model, TrainingSetup(1 if one else 2, 2048, None, None, *resting))
    checked(model, setup._replace(sequence_length=setup.context_parallel))
    setup = setup._replace(sequence_length=exceeded)
    parts = stages(model, setup.pipeline_parallel, setup.pipeline_schedule, setup.virtual_stages, setup.micro_batches)
    made = tuple(_steps(model, setup, part) for part in parts)
    copies = setup.data_parallel * setup.tensor_parallel * setup.context_parallel
    scheme = scheme_of(setup)
    kept = _kept(model, setup.lora, setup.optimizer, int(BYTES[scheme.states]), setup.optimizer_implementation)
    trained = _trained(model, setup, kept)
    scale = Fraction(trained, kept.elements or 1)
    alone = copies == 1 and len(parts) == 1
    states = {
        "model_weights": made[0].weights if alone else _whole_weights(model, setup, scheme),
        "gradients": stored(trained, scheme.gradients),
        "master_weights": 4 * trained if scheme.master else 0,
        "optimizer_states": int(kept.moments * scale),
        **({"optimizer_scales": int(kept.extra * scale)} if kept.extra else {}),
    }
    return Plan(setup, made, copies, states, _assumed(setup), tuple(_warnings(setup)))


def training(model: Model, setup: TrainingSetup) -> Estimate:
    """The peak of a training step of `setup` on `model`.

    Raises InvalidSetup where settings exclude each other.
    """
    plan = planned(model, setup)
    batch, length = setup.batch_size, setup.sequence_length // setup.context_parallel
    answers = [each.phases(batch, length) for each in plan.stages]
    alone = plan.copies == 1 and len(answers) == 1
    fullest = answers[0]
    if len(answers) > 1:
        fullest = max(answers, key=lambda phases: max(phase.total for phase in phases))
    said, room, used = None, None, None
    count = plan.copies * len(answers)
    if setup.gpu is not None:
        if setup.gpu_count is not None and setup.gpu_count < count:
            raise InvalidSetup(
                f"gpu_count {setup.gpu_count} is fewer than the {count} GPUs of this split: give at least {count}",
                "gpu_count",
            )
        tokens = setup.batch_size * setup.sequence_length // setup.context_parallel
        whole = setup.loss == "standard" and not setup.compile and setup.framework == "transformers"
        logits = tokens * ceil_div(model.head.vocabulary, setup.tensor_parallel) if whole else 0
        seen = load(fullest, logits, count)
        room = room_of(seen, setup.gpu)
        used = used_of(seen, setup.gpu, room)
        said = fit(seen, setup.gpu, count, used, room)
    return Estimate(
        answers[0] if alone else _summed(answers, plan.copies),
        fullest=() if alone else fullest,
        stages=tuple(answers) if len(answers) > 1 else (),
        states={**plan.states},
        saved_per_layer=evaluate(plan.stages[0].saved_first, batch, length),
        assumed={**plan.assumed},
        warnings=plan.warnings,
        fit=said,
        room=room,
        used=used,
        gpus=count,
    )


def brief(model: Model, setup: TrainingSetup) -> Brief:
    """The figures of `training` alone; of one GPU that is not named at less cost."""
    plan = planned(model, setup)
    if setup.gpu is not None or plan.copies > 1 or len(plan.stages) > 1:
        return brief_of(training(model, setup))
    return Brief(plan.stages[0].peak(setup.batch_size, setup.sequence_length), None, None, 1)


@lru_cache(maxsize=512)
def _check_targets(model: Model, lora: Lora) -> None:
    if adapter_tensors(model, lora):
        return
    names = {name for layer in model.distinct for tensor in layer.tensors() for name in tensor.adapted_as}
    raise InvalidSetup(
        f"no module of this model is called {' or '.join(lora.target_modules)}; "
        f"it has {', '.join(sorted(names))}, or say all-linear",
        "lora.target_modules",
    )


def checked(model: Model, setup: TrainingSetup) -> None:
    """Raise InvalidSetup where a model cannot be adapted or spread as a setup says."""
    if setup.lora is not None:
        _check_targets(model, setup.lora)
    check_tensor(model, setup.tensor_parallel)
    layers = len(model.layers)
    parts = setup.pipeline_parallel * (setup.virtual_stages if setup.pipeline_schedule == "interleaved" else 1)
    if setup.pipeline_parallel > 1 and layers % parts:
        allowed = [str(each) for each in range(1, min(layers, 4096) + 1) if layers % each == 0]
        raise InvalidSetup(
            f"pipeline_parallel × virtual_stages is {parts}, which does not divide the {layers} layers; "
            f"allowed: {', '.join(allowed)}",
            "pipeline_parallel",
        )
    if setup.sequence_length % setup.context_parallel:
        raise InvalidSetup(
            f"context_parallel {setup.context_parallel} must divide the sequence_length {setup.sequence_length}",
            "context_parallel",
        )
    replicas = setup.data_parallel * setup.context_parallel * setup.tensor_parallel
    check_expert(model, setup.expert_parallel, replicas)


def _trained(model: Model, setup: TrainingSetup, kept: Kept) -> int:
    """Trained parameters of the whole model."""
    if setup.lora is not None:
        return kept.elements
    return int(model.parameters * Fraction(str(setup.trainable_parameters)) / 100)


def _whole_weights(model: Model, setup: TrainingSetup, scheme: Scheme) -> int:
    held = _held(model, 0, len(model.layers), 1, 1, scheme.weights, base_recipe(setup))
    return held.weights + held.expert_weights


MOMENTS = ("forward", "loss", "backward", "optimizer_step")


def _summed(answers: Sequence[tuple[Phase, ...]], copies: int) -> tuple[Phase, ...]:
    """What all GPUs hold at the same moment: each stage's parts, times the GPUs of a stage. While the last stage makes
    the loss, the others are at the fuller of their passes."""
    made = []
    for name in MOMENTS:
        parts: dict[str, Part] = {}
        for phases in answers:
            named = {phase.name: phase for phase in phases}
            at = named.get(name) or max((named["forward"], named["backward"]), key=lambda phase: phase.total)
            for part in at.parts:
                before = parts.get(part.name)
                size = part.bytes * copies + (before.bytes if before else 0)
                parts[part.name] = Part(part.name, size, before.formula if before else f"{copies} GPUs: {part.formula}")
        made.append(Phase(name, tuple(parts.values())))
    return tuple(made)


def course_of(setup: TrainingSetup, stage: Stage, layers: int) -> Course:
    """How a step of a settled setup runs on a stage."""
    whole = stage.begin == 0 and stage.end == layers
    checkpointing = setup.gradient_checkpointing
    if checkpointing == "selective" and cut_along_sequence(setup):
        checkpointing = "none"  # Megatron recomputes the core of attention, of which a fused kernel keeps nothing
    return Course(
        checkpointing,
        setup.activation_offload,
        "parallel" if cut_along_sequence(setup) and setup.loss == "standard" else setup.loss,
        setup.compile,
        setup.keep_logits,
        setup.lora is None,
        _lingers(setup),
        None if whole else (stage.begin, stage.end),
        stage.waiting,
    )


def cut_along_sequence(setup: TrainingSetup) -> bool:
    """Whether the layers are those of Megatron: there, and wherever the sequence is cut between products, which
    torchtitan does with compiled kernels that keep the same tensors."""
    return setup.framework == "megatron" or (setup.sequence_parallel and setup.tensor_parallel > 1)


def local_of(model: Model, setup: TrainingSetup) -> Model:
    """The model as one GPU of a settled setup runs it, in the layers of its framework."""
    if cut_along_sequence(setup):
        return megatron_model(model, setup.tensor_parallel, setup.expert_parallel, setup.sequence_parallel)
    return local_model(model, setup.tensor_parallel, setup.expert_parallel)


def _one(held: Held, setup: TrainingSetup, width: int) -> int:
    """Bytes of the largest gradient of a layer, with what stepping it alone takes where that happens at once."""
    elements = held.matrix if setup.lora is None else setup.lora.rank * held.side
    size = elements * width
    if setup.optimizer_in_backward:
        tensor = Tensor("largest", (elements,), "other", "other")
        optimizer = find_optimizer(setup.optimizer)
        size += int(optimizer.temporary((tensor,), width, setup.optimizer_implementation))
    return size


def _lingers(setup: TrainingSetup) -> bool:
    """Whether checkpointed inputs and their gradients stay until the backward pass is over.

    Reentrant checkpoints recompute from a detached input, a leaf. FSDP1 asks for a hook on the inputs of a unit whose
    own parameters are frozen, which keeps the leaf and its gradient until the pass ends. Runs of Mistral-7B,
    Llama-3-8B and Llama-2-70B with adapters show it to the percent; full training and single GPUs do not have it.
    [torch.distributed.fsdp._runtime_utils: post-backward reshard-only hooks; fms-acceleration, benchmark tables]
    """
    adapters = setup.lora is not None and setup.framework == "transformers" and not setup.compile
    return adapters and setup.zero_stage == 3 and _replicas(setup) > 1


@dataclass(frozen=True, slots=True)
class Pass:
    """One phase of the layers' work, before it is known how many tokens go through.

    moments    of which the largest counts, each with the bytes of the gradients that it has made
    kept       bytes of gradients that are there throughout, and what is said of them; None where only fresh ones are
    chunks     what a chunk of the loss takes on top
    beside     what replicas need to share work
    """

    name: str
    moments: tuple[tuple[Moment, int], ...]
    kept: tuple[int, str] | None
    chunks: Chunks | None
    beside: tuple[Part, ...]

    def sizes(self, batch: int, length: int) -> tuple[int, int]:
        """Bytes of what comes and goes, and of gradients that are not `kept`."""
        fresh = most = 0
        for moment, gradients in self.moments:
            total = evaluate(moment, batch, length) + gradients
            if total > most:
                fresh, most = gradients, total
        tokens = batch * length
        passing = most - fresh + LABELS * tokens
        if self.chunks is not None:
            passing += self.chunks.bytes(tokens)
        return passing, fresh

    def phase(self, fixed: tuple[Part, ...], batch: int, length: int) -> Phase:
        """What is alive in it."""
        passing, fresh = self.sizes(batch, length)
        if self.kept is None:
            gradient = Part("gradient_memory", fresh, f"those alive in {self.name}")
        else:
            size, said = self.kept
            if fresh:
                said += f" + {fresh:,} of one that is added to them"
            gradient = Part("gradient_memory", size + fresh, said)
        activations = Part("activation_memory", passing, f"largest moment of {self.name}: {batch} × {length} tokens")
        return Phase(self.name, (*fixed, gradient, activations, *self.beside))


@dataclass(frozen=True, slots=True)
class Steps:
    """One GPU of a stage, before it is known how many tokens go through.

    fixed        alive in every phase
    passes       forward, loss and backward, those that the stage has
    step_before, step_after   beside `fixed` in the optimizer's step, around the inputs
    weights      bytes
    saved_first  what autograd keeps of the first layer
    standing     of each phase, bytes that are there whatever its tokens, in all and by part
    """

    fixed: tuple[Part, ...]
    passes: tuple[Pass, ...]
    step_before: tuple[Part, ...]
    step_after: tuple[Part, ...]
    weights: int
    saved_first: Moment
    standing: tuple[tuple[int, dict[str, int]], ...]

    def peak(self, batch: int, length: int) -> dict[str, int]:
        """Bytes of the largest of its phases, by part; of equal ones the first."""
        passing, fresh, (most, parts) = LABELS * batch * length, 0, self.standing[-1]
        most += passing
        for each, (size, beside) in zip(self.passes[::-1], self.standing[-2::-1], strict=True):
            comes, made = each.sizes(batch, length)
            total = size + comes + made
            if total >= most:
                most, parts, passing, fresh = total, beside, comes, made
        return {
            **parts,
            "gradient_memory": parts.get("gradient_memory", 0) + fresh,
            "activation_memory": parts.get("activation_memory", 0) + passing,
        }

    def totals(self, batch: int, length: int) -> list[int]:
        """Bytes of each of its phases."""
        made = [
            size + sum(each.sizes(batch, length)) for each, (size, _) in zip(self.passes, self.standing, strict=False)
        ]
        return [*made, self.standing[-1][0] + LABELS * batch * length]

    def phase(self, index: int, batch: int, length: int) -> Phase:
        """One of its phases with so many sequences of so many tokens."""
        if index < len(self.passes):
            return self.passes[index].phase(self.fixed, batch, length)
        inputs = Part(
            "activation_memory",
            LABELS * batch * length,
            f"ids and labels: {batch} × {length} tokens × {LABELS} bytes",
        )
        return Phase("optimizer_step", (*self.fixed, *self.step_before, inputs, *self.step_after))

    def phases(self, batch: int, length: int) -> tuple[Phase, ...]:
        """All of them."""
        return tuple([self.phase(index, batch, length) for index in range(len(self.passes) + 1)])


def _leading(moments: Sequence[Moment], fresh: Fresh) -> tuple[tuple[Moment, int], ...]:
    """Moments with their gradients, without those that an earlier one is never below."""
    made: list[tuple[Moment, int]] = []
    for moment in moments:
        gradients = fresh.bytes(moment[6])
        size = (moment[0] + gradients, *moment[1:6])
        if not any(all(map(ge, (before[0] + beside, *before[1:6]), size)) for before, beside in made):
            made.append((moment, gradients))
    return tuple(made)


def _steps(model: Model, setup: TrainingSetup, stage: Stage) -> Steps:
    """What one GPU of a stage holds and does in a step of a settled setup, whatever its batch and length."""
    scheme, spread = scheme_of(setup), spread_of(setup)
    optimizer = find_optimizer(setup.optimizer)
    recipe = base_recipe(setup)
    held = _held(model, stage.begin, stage.end, spread.tensor, spread.expert, scheme.weights, recipe)
    profile = step_profile(
        local_of(model, setup),
        mode_of(model, setup),
        course_of(setup, stage, len(model.layers)),
    )
    sharded = setup.zero_stage == 3 and spread.group > 1
    width = BYTES[scheme.gradients]
    implementation = setup.optimizer_implementation
    kept = _kept(model, setup.lora, setup.optimizer, int(BYTES[scheme.states]), implementation)

    # what is trained, on this GPU and of it what its share is
    if setup.lora is not None:
        dense = ceil_div(kept.elements * (stage.end - stage.begin), max(len(model.layers), 1))
        experts = 0
    else:
        percent = Fraction(str(setup.trainable_parameters)) / 100
        dense, experts = int(held.elements * percent), int(held.experts * percent)
    trained = dense + experts
    owned = spread.share(dense, experts)
    states = owned if setup.zero_stage >= 1 else trained
    gradients = owned if setup.zero_stage >= 2 else trained
    parameters = owned if sharded else trained

    if sharded:
        weights = spread.share(held.weights - held.beside, held.expert_weights) + held.beside
        divided = f" shared by {spread.group} GPUs"
    else:
        weights, divided = held.weights + held.expert_weights, ""
    count = held.elements + held.experts
    stored_in = recipe.name if recipe is not None else f"{BYTES[scheme.weights]} bytes ({scheme.weights})"
    fixed = [Part("model_weights", weights, f"{count:,} parameters × {stored_in}{divided}")]
    if setup.lora is not None:
        precision = setup.lora.precision
        fixed.append(
            Part(
                "adapter_memory",
                stored(parameters, precision),
                f"{parameters:,} adapter parameters × {BYTES[precision]} bytes (rank {setup.lora.rank})",
            )
        )
    if scheme.master:
        fixed.append(Part("master_weights", 4 * states, f"{states:,} trained parameters × 4 bytes (float32 copy)"))
    part_of_all = Fraction(states, kept.elements or 1)
    fixed.append(_optimizer_part(optimizer, kept, part_of_all, states, scheme))

    beside = _beside(setup, scheme, spread, held, trained, sharded)
    if setup.framework == "megatron":
        empty = placeholder_elements(local_of(model, setup))
        part = Part("temporary_memory", 2 * empty, f"an empty gradient for each shape of a matrix: {empty:,} × 2 bytes")
        beside = {name: (*parts, part) for name, parts in beside.items()}
    one_at_a_time = scheme.persistent or setup.optimizer_in_backward
    if one_at_a_time and setup.framework == "megatron":
        new = Fresh(Fraction(0))  # products add to the buffer themselves
    elif one_at_a_time:
        compute = WIDTH[tape_dtype(tape_precision(setup) if setup.lora is None else setup.lora.precision)]
        new = Fresh(Fraction(0), _one(held, setup, compute), held.head * compute if setup.lora is None else 0)
    else:
        new = Fresh(width * gradients / (profile.gradients[6] or 1))
    buffers = f"{gradients:,} trained parameters × {width} bytes ({scheme.gradients})"
    whole = stored(gradients, scheme.gradients), buffers
    passes = tuple(
        Pass(
            name,
            _leading(at, new),
            whole if scheme.persistent else None,
            profile.chunks if name == "loss" else None,
            beside[name],
        )
        for name, at in profile.phases.items()
        if at
    )
    before: tuple[Part, ...] = ()
    after = beside["optimizer_step"]
    if not setup.optimizer_in_backward:
        before = (Part("gradient_memory", *whole),)
        temporary = int(kept.temporary * part_of_all)
        said = f"what a {implementation} {optimizer.name} step allocates"
        after = (Part("temporary_memory", temporary, said), *after)
    alive = [
        (*fixed, *(() if each.kept is None else (Part("gradient_memory", *each.kept),)), *each.beside)
        for each in passes
    ]
    standing = [parts_of(Phase("", parts)) for parts in (*alive, (*fixed, *before, *after))]
    return Steps(
        tuple(fixed),
        passes,
        before,
        after,
        weights,
        profile.saved_first,
        tuple((sum(parts.values()), parts) for parts in standing),
    )


def _warnings(setup: TrainingSetup) -> Iterator[str]:
    """What was assumed where a framework leaves it open."""
    if setup.gradient_checkpointing == "selective":
        if cut_along_sequence(setup):
            yield "selective recomputation spares nothing here: fused attention keeps no scores"
        elif setup.framework == "transformers":
            yield (
                "transformers has no selective checkpointing: counted as torch's policy that keeps attention and every "
                "second product"
            )
    if setup.framework == "megatron" and setup.lora is not None:
        yield "activations of adapters are not counted under megatron"
    if setup.attention == "flash" and setup.precision == "float32" and setup.mixed_precision != "autocast":
        yield "flash attention has 16-bit kernels only: queries, keys and values are counted as cast for it"
    if setup.keep_logits and setup.loss == "fused":
        yield "a fused loss makes no logits that could be kept"


def _optimizer_part(optimizer: Optimizer, kept: Kept, share: Fraction, states: int, scheme: Scheme) -> Part:
    moments, extra, resident = (int(each * share) for each in (kept.moments, kept.extra, kept.resident))
    said = f"{optimizer.name}: {moments:,} bytes of state"
    if extra:
        said += f" + {extra:,} of scales and float32 remainders"
    said += f" for {states:,} trained parameters ({scheme.states} states)"
    if resident < moments + extra:
        said += f", {moments + extra - resident:,} of them paged to the host"
    return Part("optimizer_memory", resident, said)


def _assumed(setup: TrainingSetup) -> dict[str, object]:
    said: dict[str, object] = {
        "precision": setup.precision,
        "mixed_precision": setup.mixed_precision,
        "gradient_precision": setup.gradient_precision,
        "optimizer_state_precision": setup.optimizer_state_precision,
    }
    if setup.quantization is not None:
        said["quantization"] = setup.quantization
    return said


# ------------------------------------------------------------------------------------------------ communication

BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size and allgather_bucket_size


def _beside(
    setup: TrainingSetup, scheme: Scheme, spread: Spread, held: Held, trained: int, sharded: bool
) -> dict[str, tuple[Part, ...]]:
    """What replicas need to share work: gathered weights, unsharded gradients, buckets; by phase."""
    made: dict[str, tuple[Part, ...]] = dict.fromkeys(("forward", "loss", "backward", "optimizer_step"), ())
    width = BYTES[scheme.gradients]
    if spread.group == 1:
        return made
    if sharded:
        return _gathered(setup, scheme, held, trained, made)
    if setup.framework == "megatron":
        return made
    if setup.zero_stage == 0:
        size = int(trained * width)
        part = Part("temporary_memory", size, f"buckets of DDP: a second copy of {trained:,} gradients")
        return dict.fromkeys(made, (part,))
    bucket = min(BUCKET, trained)
    part = Part("temporary_memory", int(bucket * width), f"a bucket of {bucket:,} gradients to reduce")
    made["backward"] = (part,)
    part = Part("temporary_memory", int(bucket * BYTES[scheme.weights]), f"a bucket of {bucket:,} weights to gather")
    made["optimizer_step"] = (part,)
    return made


def _gathered(
    setup: TrainingSetup, scheme: Scheme, held: Held, trained: int, made: dict[str, tuple[Part, ...]]
) -> dict[str, tuple[Part, ...]]:
    """FSDP full shard: the root (embedding, last norm, head) stays gathered from the forward to the end of the
    backward pass; one layer is gathered in the forward pass, and in the backward pass the next one too.
    (torch.distributed.fsdp with BACKWARD_PRE; DeepSpeed's stage 3 prefetches alike)
    """
    compute = 2 if scheme.autocast else int(BYTES[scheme.weights])
    root = held.root * compute
    unit = held.unit * compute if setup.quantization is None else held.unit_weights
    ahead = 2 if setup.framework == "torchtitan" else 1  # FSDP2 issues the next gather before a layer runs
    said = f"gathered: {held.root:,} parameters outside the layers"
    made["forward"] = (Part("temporary_memory", root + ahead * unit, f"{said} and {ahead} × {held.unit:,} of a layer"),)
    made["loss"] = (Part("temporary_memory", root, said),)
    alive = 1 if _lingers(setup) else 2  # the peak is then at the first layer, which has none left to prefetch
    size, said = root + alive * unit, f"{said} and {alive} × {held.unit:,} of a layer"
    if setup.lora is None:
        reduced = 4 if setup.framework == "torchtitan" else 0  # reduces in float32: a copy
        size += held.unit * (compute + reduced) + held.root * compute
        said += ", and their gradients until they are reduced"
    made["backward"] = (Part("temporary_memory", size, said),)
    return made
