"""A whole model on the tape: the traces of its layers put one after the other.

A profile holds, for each phase of a step, the sizes of which the largest is that phase's need beyond weights,
optimizer states
and inputs. It depends on the model and the mode, not on batch and length, and is made once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import ge

from .layers.attention import kept_rows
from .layers.blocks import Block
from .layers.ends import (
    Chunks,
    chunked_cross_entropy,
    chunks_of,
    compiled_cross_entropy,
    cross_entropy,
    fused_cross_entropy,
)
from .layers.megatron import parallel_cross_entropy
from .model import Model
from .tape import (
    BOOL,
    FLOAT,
    HALF,
    LONG,
    SEQUENCES,
    SILENCE,
    TOKENS,
    WIDTH,
    Mode,
    Moment,
    Node,
    Size,
    Tape,
    Value,
    evaluate,
    front,
    less,
    scaled,
    together,
)
from .trace import RUNS, Shared, Trace, trace


@dataclass(frozen=True, slots=True)
class Profile:
    """Moments in bytes by phase, and what stays.

    phases      name → moments, of which the largest counts
    gradients   of all parameters together
    saved_first what autograd keeps of the first layer
    cached      keys, values and states as transformers stores them at the end of the phase
    chunks      what a chunk of the loss takes on top of the phase `loss`
    casts       autocast's 16-bit weights of all layers
    """

    phases: dict[str, tuple[Moment, ...]]
    gradients: Moment = SILENCE
    saved_first: Moment = SILENCE
    cached: Moment = SILENCE
    chunks: Chunks | None = None
    casts: Moment = SILENCE

    def need(self, phase: str, sequences: int, length: int) -> int:
        """Bytes of the largest moment of a phase with its gradients, 0 where it has none."""
        return largest(self.phases[phase], sequences, length)


def largest(moments: Sequence[Moment], sequences: int, length: int) -> int:
    """Bytes of the largest moment with its gradients, 0 where there is none."""
    most = 0
    for one, b, s, bs, ss, bss, gradients in moments:
        size = one + gradients + sequences * b + length * (s + sequences * bs + length * (ss + sequences * bss))
        if size > most:
            most = size
    return most


def leading(moments: Sequence[Moment], one: bool, length: int) -> tuple[Moment, ...]:
    """The moments of which one is the largest for `one` sequence, or for any two and more, of so many tokens or more.

    A moment is left out where another is never below it there: all coefficients of their difference, in sequences and
    tokens beyond the least, are positive.

    >>> leading([(9, 0, 0, 1, 0, 0, 0), (0, 0, 0, 2, 0, 0, 0)], one=True, length=9)
    ((0, 0, 0, 2, 0, 0, 0),)
    """
    least, beyond = (1, 0) if one else (2, 1)
    made: list[tuple[tuple[int, ...], Moment]] = []
    for moment in moments:
        _, b, s, bs, ss, bss, gradients = moment
        grown = (
            evaluate(moment, least, length) + gradients,
            beyond * (b + length * (bs + length * bss)),
            s + least * bs + 2 * length * (ss + least * bss),
            beyond * (bs + 2 * length * bss),
            ss + least * bss,
            beyond * bss,
        )
        if not any(all(map(ge, other, grown)) for other, _ in made):
            made = [each for each in made if not all(map(ge, grown, each[0]))]
            made.append((grown, moment))
    return tuple(moment for _, moment in made)


def settled(model: Model, mode: Mode) -> Mode:
    """The mode a model runs in: where transformers offers no sdpa for it, eager."""
    return mode if model.sdpa or mode.attention != "sdpa" else replace(mode, attention="eager")


def shared_tables(model: Model, mode: Mode) -> Shared:
    """Rotary tables and masks as every layer sees them: name, elements, dtype."""
    dtype = FLOAT if model.float_tables else mode.hidden
    rows = mode.queries if model.batched_tables else mode.query_positions
    made = [(name, scaled(rows, width), dtype) for name, width in model.tables]
    made += [(name, size, kind or mode.hidden) for name, size, kind in model.beside]
    if model.embedding.positions_each:  # with the ones that the positions are summed from
        made += [("position_ids", TOKENS, LONG), ("position_mask", TOKENS, FLOAT)]
    else:
        made.append(("position_ids", mode.query_positions, LONG))
    made += [(name, scaled(mode.queries, width), mode.hidden) for name, width in model.inputs]
    product = HALF if mode.autocast else mode.hidden
    made += [(name, scaled(mode.mask, heads), product if low else mode.hidden) for name, heads, low in model.biases]
    exceeded = [window for window in model.windows if window in mode.exceeded]
    if mode.attention == "eager":
        if None in model.reaches and not model.distances and not model.unmasked:
            made.append(("filling", mode.scores, BOOL) if model.mask_filled else ("mask", mode.scores, mode.hidden))
        for window in model.windows:
            kept = kept_rows(mode.exceeded, window) if mode.step == "decode" else mode.scores
            made.append(("window_mask", kept, mode.hidden))
    elif mode.attention == "sdpa" and model.masked:
        made.append(("mask", mode.mask, BOOL))
    elif mode.attention == "sdpa" and exceeded:
        for window in exceeded:
            made.append(("window_mask", (window, 0, 0, 0, 0, 0) if mode.step == "decode" else mode.mask, BOOL))
    if model.idle_mask and mode.attention in ("eager", "sdpa"):
        eager = mode.attention == "eager"
        made.append(("idle_mask", mode.scores if eager else mode.mask, mode.hidden if eager else BOOL))
    if model.distances and mode.attention != "flash":
        made.append(("bias", scaled(mode.scores, model.distances), mode.hidden))
    return tuple(made)


def _bytes(shared: Shared) -> Moment:
    return together(SILENCE, *(scaled(size, WIDTH[dtype]) for _, size, dtype in shared))


@dataclass(frozen=True, slots=True)
class EndTrace:
    """The tail of a training step: final norm, logits, loss, and the way back to the hidden states."""

    forward: tuple[Moment, ...]
    loss_forward: tuple[Moment, ...]
    loss_backward: tuple[Moment, ...]
    backward: tuple[Moment, ...]
    saved: Moment
    gradients: Moment
    casts: Moment


@lru_cache(maxsize=1024)
def _tail(model: Model, mode: Mode, keep_logits: bool, loss_kind: str, compiled: bool) -> EndTrace:
    tape = Tape(mode)
    head = model.head
    x = tape.new(scaled(TOKENS, model.hidden * model.streams), FLOAT if model.wide_residual else mode.hidden)
    entry = Node((), [], lambda tape, grads, node: [])
    x.node = entry
    tape.moments = [tape.live]
    x = head.final(tape, x)
    forward = front(tape.moments)
    tape.moments = []
    tape.new(TOKENS, LONG)
    held = None
    if loss_kind == "fused":
        loss = fused_cross_entropy(tape, x, head)
        until = loss.node
    else:
        logits = head.logits(tape, x, TOKENS)
        until = logits.node
        if loss_kind == "parallel":
            loss = parallel_cross_entropy(tape, logits)
        elif compiled:
            loss = compiled_cross_entropy(tape, logits, whole=loss_kind != "chunked")
        elif loss_kind == "chunked":
            loss = chunked_cross_entropy(tape, logits)
        else:
            loss = cross_entropy(tape, logits, head.narrow_loss)
        held = logits if keep_logits or (loss_kind == "chunked" and not compiled) else None
        del logits
    loss_forward = front(tape.moments)
    casts = together(SILENCE, *(storage.bytes for storage in tape.casts))
    tape.casts.clear()
    tape.lingering.clear()
    del x
    tape.moments = []
    node = loss.node
    del loss
    assert isinstance(node, Node)
    node.buffer[0] = tape.new((1, 0, 0, 0, 0, 0), FLOAT)
    saved = tape.live
    tape.run(until=until)
    loss_backward = front(tape.moments)
    tape.moments = []
    tape.run()
    backward = front(tape.moments)
    del node, until, held, entry
    gradients = together(SILENCE, *(storage.bytes for storage in tape.gradients))
    return EndTrace(forward, loss_forward, loss_backward, backward, saved, gradients, casts)


@dataclass(frozen=True, slots=True)
class Start:
    """The embedding, and what the model's own variables hold while the layers run.

    beside   held besides the embedding's output
    output   the embedding's output where it is held too
    asks     whether the embedding's output needs a gradient
    returned gradients that wait for it while the layers run backward, besides that of its output
    """

    trace: Trace
    beside: Moment
    output: Moment
    asks: bool
    returned: Moment = SILENCE


@lru_cache(maxsize=1024)
def _embedding(model: Model, mode: Mode, asked: bool = False) -> Start:
    tape = Tape(mode)
    tape.asked = asked
    tape.moments = [SILENCE]
    x = model.embedding.forward(tape)
    forward, node, asks = front(tape.moments), x.node, x.node is not None
    size, dtype, inside = x.elements, x.dtype, x.storage
    whole = together(scaled(size, WIDTH[dtype]))
    output = whole if any(each.storage is inside for each in tape.held) else SILENCE
    aside = [(each.node, each.index, each.elements, each.dtype) for each in tape.aside]
    tape.aside.clear()
    with_held = tape.live
    if isinstance(node, Node) and not node.inputs:  # what the first layer keeps is counted with it
        node = None
    del x, inside
    tape.held.clear()
    saved = tape.live
    beside = less(less(with_held, saved), whole)
    if not model.held_embedding:
        beside = output = SILENCE
    if not mode.training or not any(isinstance(maker, Node) for maker in (node, *(each[0] for each in aside))):
        return Start(Trace(forward, saved), beside, output, asks)
    returned = SILENCE
    for maker, index, elements, kind in aside:
        if isinstance(maker, Node):
            maker.buffer[index] = tape.new(elements, kind)
            returned = together(returned, scaled(elements, WIDTH[kind]))
    tape.moments = []
    if isinstance(node, Node):
        node.buffer[0] = tape.new(size, dtype)
    tape.run()
    moments = list(tape.moments)
    # the sum with the head's gradient of the table is a tensor of its own, unless autocast has just made that one
    if model.head.tied and not mode.frozen and not (mode.autocast and mode.weights == FLOAT):
        moments.append(together(tape.live, (0, 0, 0, 0, 0, 0, _table(model, mode))))
    del node
    gradients = together(SILENCE, *(storage.bytes for storage in tape.gradients))
    return Start(Trace(forward, saved, front(moments), gradients), beside, output, asks, returned)


def _table(model: Model, mode: Mode) -> int:
    """Bytes of the table of tokens."""
    return model.embedding.vocabulary * model.embedding.width * WIDTH[mode.weights]


MANY = 256  # waiting sizes of one kind of layer beyond which neighbours are taken together
LONGEST = 32  # layers after which a pattern is looked for no more


def _period(kinds: Sequence[object]) -> int:
    """The shortest pattern that the layers repeat; 1 where there is none.

    >>> _period("aabaabaa")
    3
    """
    for period in range(1, min(LONGEST, len(kinds) // 2) + 1):
        if all(kinds[index] == kinds[index + period] for index in range(len(kinds) - period)):
            return period
    return 1


def _ends(series: Sequence[Moment]) -> list[Moment]:
    """Of what waits beside equal layers along the model, what could be the largest: of an even growth the two ends.

    Of a model without a pattern and with very many layers, bounds from above.
    """
    kept = [
        waiting
        for index, waiting in enumerate(series)
        if not 0 < index < len(series) - 1 or less(waiting, series[index - 1]) != less(series[index + 1], waiting)
    ]
    if len(kept) <= MANY:
        return kept
    size = -(-len(kept) // MANY)
    groups = [kept[start : start + size] for start in range(0, len(kept), size)]
    return [
        (max(a), max(b), max(c), max(d), max(e), max(f), max(g))
        for a, b, c, d, e, f, g in (zip(*each, strict=True) for each in groups)
    ]


def _along(waiting: Sequence[Moment], traces: Sequence[Trace], backward: bool = False) -> list[Moment]:
    """The moments of all layers, each beside what waits meanwhile."""
    kinds = [id(each) for each in traces]
    period = _period(kinds)
    series: dict[tuple[int, int], list[Moment]] = {}
    moments: dict[int, tuple[Moment, ...]] = {}
    for index, each in enumerate(traces):
        series.setdefault((kinds[index], index % period), []).append(waiting[index])
        moments[kinds[index]] = each.backward if backward else each.forward
    return [
        together(beside, moment)
        for (kind, _), found in series.items()
        for beside in _ends(found)
        for moment in moments[kind]
    ]


@dataclass(frozen=True, slots=True)
class Course:
    """How a training step runs, besides what the mode says.

    checkpointing     none, selective or full
    offloaded         whether what layers keep waits in the host's memory
    loss              standard, chunked or fused; parallel over a cut vocabulary
    compiled          whether torch.compile makes the loss one kernel
    keep_logits       whether the outputs are held through the backward pass
    first_input_grad  whether the first layer's input needs a gradient
    lingering         whether checkpointed inputs and their gradients stay until the backward pass is over
    layers            the first and the last but one layer of this pipeline stage; None for all
    waiting           further micro batches whose activations are kept at the same time
    """

    checkpointing: str = "none"
    offloaded: bool = False
    loss: str = "standard"
    compiled: bool = False
    keep_logits: bool = False
    first_input_grad: bool = True
    lingering: bool = False
    layers: tuple[int, int] | None = None
    waiting: int = 0


STASHED = 2  # layers whose offloaded activations are on the GPU: one on its way out or back, and the one that runs


def training_profile(
    model: Model, mode: Mode, checkpointing: str = "none", keep_logits: bool = False, first_input_grad: bool = True
) -> Profile:
    """One whole training step on one GPU with the standard loss."""
    return step_profile(model, mode, Course(checkpointing, keep_logits=keep_logits, first_input_grad=first_input_grad))


def _buffers(model: Model, mode: Mode) -> int:
    """Bytes of tables beside the parameters, some of them in the dtype of the weights."""
    return model.buffers + model.waves * WIDTH[mode.weights]


@lru_cache(maxsize=1024)
def step_profile(model: Model, mode: Mode, course: Course) -> Profile:
    """One training step: forward, loss, backward. The optimizer's step is arithmetic on parameters: see `training`."""
    mode = settled(model, mode)
    shared = shared_tables(model, mode)
    run = RUNS[course.checkpointing]
    width, dtype = model.hidden * model.streams, mode.hidden
    begin, end = course.layers or (0, len(model.layers))
    first, last_stage = begin == 0, end == len(model.layers)
    # peft and transformers ask the embedding's output for a gradient where layers are checkpointed
    asked = mode.frozen and course.checkpointing != "none"
    start = _embedding(model, mode, asked) if first else Start(Trace(()), SILENCE, SILENCE, True)
    buffers = together((_buffers(model, mode) * (end - begin) // max(len(model.layers), 1), 0, 0, 0, 0, 0))
    held = together(start.trace.saved, _bytes(shared), buffers)
    traces = [run(layer, mode, width, each, shared) for layer, each in _handed_on(model, dtype)[begin:end]]
    asks = not first or course.first_input_grad or start.asks
    for index, (layer, handed) in enumerate(_handed_on(model, dtype)[begin:end]):
        if asks:  # below the first layer with an adapter nothing is kept
            break
        traces[index] = run(layer, _without_input_gradient(mode), width, handed, shared)
        asks = traces[index].asks
    stashed = _stash(traces) if course.offloaded else SILENCE

    forward: list[Moment] = []
    saved = together(held, stashed)
    casts = SILENCE
    for index, each in enumerate(traces):
        waiting = together(saved, start.beside, start.output if index and not traces[0].keeps_input else SILENCE)
        if index and model.holds_outputs:
            waiting = together(waiting, traces[index - 1].lingers)
        if course.checkpointing != "none":
            waiting = together(waiting, casts)
            casts = together(casts, each.casts)
        forward.append(waiting)
        if not course.offloaded:
            saved = together(saved, each.saved)

    forward_moments = _along(forward, traces) + [together(held, moment) for moment in start.trace.forward]
    inputs = together(start.beside, SILENCE if traces and traces[0].keeps_input else start.output)
    tail = None
    if last_stage:
        tail = _tail(model, mode, course.keep_logits, course.loss, course.compiled)
        forward_moments += [together(saved, casts, inputs, moment) for moment in tail.forward]
    released = _first_users(traces, shared, course.checkpointing != "none")
    staying = together(SILENCE, *(size for sizes in released.values() for size in sizes))
    saved = less(saved, less(_bytes(shared), staying))  # what no layer needs any more went with the forward pass
    loss: list[Moment] = []
    kept = [] if course.offloaded else [each.saved for each in traces]
    kept += [start.trace.saved, tail.saved if tail else SILENCE]
    if tail:
        loss = [together(saved, casts, moment) for moment in tail.loss_forward]
        loss += [together(saved, moment) for moment in tail.loss_backward]

    backward: list[Moment] = []
    last = [together(saved, moment) for moment in tail.backward] if tail else []
    gradients = tail.gradients if tail else SILENCE
    lingers = course.lingering and course.checkpointing != "none"
    for index in reversed(range(len(traces))):
        each = traces[index]
        saved = less(saved, together(SILENCE, *released.get(index + 1, ())))
        if not course.offloaded:
            saved = less(saved, each.saved)
        waiting = together(saved, gradients, start.returned)
        if lingers:  # its input is inside what the layer counts; a gradient of the same size joins it when it is done
            saved = together(saved, each.saved, each.saved)
        backward.append(waiting)
        gradients = together(gradients, each.gradients)
    if first:
        last += [together(gradients, buffers, moment) for moment in start.trace.backward]
        gradients = together(gradients, start.trace.gradients)
        if tail and model.head.tied and not mode.frozen:  # the head's and the embedding's gradient become one
            gradients = less(gradients, (0, 0, 0, 0, 0, 0, _table(model, mode)))
    phases = {
        "forward": front(forward_moments),
        "loss": front(loss),
        "backward": front(_along(backward[::-1], traces, backward=True) + last),
    }
    if course.waiting:
        others = _times(together(*kept), course.waiting)
        phases = {name: tuple(together(others, moment) for moment in each) for name, each in phases.items()}
    return Profile(
        phases,
        gradients,
        traces[0].saved if traces else SILENCE,
        chunks=chunks_of(course.loss, model.head, mode.hidden) if tail else None,
        casts=casts,
    )


NOT_HANDED = ("idle_mask", "position_mask")  # what the model makes and no layer is handed


def _first_users(traces: Sequence[Trace], shared: Shared, checkpointed: bool) -> dict[int, list[Size]]:
    """Tables and masks by the first layer that needs them: they go once its backward pass is over."""
    gone: dict[int, list[Size]] = {}
    for name, size, dtype in shared:
        needs = [name in (each.uses if checkpointed else each.saves) for each in traces]
        if any(needs) or (checkpointed and name not in NOT_HANDED):
            gone.setdefault(needs.index(True) if any(needs) else 0, []).append(scaled(size, WIDTH[dtype]))
    return gone


def _stash(traces: Sequence[Trace]) -> Moment:
    """What the fullest layers keep while it travels to the host or back."""
    return together(SILENCE, *sorted((each.saved for each in traces), reverse=True)[: STASHED - 1])


def _times(moment: Moment, by: int) -> Moment:
    a, b, c, d, e, f, g = (each * by for each in moment)
    return (a, b, c, d, e, f, g)


def _handed_on(model: Model, dtype: str) -> list[tuple[Block, str]]:
    """The layers, each with the dtype of what it is given."""
    between = FLOAT if model.wide_residual else dtype
    return [(layer, between if index else dtype) for index, layer in enumerate(model.layers)]


def _without_input_gradient(mode: Mode) -> Mode:
    return replace(mode, input_grad=False)


@lru_cache(maxsize=2048)
def inference_profile(model: Model, mode: Mode, all_logits: bool = False) -> Profile:
    """One prefill or one decode step, as the mode says."""
    mode = settled(model, mode)
    shared = shared_tables(model, mode)
    width, dtype = model.hidden * model.streams, mode.hidden
    rows = mode.queries
    start = _embedding(model, mode)
    held = together(_bytes(shared), start.beside)
    traces = [trace(layer, mode, width, each, shared) for layer, each in _handed_on(model, dtype)]
    if model.last_token_from is not None and mode.step == "prefill" and not all_logits and mode.attention != "flash":
        short = replace(mode, step="decode")
        alone = shared_tables(model, short)
        for index in range(model.last_token_from, len(traces)):
            traces[index] = trace(model.layers[index], short, width, dtype, alone)
    buffers = together((_buffers(model, mode), 0, 0, 0, 0, 0))
    others = together(buffers, *(each.before for each in traces))
    whole = [together(others, moment) for moment in start.trace.forward]
    waits: list[Moment] = []
    for index, each in enumerate(traces):
        others = less(others, each.before)
        waiting = together(held, others, start.output) if index else together(held, others)
        if index and model.holds_outputs:
            waiting = together(waiting, traces[index - 1].lingers)
        waits.append(waiting)
        others = together(others, each.after)
    whole += _along(waits, traces)
    tape = Tape(mode)
    x = tape.new(scaled(rows, width), FLOAT if model.wide_residual else dtype)
    tape.moments = [tape.live]
    x = model.head.final(tape, x)
    last = traces[-1].lingers if traces and model.holds_outputs else SILENCE
    whole += [together(held, others, start.output, last, moment) for moment in tape.moments]
    tape.moments = []
    logits = model.head.logits(tape, x, rows if all_logits and mode.step != "decode" else SEQUENCES)
    whole += [together(others, moment) for moment in tape.moments]
    del x, logits
    return Profile({mode.step: front(whole)}, cached=less(others, buffers))


__all__ = ["FLOAT", "HALF", "Profile", "Value", "inference_profile", "training_profile"]
