"""Attention and decoder layers of GPT-J, GPT-NeoX and OPT."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, LONG, Tape, Value, scaled
from .attention import Attention, attend, divided, flash, remember, score_entries
from .blocks import Block
from .feed_forward import FeedForward, activate
from .fused import SlicedAttention


@dataclass(frozen=True, slots=True)
class ChunkedAttention(SlicedAttention):
    """One matrix whose heads hold q, k and v side by side, split by chunks. (transformers' GPTNeoXAttention)"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """The joined tensor lives until the layer is through."""
        width = scaled(tape.mode.queries, self.query_width)
        joined = tape.linear(x, self.hidden, 3 * self.query_width, self.bias, self.names.fused or "")
        joined = tape.turn(joined)
        q, k, v = tape.split(joined, width, width, width)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)


@dataclass(frozen=True, slots=True)
class GPTJAttention(Attention):
    """Scores from q and k in float32, and tables of positions looked up in every layer. (transformers' GPTJAttention)

    positions   rows of the table that each layer copies before it looks its positions up
    """

    positions: int = 0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of GPTJAttention.forward."""
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        k = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.key)
        v = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, self.names.value))
        turned = self.head_dim if self.rotary_dim is None else self.rotary_dim
        table = tape.new((self.positions * turned, 0, 0, 0, 0, 0), FLOAT)
        entries = scaled(tape.mode.query_positions, turned)
        chosen = tape.new(entries, LONG)
        tables = tape.cast(tape.new(entries, FLOAT), k.dtype)
        heads = divided(q.elements, self.head_dim)
        part, rest = scaled(heads, turned), scaled(heads, self.head_dim - turned)
        k_turned, k_passing = tape.slice(k, part, dense=True), tape.slice(k, rest, dense=True)
        q_turned, q_passing = tape.slice(q, part, dense=True), tape.slice(q, rest, dense=True)
        k_turned = self._turned(tape, k_turned, tables)
        q_turned = self._turned(tape, q_turned, tables)
        k = tape.turn(tape.concatenate(k_turned, k_passing))
        q = tape.turn(tape.concatenate(q_turned, q_passing))
        k, v = remember(tape, k, v, self)
        y = self._attended(tape, q, k, v)
        y = tape.copy(tape.turn(y, dense=not y.dense))
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del table, chosen, tables, k_turned, q_turned, k_passing, q_passing
        return tape.dropout(y, self.output_dropout)

    def _turned(self, tape: Tape, x: Value, tables: Value) -> Value:
        """x · cos + rotated x · sin, by tables repeated for this call."""
        sin, cos = tape.new(tables.elements, tables.dtype), tape.new(tables.elements, tables.dtype)
        straight = tape.multiply(x, cos)
        half = divided(x.elements, 2)
        first, second = tape.slice(x, half, dense=True), tape.slice(x, half, dense=True)
        crossed = tape.concatenate(tape.scale(second), first)
        return tape.add(straight, tape.multiply(crossed, sin))

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        if tape.mode.attention != "eager":
            return flash(tape, q, k, v, self)
        q, k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        weights = tape.matmul(q, k, score_entries(tape.mode, self))
        weights = tape.scale(weights)
        weights = tape.add(weights, tape.shared["mask"])
        weights = tape.softmax(weights)
        weights = tape.cast(weights, v.dtype)
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)
        return tape.matmul(weights, v, q.elements)


@dataclass(frozen=True, slots=True)
class NeoXBlock(Block):
    """Attention and feed-forward on a norm each, side by side or one after the other. (transformers' GPTNeoXLayer)"""

    parallel: bool = True
    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of GPTNeoXLayer.forward; a call holds its arguments until it returns."""
        assert self.mixer is not None and self.feed_forward is not None
        argument = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, argument)
        del argument
        attended = tape.dropout(attended, self.dropout)
        if not self.parallel:
            attended = tape.add(attended, x)
        argument = self.norms[1].forward(tape, x if self.parallel else attended)
        made = self.feed_forward.forward(tape, argument)
        del argument
        made = tape.dropout(made, self.dropout)
        made = tape.add(made, attended)
        return tape.add(made, x) if self.parallel else made


@dataclass(frozen=True, slots=True)
class OPTBlock(Block):
    """Norms before attention and feed-forward, or after their sums (350m). (transformers' OPTDecoderLayer)"""

    before: bool = True
    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of OPTDecoderLayer.forward."""
        assert self.mixer is not None and isinstance(self.feed_forward, FeedForward)
        plain = self.feed_forward
        residual = x
        if self.before:
            x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        x = tape.add(residual, x)
        if not self.before:
            x = self.norms[0].forward(tape, x)
        residual = x
        if self.before:
            x = self.norms[1].forward(tape, x)
        x = tape.linear(x, plain.hidden, plain.intermediate, plain.bias, plain.up)
        x = activate(tape, x, plain.activation)
        x = tape.linear(x, plain.intermediate, plain.hidden, plain.bias, plain.down)
        x = tape.dropout(x, self.dropout)
        x = tape.add(residual, x)
        return x if self.before else self.norms[1].forward(tape, x)


@dataclass(frozen=True, slots=True)
class OPTAttention(Attention):
    """Queries are scaled before the scores are made. (transformers' OPTAttention)"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of OPTAttention.forward."""
        wide = self.query_width
        q = tape.turn(tape.scale(tape.linear(x, self.hidden, wide, self.bias, self.names.query)))
        k = tape.turn(tape.linear(x, self.hidden, wide, self.bias, self.names.key))
        v = tape.turn(tape.linear(x, self.hidden, wide, self.bias, self.names.value))
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, wide, self.hidden, self.output_bias, self.names.output)
