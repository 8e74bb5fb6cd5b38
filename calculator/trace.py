"""One layer on the tape: what it keeps, and every moment of its forward and backward pass that could be the peak.

Sizes count what the layer itself holds: its input (made by the layer before, alive until this one returns), its
inner tensors,
its gradients; not the model's weights, nor what other layers hold. `profile` adds those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from sys import getrefcount
from typing import Any

from .tape import NOTHING, SILENCE, Mode, Moment, Node, Size, Storage, Tape, Value, front, less, scaled, together

Shared = tuple[tuple[str, Size, str], ...]  # tables and masks made once for all layers: name, elements, dtype


@dataclass(frozen=True, slots=True)
class Trace:
    """What one layer takes, as sizes in bytes.

    forward    moments of the forward pass, the input included
    saved      what stays for the backward pass, the input included if the layer keeps it
    backward   moments of the backward pass, from what was saved and the output's gradient on
    gradients  gradients of the layer's parameters, which stay
    casts      autocast's 16-bit weights, which live until the region ends
    before, after   what is cached at the start and at the end of an inference step
    keeps_input     whether `saved` includes the input
    uses            names of the shared tables and masks it looked at
    lingers         what of its attention weights, which it hands back, nothing else keeps
    saves           names of the tables and masks that its backward pass needs
    asks            whether its output needs a gradient
    """

    forward: tuple[Moment, ...]
    saved: Moment = SILENCE
    backward: tuple[Moment, ...] = ()
    gradients: Moment = SILENCE
    casts: Moment = SILENCE
    before: Moment = SILENCE
    after: Moment = SILENCE
    keeps_input: bool = False
    uses: frozenset[str] = frozenset()
    lingers: Moment = SILENCE
    saves: frozenset[str] = frozenset()
    asks: bool = True


def total(storages: Iterable[Storage]) -> Moment:
    """What some storages hold, each counted once."""
    unique = {id(storage): storage for storage in storages}
    return together(*(storage.bytes for storage in unique.values()))


def saved_names(tape: Tape) -> frozenset[str]:
    """The shared tables and masks that something recorded still refers to."""
    return frozenset(name for name, value in tape.shared.items() if getrefcount(value.storage) > 2)


def release(tape: Tape, values: list[Value]) -> Moment:
    """Let go of values: what becomes free."""
    before = tape.live
    values.clear()
    return less(before, tape.live)


def _entry() -> Node:
    """Stands for the layer before: the input's gradient waits in its buffer."""
    return Node((), [], lambda tape, grads, node: [])


def _start(mode: Mode, shared: Shared) -> Tape:
    tape = Tape(mode)
    for name, elements, dtype in shared:
        tape.shared[name] = Value(elements, dtype, Storage(tape, NOTHING))  # counted with the model
    return tape


@lru_cache(maxsize=4096)
def trace(layer: Any, mode: Mode, width: int, dtype: str, shared: Shared = ()) -> Trace:
    """Run one layer forward, and backward where the mode trains. Its hidden states are `width` wide, in `dtype`."""
    tape = _start(mode, shared)
    x = tape.new(scaled(mode.queries, width), dtype)
    entry = _entry()
    if mode.training and mode.input_grad:
        x.node = entry
    before = SILENCE
    if mode.step == "decode":
        tape.cached = [Storage(tape, size) for size in old_cache(layer, mode)]
        before = total(tape.cached)
    tape.moments = [tape.live]
    y = layer.forward(tape, x)
    lingers = release(tape, tape.lingering)
    forward = front(tape.moments)
    inside = x.storage
    del x
    node = y.node
    elements, kind = y.elements, y.dtype
    del y
    casts, after = total(tape.casts), total(tape.cached)
    tape.casts.clear()
    with_input = tape.live
    del inside
    if not mode.training:
        return Trace(forward, casts=casts, before=before, after=after, lingers=lingers)
    saved, saves, asks = tape.live, saved_names(tape), isinstance(node, Node)
    tape.moments = []
    tape.begin()
    if isinstance(node, Node):
        node.buffer[0] = tape.new(elements, kind)
    tape.run()
    del node, entry
    return Trace(
        forward,
        saved,
        front(tape.moments),
        total(tape.gradients),
        casts,
        keeps_input=saved == with_input,
        uses=frozenset(tape.shared.used),
        saves=saves,
        lingers=lingers,
        asks=asks,
    )


