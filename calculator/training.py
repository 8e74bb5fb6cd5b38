"""The memory of one training step: weights, gradients, optimizer states, and the largest moment of what comes and goes.

Phases: `forward`, `loss` (from the logits to the first gradient), `backward`, `optimizer_step`; the peak is their
maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from .errors import InvalidSetup
from .estimate import Estimate, Part, Phase
from .model import Model
from .optimizers import Optimizer, find_optimizer
from .precisions import BYTES, stored, tape_dtype
from .profile import Profile, training_profile
from .setup import Lora, TrainingSetup
from .tape import Adapter, Mode, Moment, evaluate
from .tensors import Tensor

LABELS = 16  # bytes a token: ids and labels, 64-bit integers


@dataclass(frozen=True, slots=True)
class Recipe:
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
    trained = lora.precision if lora is not None else precision
    gradients = setup.gradient_precision or trained
    states = setup.optimizer_state_precision or ("float32" if mixed == "master_weights" else trained)
    return replace(
        setup,
        precision=precision,
        mixed_precision=mixed,
        gradient_precision=gradients,
        optimizer_state_precision=states,
        lora=lora,
    )


def recipe_of(setup: TrainingSetup) -> Recipe:
    """The recipe a settled setup describes."""
    assert setup.precision and setup.gradient_precision and setup.optimizer_state_precision
    trained = setup.lora.precision if setup.lora is not None else setup.precision
    return Recipe(
        setup.precision,
        setup.gradient_precision,
        setup.optimizer_state_precision,
        master=setup.mixed_precision == "master_weights" and trained != "float32",
        autocast=setup.mixed_precision == "autocast",
        persistent=setup.mixed_precision == "master_weights" or setup.gradient_accumulation > 1,
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
        weights=tape_dtype(setup.precision),
        autocast=setup.mixed_precision == "autocast",
        attention=setup.attention,
        frozen=adapter is not None,
        adapter=adapter,
        one=setup.batch_size == 1,
        exceeded=frozenset(window for window in model.windows if setup.sequence_length >= window),
        quantized=setup.method == "qlora",
        kernels=setup.kernels,
    )


def adapter_tensors(model: Model, lora: Lora) -> tuple[Tensor, ...]:
    """The low-rank pairs beside every targeted linear layer; the head is never one of "all-linear". [peft]"""
    adapter = Adapter(lora.rank, lora.target_modules, "", lora.dora)
    made: list[Tensor] = []
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


def _largest(moments: Sequence[Moment], batch: int, length: int, share: Fraction) -> tuple[int, int]:
    """(activations, gradients) of the moment whose sum is the largest."""
    best = (0, 0)
    for moment in moments:
        passing, kept = evaluate(moment, batch, length), int(moment[6] * share)
        if passing + kept > sum(best):
            best = (passing, kept)
    return best


def training(model: Model, setup: TrainingSetup) -> Estimate:
    """The peak of a training step of `setup` on `model`.

    Raises InvalidSetup where settings exclude each other.
    """
    setup = settled(model, setup)
    recipe = recipe_of(setup)
    optimizer = find_optimizer(setup.optimizer)
    profile = training_profile(
        model, mode_of(model, setup), setup.gradient_checkpointing, setup.keep_logits, setup.lora is None
    )
    return _assemble(model, setup, recipe, optimizer, profile)


def _assemble(model: Model, setup: TrainingSetup, recipe: Recipe, optimizer: Optimizer, profile: Profile) -> Estimate:
    share = Fraction(str(setup.trainable_parameters)) / 100
    weights = stored(model.parameters, recipe.weights)
    weights_part = Part(
        "model_weights", weights, f"{model.parameters:,} parameters × {BYTES[recipe.weights]} bytes ({recipe.weights})"
    )
    if setup.lora is not None:
        tensors: tuple[Tensor, ...] = adapter_tensors(model, setup.lora)
        trained = sum(tensor.elements for tensor in tensors)
        held = stored(trained, setup.lora.precision)
        fixed = [
            weights_part,
            Part(
                "adapter_memory",
                held,
                f"{trained:,} adapter parameters × {BYTES[setup.lora.precision]} bytes (rank {setup.lora.rank})",
            ),
        ]
        trained_width = BYTES[setup.lora.precision]
    else:
        tensors = tuple(model.tensors())
        trained = int(model.parameters * share)
        fixed = [weights_part]
        trained_width = BYTES[recipe.weights]
    if recipe.master:
        fixed.append(Part("master_weights", 4 * trained, f"{trained:,} trained parameters × 4 bytes (float32 copy)"))
    state_width = int(BYTES[recipe.states])
    states = [optimizer.states(tensor, state_width) for tensor in tensors]
    moments, extra = sum(each.moments for each in states), sum(each.extra for each in states)
    resident = sum(each.resident for each in states)
    scale = Fraction(trained, sum(tensor.elements for tensor in tensors) or 1)
    moments, extra, resident = int(moments * scale), int(extra * scale), int(resident * scale)
    fixed.append(
        Part(
            "optimizer_memory",
            resident,
            f"{optimizer.name}: {moments:,} bytes of state"
            + (f" + {extra:,} of scales and float32 remainders" if extra else "")
            + f" for {trained:,} trained parameters ({recipe.states} states)"
            + (f", {moments + extra - resident:,} of them paged to the host" if resident < moments + extra else ""),
        )
    )
    gradients = stored(trained, recipe.gradients)
    gradient_formula = f"{trained:,} trained parameters × {BYTES[recipe.gradients]} bytes ({recipe.gradients})"
    factor = (
        Fraction(0)
        if recipe.persistent or setup.optimizer_in_backward
        else (BYTES[recipe.gradients] / trained_width * scale)
    )
    batch, length = setup.batch_size, setup.sequence_length
    inputs = LABELS * batch * length
    phases: list[Phase] = []
    for name, at in profile.phases.items():
        passing, kept = _largest(at, batch, length, factor)
        kept = gradients if recipe.persistent else kept
        parts = [
            *fixed,
            Part("gradient_memory", kept, gradient_formula if recipe.persistent else f"those alive in {name}"),
        ]
        parts.append(
            Part("activation_memory", passing + inputs, f"largest moment of {name}: {batch} × {length} tokens")
        )
        phases.append(Phase(name, tuple(parts)))
    temporary = int(optimizer.temporary(tensors, state_width, setup.optimizer_implementation) * scale)
    step = [*fixed]
    if not setup.optimizer_in_backward:
        step.append(Part("gradient_memory", gradients, gradient_formula))
    step.append(Part("activation_memory", inputs, f"ids and labels: {batch} × {length} tokens × {LABELS} bytes"))
    step.append(
        Part("temporary_memory", temporary, f"what a {setup.optimizer_implementation} {optimizer.name} step allocates")
    )
    phases.append(Phase("optimizer_step", tuple(step)))
    return Estimate(
        tuple(phases),
        states={
            "model_weights": weights,
            "gradients": gradients,
            "master_weights": 4 * trained if recipe.master else 0,
            "optimizer_states": moments,
            **({"optimizer_scales": extra} if extra else {}),
        },
        saved_per_layer=evaluate(profile.saved_first, batch, length),
        assumed=_assumed(setup),
    )


def _assumed(setup: TrainingSetup) -> dict[str, object]:
    return {
        "precision": setup.precision,
        "mixed_precision": setup.mixed_precision,
        "gradient_precision": setup.gradient_precision,
        "optimizer_state_precision": setup.optimizer_state_precision,
    }
