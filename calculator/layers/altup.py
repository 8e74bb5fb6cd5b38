"""Gemma 3n: several hidden states side by side of which each layer computes one (AltUp), a learned residual (LAuReL),
gates of which only the largest pass. [arXiv:2301.13310, arXiv:2411.07501]"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Node, Size, Tape, Value, scaled
from ..tensors import Tensor
from .blocks import Block
from .ends import Head
from .feed_forward import GatedFeedForward, activate
from .gemma import PerLayerEmbedding, PerLayerInput
from .norms import Norm


def _handed(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    grad = grads[0]
    assert grad is not None
    return [None if link is None else Value(link[2], grad.dtype, grad.storage) for link in node.inputs]


def added_in_place(tape: Tape, x: Value, other: Value) -> Value:
    """x += other: nothing new, the gradient handed on to both."""
    return tape.attach(Value(x.elements, x.dtype, x.storage, dense=x.dense), (x, other), (), _handed)


def _to_a_part(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The gradient of an addition in place to a part of a tensor: a copy of the whole, and one of the part."""
    whole, part = node.inputs
    grad = grads[0]
    assert grad is not None
    copied = None if whole is None else tape.new(whole[2], whole[3])
    piece = tape.new(tuple(a - a // 4 for a in grad.elements), grad.dtype) if part is not None else None  # type: ignore[arg-type]
    given = None if part is None else tape.new(part[2], part[3])
    del piece
    return [copied, given]


@dataclass(frozen=True, slots=True)
class TopFeedForward(GatedFeedForward):
    """A gated feed-forward layer whose gate passes only what lies so many deviations above its mean."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma3nTextMLP.forward."""
        gate = self._top(tape, tape.linear(x, self.hidden, self.intermediate, self.bias, self.gate))
        active = activate(tape, gate, self.activation)
        up = tape.linear(x, self.hidden, self.intermediate, self.bias, self.up)
        product = tape.multiply(active, up)
        return tape.linear(product, self.intermediate, self.hidden, self.bias, self.down)

    def _top(self, tape: Tape, inputs: Value) -> Value:
        rows = tape.mode.queries
        mean = tape.mean(inputs, rows)
        deviation = tape.operate(rows, inputs.dtype, (inputs,), (inputs,), _deviation, save_output=True)
        cutoff = tape.add(mean, tape.scale(deviation))
        return tape.unary_output(tape.add(inputs, cutoff))


def _deviation(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """grad / (n · deviation) · (x - mean): the difference and the product."""
    link = node.inputs[0]
    assert link is not None
    difference = tape.new(link[2], link[3])
    result = tape.new(link[2], link[3])
    del difference
    return [result]


@dataclass(frozen=True, slots=True)
class LearnedResidual:
    """x + norm(x · left · right), with a narrow space between."""

    hidden: int
    rank: int
    norm: Norm

    def tensors(self) -> tuple[Tensor, ...]:
        """Two matrices and a norm."""
        return (
            Tensor("laurel.linear_left.weight", (self.rank, self.hidden), "other", "other", True),
            Tensor("laurel.linear_right.weight", (self.hidden, self.rank), "other", "other", True),
            *self.norm.tensors(),
        )

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma3nTextLaurelBlock.forward."""
        low = tape.linear(x, self.hidden, self.rank, module="linear_left")
        low = tape.linear(low, self.rank, self.hidden, module="linear_right")
        normed = self.norm.forward(tape, low)
        return tape.add(x, normed)


@dataclass(frozen=True, slots=True)
class AlternatingUpdates:
    """Predicts all streams from all, and corrects them by what the layer made of one. [arXiv:2301.13310]

    streams      hidden states side by side
    output_scaled  whether the corrected stream is multiplied by a learned vector before the layer's own embedding
    clipped      whether coefficients are clipped while training
    """

    hidden: int
    streams: int
    norm: Norm
    output_scaled: bool = True
    clipped: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """A scale, coefficients of both steps, the router and its norm."""
        count = self.streams
        return (
            Tensor("altup.correct_output_scale", (self.hidden,), "other", "other"),
            Tensor("altup.correction_coefs.weight", (count, count), "other", "other", True),
            Tensor("altup.prediction_coefs.weight", (count * count, count), "other", "other", True),
            Tensor("altup.modality_router.weight", (count, self.hidden), "router", "router", True),
            *self.norm.tensors(),
        )

    def route(self, tape: Tape, x: Value) -> Value:
        """A figure a stream for each token."""
        dtype = x.dtype
        inputs = tape.scale(self.norm.forward(tape, x))
        routed = tape.linear(inputs, self.hidden, self.streams, module="modality_router")
        return tape.cast(tape.unary_output(tape.cast(routed, FLOAT)), dtype)

    def predict(self, tape: Tape, x: Value) -> Value:
        """All streams mixed and added to what they were."""
        rows, count = tape.mode.queries, self.streams
        modalities = self.route(tape, tape.slice(x, scaled(rows, self.hidden), dense=True))
        coefficients = tape.linear(modalities, count, count * count, module="prediction_coefs")
        y = tape.matmul(x, coefficients, x.elements)
        y = added_in_place(tape, y, x)
        y = tape.operate(y.elements, y.dtype, (y,), (), _handed)  # back to streams first
        return tape.cast(y, x.dtype)

    def correct(self, tape: Tape, predictions: Value, active: Value) -> Value:
        """The difference between what was made and what was predicted, added to each stream by its coefficient."""
        rows, count = tape.mode.queries, self.streams
        tape.borrowing = True  # the router and its norm are those of the prediction
        modalities = self.route(tape, active)
        tape.borrowing = False
        own = tape.slice(predictions, scaled(rows, self.hidden), dense=True)
        innovation = tape.add(active, own)
        innovation = tape.repeat(innovation, count)
        module = "" if tape.mode.training and self.clipped else "correction_coefs"
        coefficients = tape.shift(tape.linear(modalities, count, count, module=module))
        corrected = tape.multiply(innovation, coefficients)
        corrected = added_in_place(tape, corrected, predictions)
        return tape.cast(corrected, active.dtype)


@dataclass(frozen=True, slots=True)
class AlternatingBlock(Block):
    """One layer over several hidden states (Gemma 3n)."""

    updates: AlternatingUpdates | None = None
    learned: LearnedResidual | None = None
    own: PerLayerInput | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        made = Block.tensors(self)
        for part in (self.updates, self.learned, self.own):
            if part is not None:
                made += part.tensors()
        return made

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma3nTextDecoderLayer.forward."""
        updates, own = self.updates, self.own
        assert updates is not None and own is not None and self.learned is not None
        assert self.mixer is not None and self.feed_forward is not None
        one = scaled(tape.mode.queries, updates.hidden)
        predictions = updates.predict(tape, x)
        active = tape.slice(predictions, one, dense=True)
        normed = self.norms[0].forward(tape, active)
        learned = self.learned.forward(tape, normed)
        attention = self.mixer.forward(tape, normed)
        attention = self.norms[1].forward(tape, attention)
        gated = tape.add(active, attention)
        joined = tape.scale(tape.add(gated, learned))
        before = self.norms[2].forward(tape, joined)
        made = self.feed_forward.forward(tape, before)
        behind = self.norms[3].forward(tape, made)
        total = tape.add(joined, behind)
        corrected = updates.correct(tape, predictions, total)
        first = own.forward(tape, self._first(tape, corrected, one))
        out = tape.attach(
            Value(corrected.elements, corrected.dtype, corrected.storage), (corrected, first), (), _to_a_part
        )
        del predictions, active, normed, learned, attention, gated, joined, before, made, behind, total, corrected
        return out

    def _first(self, tape: Tape, corrected: Value, one: Size) -> Value:
        """A copy of the first stream, scaled."""
        first = tape.slice(corrected, one, dense=True)
        first = tape.operate(one, first.dtype, (first,), (), _handed)
        if self.updates is not None and self.updates.output_scaled:
            first = tape.multiply(first, tape.parameter(self.updates.hidden))
        return first


def _in_proportion(tape: Tape, x: Value, target: Value) -> Value:
    """x · target / its own magnitude."""
    rows = tape.mode.queries
    magnitude = tape.mean(tape.power(x), rows)
    magnitude = tape.unary_output(tape.unary(magnitude))
    return tape.multiply(tape.multiply(x, target), magnitude)


@dataclass(frozen=True, slots=True)
class StreamsEmbedding(PerLayerEmbedding):
    """An embedding that is projected to further hidden states of the same magnitude (Gemma 3n)."""

    streams: int = 4

    def tensors(self) -> tuple[Tensor, ...]:
        """The tables, and a matrix for each further stream."""
        shape = (self.width, self.width)
        matrix = Tensor("altup_projections.weight", shape, "mlp_dense", "other", True, count=self.streams - 1)
        return (*PerLayerEmbedding.tensors(self), matrix)

    def forward(self, tape: Tape) -> Value:
        """All streams; the model's variables hold each of them, and the last projection."""
        x = PerLayerEmbedding.forward(self, tape)
        target = tape.power(tape.mean(tape.power(x), tape.mode.queries))
        streams = [x]
        projected = x
        for _ in range(1, self.streams):
            projected = tape.linear(x, self.width, self.width, module="altup_projections")
            streams.append(_in_proportion(tape, tape.cast(projected, x.dtype), target))
        tape.held += [*streams[1:], projected]
        return tape.concatenate(*streams)


@dataclass(frozen=True, slots=True)
class StreamsHead(Head):
    """The streams brought together again, by a matrix each and their mean, before the norm (Gemma 3n)."""

    streams: int = 4

    def tensors(self) -> tuple[Tensor, ...]:
        """The head's, and a matrix for each further stream."""
        shape = (self.width, self.width)
        matrix = Tensor("altup_unembed_projections.weight", shape, "other", "other", True, count=self.streams - 1)
        return (*Head.tensors(self), matrix)

    def final(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma3nTextModel.forward."""
        rows = tape.mode.queries
        one: Size = scaled(rows, self.width)
        target = tape.power(tape.mean(tape.power(tape.slice(x, one, dense=True)), rows))
        streams = [tape.slice(x, one, dense=True)]
        for _ in range(1, self.streams):
            part = tape.slice(x, one, dense=True)
            projected = tape.linear(part, self.width, self.width, module="altup_unembed_projections")
            streams.append(_in_proportion(tape, tape.cast(projected, x.dtype), target))
        x = tape.concatenate(*streams)
        del part, projected
        mean = tape.operate(one, x.dtype, (x,), (), None)
        assert self.norm is not None
        out = self.norm.forward(tape, mean)
        del streams, target
        return out
