"""Parts of earlier decoders that no other family shares: Persimmon, CodeGen, GPT-NeoX Japanese, XGLM, BioGPT, GPT,
CTRL."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, Node, Tape, Value, as_inputs, scaled
from ..tensors import Tensor
from .attention import Attention, attend, divided, remember, rotated, score_entries
from .blocks import Block
from .ends import Embedding
from .feed_forward import FeedForward, activate

# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class ThreefoldAttention(Attention):
    """Heads that hold q, k and v side by side in one matrix, norms over each, part of each rotated. [Persimmon]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' PersimmonAttention.forward."""
        wide = scaled(tape.mode.queries, self.query_width)
        joined = tape.linear(x, self.hidden, 3 * self.query_width, self.bias, self.names.fused or "")
        q, k, v = tape.slice(joined, wide), tape.slice(joined, wide), tape.slice(joined, wide)
        if self.query_norm is not None and self.key_norm is not None:
            q = self.query_norm.forward(tape, q, self.heads)
            k = self.key_norm.forward(tape, k, self.heads)
        q, v, k = tape.turn(q), tape.turn(v), tape.turn(k)
        cos, sin = (tape.shared[name] for name in self.tables)
        heads = divided(wide, self.head_dim)
        part = self.head_dim if self.rotary_dim is None else self.rotary_dim
        turning, passing = scaled(heads, part), scaled(heads, self.head_dim - part)
        q_part, q_rest = tape.slice(q, turning), tape.slice(q, passing)
        k_part, k_rest = tape.slice(k, turning), tape.slice(k, passing)
        q_turned, k_turned = rotated(tape, q_part, cos, sin), rotated(tape, k_part, cos, sin)
        q_part, k_part = q_turned, k_turned
        del q_turned, k_turned
        q = tape.concatenate(q_part, q_rest)
        k = tape.concatenate(k_part, k_rest)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del joined, q_part, q_rest, k_part, k_rest
        return y


@dataclass(frozen=True, slots=True)
class CodeGenAttention(Attention):
    """q, v and k from one matrix in four parts, tables and scores in float32; Python alone. [CodeGen]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' CodeGenAttention.forward."""
        wide = scaled(tape.mode.queries, self.query_width)
        joined = tape.linear(x, self.hidden, 3 * self.query_width, False, self.names.fused or "")
        q, v, k = tape.split(joined, wide, wide, wide)
        q, k, v = tape.copy(q), tape.copy(k), tape.copy(v)
        v = tape.turn(v)
        turned = self.head_dim if self.rotary_dim is None else self.rotary_dim
        tables = tape.new(scaled(tape.mode.query_positions, turned), FLOAT)
        heads = divided(wide, self.head_dim)
        part, rest = scaled(heads, turned), scaled(heads, self.head_dim - turned)
        k_turned, k_passing = tape.slice(k, part, dense=True), tape.slice(k, rest, dense=True)
        q_turned, q_passing = tape.slice(q, part, dense=True), tape.slice(q, rest, dense=True)
        k_turned = self._turned(tape, k_turned, tables)
        q_turned = self._turned(tape, q_turned, tables)
        k = tape.turn(tape.concatenate(k_turned, k_passing))
        q = tape.turn(tape.concatenate(q_turned, q_passing))
        if not tape.mode.training:
            k, v = remember(tape, tape.cast(k, x.dtype), v, self)
        y = self._attended(tape, q, k, v)
        y = tape.copy(tape.turn(y, dense=not y.dense))
        y = tape.linear(y, self.query_width, self.hidden, False, self.names.output)
        y = tape.dropout(y, self.output_dropout)
        del joined, tables, k_turned, q_turned, k_passing, q_passing, q, k, v
        return y

    def _turned(self, tape: Tape, x: Value, tables: Value) -> Value:
        """x · cos + rotated x · sin, by tables repeated for this call."""
        sin, cos = tape.new(tables.elements, FLOAT), tape.new(tables.elements, FLOAT)
        straight = tape.multiply(x, cos)
        half = divided(x.elements, 2)
        first, second = tape.slice(x, half, dense=True), tape.slice(x, half, dense=True)
        crossed = tape.concatenate(tape.scale(second), first)
        return tape.add(straight, tape.multiply(crossed, sin))

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        q, k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        weights = tape.matmul(q, k, score_entries(tape.mode, self))
        mask = tape.shared.get("mask")
        if mask is not None:
            weights = tape.add(weights, mask)
        weights = tape.scale(weights)
        weights = tape.softmax(weights)
        weights = tape.cast(weights, v.dtype)
        weights = tape.dropout(weights, self.dropout)
        tape.lingering.append(weights)
        return tape.matmul(weights, v, q.elements)