@lru_cache(maxsize=4096)
def checkpointed(layer: Any, mode: Mode, width: int, dtype: str, shared: Shared = ()) -> Trace:
    """The same layer under gradient checkpointing: only the input stays; the backward pass runs the layer again,
    keeping what it saves, and stops as soon as the last of it is there. What the backward pass made before it first
    asked for something saved is there meanwhile. (torch.utils.checkpoint, non-reentrant)"""
    tape = _start(mode, shared)
    tape.saving = False
    x = tape.new(scaled(mode.queries, width), dtype)
    stored = x.storage
    assert stored is not None
    if mode.input_grad:
        x.node = _entry()
    tape.moments = [tape.live]
    y = layer.forward(tape, x)
    lingers = release(tape, tape.lingering)
    forward, casts = front(tape.moments), total(tape.casts)
    del y, x

    tape = _start(mode, shared)
    tape.recomputed = True
    gradient = tape.new(scaled(mode.queries, width), dtype)
    x = tape.new(scaled(mode.queries, width), dtype)
    entry = _entry()
    if mode.input_grad:
        x.node = entry
    tape.moments = [tape.live]
    y = layer.forward(tape, x)
    tape.lingering.clear()
    moments = tape.moments[: max(tape.last_save, 1)]
    node = y.node
    asks = isinstance(node, Node)
    del y
    tape.casts.clear()
    if isinstance(node, Node):
        node.buffer[0] = gradient
    del gradient
    before = tape.live
    tape.run(until=tape.first_that_saved())
    moments = [together(moment, less(tape.live, before)) for moment in moments]
    tape.moments = []
    tape.run()
    del node, entry
    handed = layer.handed(mode) if hasattr(layer, "handed") else NOTHING
    return Trace(
        forward,
        together(stored.bytes, handed),
        front(moments + tape.moments),
        total(tape.gradients),
        casts,
        keeps_input=True,
        uses=frozenset(tape.shared.used),
        lingers=lingers,
        asks=asks,
    )


@lru_cache(maxsize=4096)
def selected(layer: Any, mode: Mode, width: int, dtype: str, shared: Shared = ()) -> Trace:
    """The same layer under selective checkpointing: its input stays, the outputs of attention, and those of every
    second product; the rest is computed again. (torchtitan's selective operator checkpointing, and the policy that
    torch.utils.checkpoint documents)"""
    tape = _start(mode, shared)
    tape.saving, tape.selecting = False, []
    x = tape.new(scaled(mode.queries, width), dtype)
    kept = [x.storage] if x.storage is not None else []
    if mode.input_grad:
        x.node = _entry()
    tape.moments = [tape.live]
    y = layer.forward(tape, x)
    tape.lingering.clear()
    forward, casts = front(tape.moments), total(tape.casts)
    del y, x
    again = checkpointed(layer, mode, width, dtype, shared)
    saved = total([*kept, *tape.selecting])
    tape.selecting = None
    return Trace(forward, saved, again.backward, again.gradients, casts, keeps_input=True, asks=again.asks)


def old_cache(layer: Any, mode: Mode) -> tuple[Size, ...]:
    """The storages that the layer's cache held before this step."""
    holder = layer if hasattr(layer, "held") else getattr(layer, "mixer", layer)
    return tuple(holder.held(mode)) if hasattr(holder, "held") else ()


RUNS: Mapping[str, Callable[..., Trace]] = {"none": trace, "selective": selected, "full": checkpointed}
"""How a layer is run, by the kind of checkpointing."""

__all__ = ["NOTHING", "RUNS", "Trace", "checkpointed", "selected", "trace"]
