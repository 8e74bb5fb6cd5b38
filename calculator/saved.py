"""What autograd keeps of one layer, tensor by tensor, each named by the operations that keep it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .model import Model
from .profile import shared_tables
from .tape import BOOL, FLOAT, HALF, INT, LONG, WIDTH, Mode, Node, Rule, Size, Storage, Tape, Value, scaled

PRECISIONS = {HALF: "compute", FLOAT: "float32", BOOL: "mask", LONG: "int64", INT: "int32"}


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor that stays until the backward pass.

    name       the operations that keep it
    token      elements for each token
    pair       elements for each pair of tokens of a sequence (attention scores)
    precision  compute (16 bit, or that of the weights), float32, mask (one byte)
    """

    name: str
    token: int
    pair: int
    precision: str


class _NamingTape(Tape):
    """A tape that writes down who saves what."""

    def __init__(self, mode: Mode) -> None:
        super().__init__(mode)
        self.types: dict[int, tuple[Storage, str]] = {}
        self.savers: dict[int, list[tuple[weakref.ref[Node], str]]] = {}

    def new(self, elements: Size, dtype: str) -> Value:
        value = super().new(elements, dtype)
        assert value.storage is not None
        self.types[id(value.storage)] = (value.storage, dtype)
        return value

    def _record(
        self, out: Value, inputs: Sequence[Value], saved: list[Storage | None], rule: Rule, outputs: int = 1
    ) -> Value:
        out = super()._record(out, inputs, saved, rule, outputs)
        if isinstance(out.node, Node) and out.node.saved:
            by = (weakref.ref(out.node), _saver())
            for storage in saved:
                if storage is not None:
                    self.savers.setdefault(id(storage), []).append(by)
        return out


_WORDS = {"attach": "kernel", "unary": "activation", "unary_output": "function", "operate": "kernel"}


def _saver() -> str:
    """Who called the tape: a linear layer by its module's name, anything else by its layer and the operation."""
    frame: Any = sys._getframe(2)
    operation = ""
    while frame is not None and isinstance(frame.f_locals.get("self"), Tape):
        operation = frame.f_code.co_name
        if operation == "linear" and frame.f_locals.get("module"):
            return str(frame.f_locals["module"])
        frame = frame.f_back
    while frame is not None and "self" not in frame.f_locals:
        frame = frame.f_back
    owner = frame.f_locals["self"] if frame is not None else None
    name = getattr(owner, "name", None)
    return f"{name or type(owner).__name__} {_WORDS.get(operation, operation)}"


def kept(layer: Any, model: Model, mode: Mode | None = None) -> tuple[Kept, ...]:
    """What one layer of `model` keeps of a training step, in the order it is kept; its input counts with it."""
    mode = mode or Mode()
    tape = _NamingTape(mode)
    for name, elements, dtype in shared_tables(model, mode):
        tape.shared[name] = Value(elements, dtype, None)
    x = tape.new(scaled(mode.queries, model.hidden * model.streams), mode.hidden)
    x.node = Node((), [], lambda tape, grads, node: [])
    y = layer.forward(tape, x)
    tape.lingering.clear()
    made = []
    for key, savers in tape.savers.items():
        alive = [name for node, name in savers if node() is not None]  # nothing waits for what only picks, as indexers
        if not alive or key not in tape.types or (y.storage is not None and key == id(y.storage)):
            continue
        storage, dtype = tape.types[key]
        width = WIDTH[dtype]
        names = ", ".join(dict.fromkeys(alive))
        made.append(Kept(names, storage.bytes[3] // width, storage.bytes[5] // width, PRECISIONS[dtype]))
    return tuple(made)