@dataclass(frozen=True, slots=True)
class PreparedAttention(Attention):
    """Scores added by one product to a tensor of zeros that stays until they are used; Python alone.
    [GPT-NeoX Japanese]

    own_bias   whether the output has a bias that its block adds (the last layer)
    """

    own_bias: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """And that bias."""
        made = super(PreparedAttention, self).tensors()
        if not self.own_bias:
            return made
        return (*made, Tensor(f"{self.prefix}.dense_bias", (self.hidden,), "attention", "bias"))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GPTNeoXJapaneseAttention.forward."""
        wide = scaled(tape.mode.queries, self.query_width)
        joined = tape.linear(x, self.hidden, 3 * self.query_width, False, self.names.fused or "")
        q, k, v = tape.slice(joined, wide), tape.slice(joined, wide), tape.slice(joined, wide)
        cos, sin = (tape.shared[name] for name in self.tables)
        heads = divided(wide, self.head_dim)
        part = self.head_dim if self.rotary_dim is None else self.rotary_dim
        turning, passing = scaled(heads, part), scaled(heads, self.head_dim - part)
        q_part, q_rest = tape.slice(q, turning), tape.slice(q, passing)
        k_part, k_rest = tape.slice(k, turning), tape.slice(k, passing)
        q, k = rotated(tape, q_part, cos, sin), rotated(tape, k_part, cos, sin)
        q = tape.concatenate(q, q_rest)
        k = tape.concatenate(k, k_rest)
        k, v = remember(tape, k, v, self)
        y = self._attended(tape, q, k, v)
        y = tape.copy(tape.turn(y))
        return tape.linear(y, self.query_width, self.hidden, False, self.names.output)

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        entries = score_entries(tape.mode, self)
        zeros = tape.new(entries, q.dtype)
        if tape.mode.autocast:
            low = tape.cast(zeros, HALF)
            scores = tape.matmul(q, k, entries)
            del low
        else:
            scores = tape.matmul(q, k, entries)
        mask = tape.shared.get("mask")
        if mask is not None:
            scores = tape.add(scores, mask)
        weights = tape.softmax(scores)
        weights = tape.dropout(weights, self.dropout)
        weights = tape.cast(weights, v.dtype)
        tape.lingering.append(weights)
        y = tape.matmul(weights, v, q.elements)
        del zeros, scores
        return y


@dataclass(frozen=True, slots=True)
class FlooredAttention(Attention):
    """Scores that are kept above the least number of their dtype; heads and batch are joined by copies; Python alone.
    [XGLM]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' XGLMAttention.forward."""
        wide = self.query_width
        q = tape.scale(tape.linear(x, self.hidden, wide, self.bias, self.names.query))
        k = tape.linear(x, self.hidden, wide, self.bias, self.names.key)
        v = tape.linear(x, self.hidden, wide, self.bias, self.names.value)
        k, v = tape.turn(k), tape.turn(v)
        k, v = remember(tape, k, v, self)
        q = tape.turn(q)
        if not tape.mode.one:
            q = tape.copy(q)
            k = tape.copy(k)
            v = tape.copy(v)
        weights = tape.matmul(q, k, score_entries(tape.mode, self))
        mask = tape.shared.get("mask")
        if mask is not None:
            weights = tape.add(weights, mask)
            weights = tape.operate(weights.elements, weights.dtype, (weights,), (weights,), _larger)
        weights = tape.softmax(weights)
        tape.lingering.append(weights)
        chances = tape.dropout(weights, self.dropout)
        y = tape.matmul(chances, v, q.elements)
        y = tape.copy(tape.turn(y))
        y = tape.linear(y, wide, self.hidden, self.output_bias, self.names.output)
        del chances, weights, q, k, v
        return y


