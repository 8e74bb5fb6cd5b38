"""Layers of the first large models: GPT-2's kin with one key-value head, and attention biased by distance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import FLOAT, HALF, Node, Size, Tape, Value, scaled
from ..tensors import Tensor
from .attention import Attention, attend, remember, score_entries
from .blocks import Block
from .feed_forward import FeedForward
from .norms import LayerNorm

# ---------------------------------------------------------------------- norms


@dataclass(frozen=True, slots=True)
class EmbeddingNorm(LayerNorm):
    """The layer norm after BLOOM's table, counted with it."""

    def tensors(self) -> tuple[Tensor, ...]:
        """A weight and a bias."""
        return tuple(replace(tensor, component="embedding") for tensor in LayerNorm.tensors(self))


# ---------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True)
class NamedBlock(Block):
    """mixer(norm(x)) + x, then x + feed_forward(norm(x)), where what the mixer gave keeps its name until the layer is
    through (GPT-2, GPT-BigCode, BLOOM, MPT).

    chained   whether the norm's result keeps its name too
    """

    chained: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GPTBigCodeBlock.forward, or of BloomBlock.forward if `chained`."""
        assert self.mixer is not None and self.feed_forward is not None
        if self.chained:
            normed = self.norms[0].forward(tape, x)
            mixed = self.mixer.forward(tape, normed)
            mixed = tape.add(mixed, x)
            normed = self.norms[1].forward(tape, mixed)
            y = self.feed_forward.forward(tape, normed)
            return tape.add(mixed, y)
        residual = x
        x = self.norms[0].forward(tape, x)
        mixed = self.mixer.forward(tape, x)
        x = tape.add(mixed, residual)
        residual = x
        x = self.norms[1].forward(tape, x)
        y = self.feed_forward.forward(tape, x)
        return tape.add(residual, y)


# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class JoinedAttention(Attention):
    """One matrix for q, k and v, split by views; learned or no positions (GPT-BigCode)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GPTBigCodeAttention.forward."""
        q, k, v = self.project(tape, x)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        return tape.dropout(y, self.output_dropout)


@dataclass(frozen=True, slots=True)
class BloomAttention(Attention):
    """Scores start from a bias by distance, in one product with q and k (BLOOM)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BloomAttention.forward."""
        joined = tape.linear(x, self.hidden, 3 * self.query_width, self.bias, self.names.fused or "")
        wide = scaled(tape.mode.queries, self.query_width)
        q, k, v = tape.slice(joined, wide), tape.slice(joined, wide), tape.slice(joined, wide)
        k, v = remember(tape, k, v, self)
        if not tape.mode.one:
            q, k, v = tape.copy(q), tape.copy(k), tape.copy(v)
        scores = self._biased(tape, q, k)
        weights = scores
        mask = tape.shared.get("mask")
        if mask is not None:
            weights = tape.add(weights, mask)
        chances = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
        chances = tape.dropout(chances, self.dropout)
        tape.lingering.append(chances)
        y = tape.matmul(chances, v, q.elements)
        y = tape.copy(tape.turn(y))
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        return tape.dropout(y, self.output_dropout)

    def _biased(self, tape: Tape, q: Value, k: Value) -> Value:
        bias = tape.shared["alibi_once"]
        if tape.mode.autocast:
            bias, q, k = tape.cast(bias, HALF), tape.cast(q, HALF), tape.cast(k, HALF)
        saved = [each for each, other in ((k, q), (q, k)) if other.node is not None]
        return tape.operate(score_entries(tape.mode, self), q.dtype, (q, k), saved, _inputs)


def _inputs(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A gradient for each factor of a product."""
    return [None if link is None else tape.new(link[2], link[3]) for link in node.inputs]


@dataclass(frozen=True, slots=True)
class MPTAttention(Attention):
    """A float32 bias by distance is added to the scores, a boolean mask fills them (MPT).

    clipped   whether q, k and v are clamped
    """

    clipped: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MptAttention.forward."""
        joined = tape.linear(x, self.hidden, 3 * self.query_width, False, self.names.fused or "")
        if self.clipped:
            joined = tape.unary(joined)
        wide = scaled(tape.mode.queries, self.query_width)
        q, k, v = tape.split(joined, wide, wide, wide)
        k, v = remember(tape, k, v, self)
        scores = tape.scale(tape.matmul(q, k, score_entries(tape.mode, self)))
        scores = tape.add(scores, tape.shared["alibi_once"])
        mask = tape.shared.get("filling")
        if mask is not None:
            scores = tape.operate(scores.elements, scores.dtype, (scores,), (mask,))
        weights = tape.cast(tape.softmax(tape.cast(scores, FLOAT)), v.dtype)
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)
        y = tape.copy(tape.turn(tape.matmul(weights, v, q.elements)))
        return tape.linear(y, self.query_width, self.hidden, False, self.names.output)


# ---------------------------------------------------------------------- feed-forward


@dataclass(frozen=True, slots=True)
class BloomFeedForward(FeedForward):
    """A GELU by tanh in Python, of which only the input is kept (BLOOM)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With BloomGelu's own backward pass."""
        x = _python_gelu(tape, tape.linear(x, self.hidden, self.intermediate, self.bias, self.up))
        x = tape.linear(x, self.intermediate, self.hidden, self.bias, self.down)
        return tape.dropout(x, self.dropout)


def _python_gelu(tape: Tape, x: Value) -> Value:
    """x · ½ · (1 + tanh(√(2/π) · x · (1 + 0.044715 · x · x)))"""
    recording, tape.recording = tape.recording, False
    half = tape.scale(x)
    first = tape.scale(x)
    second = tape.scale(x)
    second = tape.multiply(second, x)
    second = tape.shift(second)
    curve = tape.multiply(first, second)
    del first, second
    curve = tape.unary_output(curve)
    curve = tape.shift(curve)
    out = tape.multiply(half, curve)
    tape.recording = recording
    del half, curve
    return tape.attach(out, (x,), (x,), _gelu_gradient)


def _gelu_gradient(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """bloom_gelu_back, step by step."""
    grad = grads[0]
    assert grad is not None
    size: Size = grad.elements

    def new() -> Value:
        return tape.new(size, grad.dtype)

    curve = new()
    half, rest = new(), new()
    square = new()
    square = new()
    square = new()
    slope = new()
    del square, rest
    slope = new()
    del half
    last = new()
    last = new()
    slope = new()
    del curve, last
    result = new()
    del slope
    return [result]
