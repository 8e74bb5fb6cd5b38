"""Layers of multimodal families: told a time (Voxtral Realtime), with norms before last matrices (KOSMOS-2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import ONE, Tape, Value, scaled
from ..tensors import Tensor
from .blocks import Block
from .feed_forward import FeedForward, activate
from .later import NormedOutput
from .norms import Norm
from .older import WaveEmbedding

NARROW = 32  # between the two matrices that a time passes, in VoxtralRealtimeTextAdaRmsNorm of transformers 5.23.0


@dataclass(frozen=True, slots=True)
class TimedBlock(Block):
    """Llama's layer, whose second norm is followed by a product with 1 + what two matrices make of a time.
    [Voxtral Realtime]

    hidden   width of the hidden states
    """

    hidden: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """As any block, and the two matrices."""
        inside = (("linear1", (NARROW, self.hidden)), ("linear2", (self.hidden, NARROW)))
        component = self.norms[-1].tensors()[0].component
        made = (Tensor(f"ada_rms_norm.{name}.weight", shape, component, "other", True) for name, shape in inside)
        return (*Block.tensors(self), *made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' VoxtralRealtimeTextDecoderLayer.forward: the time is one row for
        all sequences."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[1].forward(tape, x)
        time = tape.new(scaled(ONE, self.hidden), tape.mode.weights)
        time = tape.unary(tape.linear(time, self.hidden, NARROW, False, "linear1", rows=ONE))
        time = tape.shift(tape.linear(time, NARROW, self.hidden, False, "linear2", rows=ONE))
        x = tape.multiply(x, time)
        x = self.feed_forward.forward(tape, x)
        return tape.add(residual, x)


@dataclass(frozen=True, slots=True)
class TwiceDroppedEmbedding(WaveEmbedding):
    """Rows and sines of positions, with dropout behind them two times over. [KOSMOS-2]"""

    def forward(self, tape: Tape) -> Value:
        """As XGLM's, and the second dropout of transformers' Kosmos2TextTransformer.forward."""
        return tape.dropout(WaveEmbedding.forward(self, tape), self.dropout)


@dataclass(frozen=True, slots=True)
class DroppedOutput(NormedOutput):
    """Attention with a norm before its output matrix and dropout behind that. [KOSMOS-2]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """As BitNet's, and the dropout of transformers' Kosmos2TextBlock.forward."""
        return tape.dropout(NormedOutput.forward(self, tape, x), self.output_dropout)


@dataclass(frozen=True, slots=True)
class InnerNormFeedForward(FeedForward):
    """A feed-forward layer without a gate, with a norm before its last matrix. [KOSMOS-2]

    inner       that norm
    activated   rate of dropout behind the activation
    """

    inner: Norm | None = None
    activated: float = 0.0

    def tensors(self) -> tuple[Tensor, ...]:
        """As the plain one, and the norm."""
        assert self.inner is not None
        inside = (replace(each, name=f"{self.prefix}.{each.name}") for each in self.inner.tensors())
        return (*FeedForward.tensors(self), *inside)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Kosmos2TextFFN.forward."""
        assert self.inner is not None
        x = activate(tape, tape.linear(x, self.hidden, self.intermediate, self.bias, self.up), self.activation)
        x = tape.dropout(x, self.activated)
        x = self.inner.forward(tape, x)
        x = tape.linear(x, self.intermediate, self.hidden, self.bias, self.down)
        return tape.dropout(x, self.dropout)
