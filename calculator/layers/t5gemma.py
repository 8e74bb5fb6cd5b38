"""T5Gemma's layers: Gemma 2's with attention to an encoder between."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import Tape, Value
from ..tensors import Tensor
from .attention import attend, remember
from .blocks import Block
from .crossed import CrossAttention, CrossBlock, for_both
from .ends import Embedding
from .norms import Norm


@dataclass(frozen=True, slots=True)
class GemmaCrossAttention(CrossAttention):
    """Grouped attention with rotary positions and capped scores, or without positions to an encoder.

    source_width   width of the encoder's states
    """

    source_width: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """Four matrices, of which k and v read the encoder's states where it attends to them."""
        made = CrossAttention.tensors(self)
        if not self.across:
            return made
        wide = {f"{self.prefix}.{name}.weight" for name in (self.names.key, self.names.value)}
        return tuple(_reading(each, self.source_width) if each.name in wide else each for each in made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5GemmaSelfAttention.forward and T5GemmaCrossAttention.forward."""
        if self.across:
            q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query))
            k, v = self.keys_and_values(tape, x)
        else:
            q, k, v = self.project(tape, x)
            q, k = self.rotate_both(tape, q, k)
            k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _source(self) -> int:
        return self.source_width


def _reading(tensor: Tensor, width: int) -> Tensor:
    return Tensor(tensor.name, (tensor.shape[0], width), tensor.component, tensor.role, True, tensor.cut, tensor.pieces)


@dataclass(frozen=True, slots=True)
class CrossSandwichBlock(CrossBlock):
    """A norm before and after attention, attention to the encoder, and the feed-forward layer."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5GemmaDecoderLayer.forward."""
        if self.encoder and tape.mode.step == "decode":
            return x
        parts = [self.mixer, *([self.across] if self.across is not None else []), self.feed_forward]
        for index, part in enumerate(parts):
            assert part is not None
            residual = x
            x = self.norms[2 * index].forward(tape, x)
            x = part.forward(tape, x)
            x = self.norms[2 * index + 1].forward(tape, x)
            x = tape.add(residual, tape.dropout(x, self.dropout))
        return x


@dataclass(frozen=True, slots=True)
class GemmaStart(Embedding):
    """Rows times a constant, then dropout."""


NO_ROWS = Embedding(0, 0)


@dataclass(frozen=True, slots=True)
class WholeEncoder(Block):
    """A whole encoder beside the decoder's hidden states, which go past it.

    layers   its layers
    start    its embedding
    dropout  rate after its last norm
    """

    layers: tuple[Block, ...] = ()
    start: Embedding = NO_ROWS
    dropout: float = 0.0

    def tensors(self) -> tuple[Tensor, ...]:
        """The table, all layers, the last norm."""
        inner = [tensor for layer in self.layers for tensor in layer.tensors()]
        return (*self.start.tensors(), *inner, *Block.tensors(self))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' T5GemmaEncoder.forward."""
        if tape.mode.step == "decode":
            return x
        states = self.start.forward(tape)
        tape.held.clear()
        for layer in self.layers:
            states = layer.forward(tape, states)
            tape.lingering.clear()  # its local variables
        norm: Norm = self.norms[0]
        states = tape.dropout(norm.forward(tape, states), self.dropout)
        return tape.attach(tape.view(x), (x, states), (), for_both)
