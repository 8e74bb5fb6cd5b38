"""Cutting a model over GPUs: what each of them holds, which layers a pipeline stage has, and what must divide what.

A tensor says how far it can be cut (`Tensor.held`). A layer is cut by giving it its share of heads, of the
feed-forward width and of the experts: its forward program is then the one a single GPU runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from .errors import InvalidSetup
from .layers.blocks import Block
from .layers.experts import Experts
from .layers.megatron import MegatronBlock, MegatronEmbedding, MegatronHead, megatron_block
from .model import Model
from .parallel import sliced
from .units import ceil_div

HEADS = ("heads", "kv_heads", "value_heads", "key_heads", "groups")
WIDTHS = ("intermediate", "shared_intermediate")


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: its layers from `begin` to before `end`, and how many micro batches wait beside one."""

    begin: int
    end: int
    waiting: int = 0


def local_layer(layer: Any, tensor: int, expert: int = 1) -> Any:
    """The part of a layer that one GPU runs. Key heads fewer than GPUs are copied, never split."""
    return _dealt(sliced(layer, tensor), expert)


def _dealt(part: Any, ways: int) -> Any:
    """A layer with its share of the routed experts; the router keeps all of its outputs."""
    if ways == 1 or not is_dataclass(part) or isinstance(part, type):
        return part
    if isinstance(part, Experts):
        return replace(part, experts=ceil_div(part.experts, ways))
    changed = {
        each.name: made
        for each in fields(part)
        if is_dataclass(value := getattr(part, each.name)) and (made := _dealt(value, ways)) is not value
    }
    return replace(part, **changed) if changed else part


@lru_cache(maxsize=512)
def local_model(model: Model, tensor: int, expert: int = 1) -> Model:
    """The model as one GPU of a tensor- and expert-parallel group runs it."""
    if tensor == 1 and expert == 1:
        return model
    made = {layer: local_layer(layer, tensor, expert) for layer in model.distinct}
    return replace(
        model,
        layers=tuple(made[layer] for layer in model.layers),
        embedding=replace(model.embedding, vocabulary=ceil_div(model.embedding.vocabulary, tensor)),
        head=replace(model.head, vocabulary=ceil_div(model.head.vocabulary, tensor)),
    )


@lru_cache(maxsize=512)
def megatron_model(model: Model, tensor: int, expert: int, sequence: bool) -> Model:
    """The same with Megatron's layers and ends, the sequence between products cut or not."""
    local = local_model(model, tensor, expert)
    hidden = local.hidden
    parts = tensor if sequence else 1
    made = {layer: megatron_block(layer, hidden, parts) for layer in local.distinct}
    mixed = any(each.other is not None for each in made.values())
    return replace(
        local,
        layers=tuple(made[layer] for layer in local.layers),
        embedding=MegatronEmbedding(local.embedding.vocabulary, hidden // parts, whole=hidden),
        head=MegatronHead(local.head.vocabulary, hidden // parts, local.head.tied, local.head.norm, whole=hidden),
        tables=local.tables if mixed else (),
        beside=local.beside if mixed else (),
        held_embedding=False,
    )


@lru_cache(maxsize=512)
def placeholder_elements(model: Model) -> int:
    """Elements of the empty gradients that Megatron's products hand back, one for each shape of a matrix."""
    found: set[tuple[int, int]] = set()
    for layer in model.distinct:
        if isinstance(layer, MegatronBlock):
            found |= layer.placeholders()
    return sum(out * into for out, into in found)


def stages(model: Model, ways: int, schedule: str = "1f1b", virtual: int = 1, micro_batches: int = 1) -> list[Stage]:
    """The stages of a pipeline, the first first. [arXiv:2104.04473]

    With one forward, one backward, stage i of p holds at most p - i micro batches. Interleaved with v parts a stage,
    the first holds 1 + (p - 1) / (p · v) times the layers of p.
    """
    count = len(model.layers)
    if ways == 1:
        return [Stage(0, count)]
    made = []
    for index in range(ways):
        begin, end = index * count // ways, (index + 1) * count // ways
        flying = ways - index
        if schedule == "interleaved" and virtual > 1:
            flying = flying + ceil_div(ways - index - 1, virtual)
        made.append(Stage(begin, end, min(flying, micro_batches) - 1))
    return made


def check_divides(amount: int, ways: int, what: str, field: str, beside: str = "") -> None:
    """Raise InvalidSetup, naming the ways that do divide, unless `ways` divides `amount`."""
    if amount % ways:
        most = [str(each) for each in range(1, min(amount, 4096) + 1) if amount % each == 0]
        raise InvalidSetup(f"{field} {ways} does not divide {what}{beside}; allowed: {', '.join(most)}", field)


def check_tensor(model: Model, ways: int) -> None:
    """Heads and feed-forward widths must divide; key heads must divide or be divided."""
    if ways == 1:
        return
    amounts = _cut_amounts(model)
    wrong = [each for each in amounts if not _divides(*each, ways)]
    if not wrong:
        return
    name, amount = wrong[0]
    what = f"{amount} {'key-value heads' if name == 'kv_heads' else name}" if name in HEADS else f"a width of {amount}"
    most = max(count for kind, count in amounts if kind in HEADS) if any(k in HEADS for k, _ in amounts) else amount
    allowed = [str(each) for each in range(1, most + 1) if all(_divides(*one, each) for one in amounts)]
    raise InvalidSetup(
        f"tensor_parallel {ways} does not divide {what}; allowed for this model: {', '.join(allowed)}",
        "tensor_parallel",
    )


def _divides(name: str, amount: int, ways: int) -> bool:
    return amount % ways == 0 or (name == "kv_heads" and ways % amount == 0)


@lru_cache(maxsize=512)
def _cut_amounts(model: Model) -> tuple[tuple[str, int], ...]:
    """What tensor parallelism divides, by kind. A width that was solved from a stated size is rounded instead."""
    names = HEADS if model.stated is not None else HEADS + WIDTHS
    found: dict[tuple[str, int], None] = {}
    for layer in model.distinct:
        for part in _parts(layer):
            for name in names:
                amount = getattr(part, name, 0)
                if isinstance(amount, int) and amount > 1:  # a single one is copied
                    found[name, amount] = None
    return tuple(found)


def _parts(layer: Block) -> Iterator[Any]:
    yield layer
    for each in fields(layer):
        value = getattr(layer, each.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _parts(value)  # type: ignore[arg-type]


def check_expert(model: Model, ways: int, group: int) -> None:
    """Experts are dealt out over GPUs that hold replicas: their number and the group must divide."""
    if ways == 1:
        return
    counts = {tensor.experts for layer in model.distinct for tensor in layer.tensors() if tensor.experts}
    if not counts:
        raise InvalidSetup("expert_parallel needs a model with routed experts: leave it at 1", "expert_parallel")
    for count in counts:
        check_divides(count, ways, f"the {count} experts of a layer", "expert_parallel")
    check_divides(
        group,
        ways,
        f"the {group} GPUs of data_parallel × context_parallel × tensor_parallel",
        "expert_parallel",
        " that it deals experts over",
    )