def _larger(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The gradient where the first was the larger: halved where both are equal, 0 where it was not."""
    link = node.inputs[0]
    assert link is not None
    equal = tape.new(link[2], BOOL)
    halved = tape.new(link[2], link[3])
    chosen = tape.new(link[2], link[3])
    less = tape.new(link[2], BOOL)
    del equal, halved, less
    return [chosen]


@dataclass(frozen=True, slots=True)
class TriangularAttention(Attention):
    """Scores multiplied by a table of ones below the diagonal, and a large number taken off above; no cache; Python
    alone. [GPT]"""

    causal: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of Attention.forward of transformers' OpenAI GPT."""
        wide = scaled(tape.mode.queries, self.query_width)
        x = tape.linear(x, self.hidden, 3 * self.query_width, self.bias, self.names.fused or "")
        q, k, v = tape.split(x, wide, wide, wide)
        y = self._attended(tape, q, k, v)
        y = tape.copy(tape.turn(y))
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        return tape.dropout(y, self.output_dropout)

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        weights = tape.matmul(q, k, score_entries(tape.mode, self))
        weights = tape.scale(weights)
        table = tape.shared["triangle"]
        below = tape.multiply(weights, table)
        above = tape.new(tape.mode.mask, tape.mode.weights)
        above = tape.new(tape.mode.mask, tape.mode.weights)
        weights = tape.add(below, above)
        del below, above
        weights = tape.softmax(weights)
        weights = tape.dropout(weights, self.dropout)
        return tape.matmul(weights, v, q.elements)


# ---------------------------------------------------------------------- blocks


@dataclass(frozen=True, slots=True)
class LastDropBlock(Block):
    """x + mixer(norm(x)), then x + dropout(feed_forward(norm(x))): Persimmon."""

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' PersimmonDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[1].forward(tape, x)
        x = self.feed_forward.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        return tape.add(x, residual)


@dataclass(frozen=True, slots=True)
class NamedNormBlock(Block):
    """dropout(mixer(norm(x))) + x, then the same of the feed-forward layer; the first norm's result keeps its name.
    [GPT-NeoX Japanese]"""

    dropout: float = 0.0
    own_bias: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GPTNeoXJapaneseLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        normed = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, normed)
        total = tape.add(attended, tape.parameter(self.mixer.hidden)) if self.own_bias else attended
        attended = tape.add(x, tape.dropout(total, self.dropout))
        del total
        argument = self.norms[1].forward(tape, attended)
        made = self.feed_forward.forward(tape, argument)
        del argument
        result = tape.add(attended, tape.dropout(made, self.dropout))
        del normed, made
        return result


@dataclass(frozen=True, slots=True)
class InnerDropBlock(Block):
    """OPT's layer with dropout behind the activation too. [XGLM, BioGPT]

    inner, dropout   rates behind the activation, and on what each part gives
    """

    inner: float = 0.0
    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' XGLMDecoderLayer.forward and BioGptDecoderLayer.forward."""
        assert self.mixer is not None and isinstance(self.feed_forward, FeedForward)
        plain = self.feed_forward
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = tape.dropout(x, self.dropout)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[1].forward(tape, x)
        x = tape.linear(x, plain.hidden, plain.intermediate, plain.bias, plain.up)
        x = activate(tape, x, plain.activation)
        x = tape.dropout(x, self.inner)
        x = tape.linear(x, plain.intermediate, plain.hidden, plain.bias, plain.down)
        x = tape.dropout(x, self.dropout)
        return tape.add(residual, x)


@dataclass(frozen=True, slots=True)
class AfterNormBlock(Block):
    """norm(x + mixer(x)), then norm(n + feed_forward(n)). [GPT]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of Block.forward of transformers' OpenAI GPT."""
        assert self.mixer is not None and self.feed_forward is not None
        attended = self.mixer.forward(tape, x)
        argument = tape.add(x, attended)
        normed = self.norms[0].forward(tape, argument)
        del argument
        made = self.feed_forward.forward(tape, normed)
        argument = tape.add(normed, made)
        result = self.norms[1].forward(tape, argument)
        del argument, attended, normed, made
        return result


@dataclass(frozen=True, slots=True)
class KeptNormBlock(Block):
    """x + dropout(mixer(norm(x))), then the same of the feed-forward layer; what the norm and the mixer gave keep their
    names. [CTRL]"""

    dropout: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of EncoderLayer.forward of transformers' CTRL."""
        assert self.mixer is not None and self.feed_forward is not None
        normed = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, normed)
        attended = tape.dropout(attended, self.dropout)
        first = tape.add(x, attended)
        second = self.norms[1].forward(tape, first)
        made = self.feed_forward.forward(tape, second)
        made = tape.dropout(made, self.dropout)
        second = tape.add(first, made)
        del normed, attended, first, made
        return second


# ---------------------------------------------------------------------- embeddings


@dataclass(frozen=True, slots=True)
class WaveEmbedding(Embedding):
    """Rows of the table, multiplied, and sines and cosines of their positions, which are no parameters.

    in_place   whether the product overwrites the rows and a 0 is added at the end (CTRL), else as in XGLM
    """

    in_place: bool = False

    def forward(self, tape: Tape) -> Value:
        """With the local variables of transformers' XGLMModel.forward and CTRLModel.forward."""
        rows = tape.mode.queries
        x = self._adapted(tape, tape.embed(rows, self.vocabulary, self.width))
        if self.in_place:
            if tape.asked:
                tape.leaves.append(x.storage)
            x = tape._record(Value(x.elements, x.dtype, x.storage), (x,), [], as_inputs)
        elif self.scaled:
            x = tape.scale(x)
        if tape.asked:
            x.node = Node((), [x.storage], lambda tape, grads, node: [])
        tape.held.append(x)
        waves = tape.new(scaled(tape.mode.query_positions, self.width), x.dtype)
        if self.in_place:
            tape.held.append(waves)
        x = tape.add(x, waves)
        del waves
        if self.in_place:
            x = tape.shift(x)
        return tape.dropout(x, self.dropout)
