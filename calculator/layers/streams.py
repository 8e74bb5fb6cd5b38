"""DeepSeek-V4: several residual streams mixed by learned weights, and attention over a window and compressed entries.
[arXiv:2512.24880 for the streams]

transformers runs all of it in Python: the weights of the streams in float32, twenty steps of normalizing rows and
columns, each of which is kept; scores over every compressed entry, chosen or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, LONG, WIDTH, Mode, Size, Tape, Value, as_inputs, plus, scaled
from ..tensors import Cut, Tensor
from .attention import joined_to_cache, keep, kept_rows
from .blocks import Block
from .clamped import half
from .ends import Embedding, Head
from .experts import Experts, Router, Routing, StackTargets, picked, top
from .feed_forward import GatedFeedForward, activate
from .latent import subtract
from .norms import LateRMSNorm
from .sinks import largest, sunk


def portion(size: Size, numerator: int, denominator: int) -> Size:
    """A share of a size, every term rounded up."""
    a, b, c, d, e, f = (-(-term * numerator // denominator) for term in size)
    return (a, b, c, d, e, f)


# ---------------------------------------------------------------------- streams


@dataclass(frozen=True, slots=True)
class StreamEmbedding(Embedding):
    """The rows of the table once for each stream. `projected` is the width of all streams."""

    def tensors(self) -> tuple[Tensor, ...]:
        """The table alone."""
        rows = self.vocabulary
        return (Tensor(f"{self.name}.weight", (rows, self.width), "embedding", "embedding", False, Cut.TENSOR, rows),)

    def forward(self, tape: Tape) -> Value:
        """A copy for each stream; the rows stay in a variable of the model's."""
        rows = tape.mode.queries
        x = tape.embed(rows, self.vocabulary, self.width)
        tape.held.append(x)
        return tape.operate(scaled(rows, self.projected), x.dtype, (x,), (), as_inputs)


@dataclass(frozen=True, slots=True)
class StreamHead(Head):
    """The streams added up by learned weights, then norm and matrix."""

    streams: int = 4

    def tensors(self) -> tuple[Tensor, ...]:
        """And what adds the streams up."""
        return (*super(StreamHead, self).tensors(), *self.streams_tensors())

    def streams_tensors(self) -> tuple[Tensor, ...]:
        """A matrix of one row a stream, a bias and a factor."""
        wide = self.streams * self.width
        return (
            Tensor("hc_head.hc_fn", (self.streams, wide), "other", "other"),
            Tensor("hc_head.hc_base", (self.streams,), "other", "other"),
            Tensor("hc_head.hc_scale", (1,), "other", "other"),
        )

    def final(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV4HyperHead.forward."""
        rows, wide = tape.mode.queries, self.streams * self.width
        weights = tape.product(
            unit(tape, tape.cast(x, FLOAT), wide), fine(tape, self.streams * wide), rows, self.streams
        )
        weights = tape.shift(tape.unary_output(tape.scale(weights)))
        product = tape.multiply(x, weights)
        y = tape.operate(scaled(rows, self.width), product.dtype, (product,), (), as_inputs)
        del product, weights
        y = tape.cast(y, x.dtype)
        return self.norm.forward(tape, y) if self.norm is not None else y


def unit(tape: Tape, x: Value, width: int) -> Value:
    """x over its root mean square, without weights; the square is of a float32 copy."""
    per_row = portion(x.elements, 1, width)
    figure = tape.shift(tape.mean(tape.power(tape.cast(x, FLOAT)), per_row))
    return tape.multiply(x, tape.cast(tape.unary_output(figure), x.dtype))


def fine(tape: Tape, elements: int) -> Value:
    """A parameter in float32."""
    return tape.cast(tape.parameter(elements), FLOAT)


@dataclass(frozen=True, slots=True)
class Streams:
    """What decides how streams enter and leave one part of a layer.

    steps   of normalizing rows and columns of the mixing matrix
    """

    hidden: int
    count: int
    steps: int
    name: str
    component: str

    def tensors(self) -> tuple[Tensor, ...]:
        """One matrix, its bias, three factors."""
        figures = (2 + self.count) * self.count
        return (
            Tensor(f"{self.name}.fn", (figures, self.count * self.hidden), self.component, "other"),
            Tensor(f"{self.name}.base", (figures,), self.component, "other"),
            Tensor(f"{self.name}.scale", (3,), self.component, "other"),
        )

    def enter(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Weights to leave by, the mixing matrix, and the streams added up."""
        rows, n = tape.mode.queries, self.count
        figures = (2 + n) * n
        flat = unit(tape, tape.cast(x, FLOAT), n * self.hidden)
        joined = tape.product(flat, fine(tape, figures * n * self.hidden), rows, figures)
        del flat
        parts = tape.split(joined, scaled(rows, n), scaled(rows, n), scaled(rows, n * n), dense=True)
        pre, post, mix = (tape.shift(tape.multiply(part, fine(tape, 1))) for part in parts)
        del parts
        pre = tape.shift(tape.unary_output(pre))
        post = tape.scale(tape.unary_output(post))
        mix = tape.shift(tape.softmax(mix))
        for _ in range(2 * self.steps - 1):
            total = tape.shift(tape.operate(scaled(rows, n), FLOAT, (mix,), (), as_inputs))
            mix = tape.operate(mix.elements, FLOAT, (mix, total), (mix, total), as_inputs)
        product = tape.multiply(tape.cast(x, FLOAT) if x.dtype == FLOAT else widened(tape, x), pre)
        y = tape.operate(scaled(rows, self.hidden), product.dtype, (product,), (), as_inputs)
        y = tape.cast(y, x.dtype)
        del product, joined, pre
        return post, mix, y

    def leave(self, tape: Tape, x: Value, y: Value, post: Value, mix: Value) -> Value:
        """The part's output into every stream, and the old streams mixed."""
        rows, n = tape.mode.queries, self.count
        post = tape.cast(post, x.dtype)
        wide = tape.operate(x.elements, x.dtype, (post, y), _kept(post, y), as_inputs)
        mixed = tape.cast(mix, x.dtype)
        if tape.mode.autocast:
            mixed, x = tape.cast(mixed, HALF), tape.cast(x, HALF)
        turned = tape.operate(x.elements, x.dtype, (mixed, x), _kept(mixed, x), as_inputs)
        del post, mixed, rows, n
        return tape.add(wide, turned)


def widened(tape: Tape, x: Value) -> Value:
    """A 16-bit tensor as a factor of a float32 product: no copy of it is made."""
    out = Value(x.elements, FLOAT, x.storage)
    return tape.attach(out, (x,), (), as_inputs)


def _kept(a: Value, b: Value) -> tuple[Value, ...]:
    return (*((b,) if a.node is not None else ()), *((a,) if b.node is not None else ()))


@dataclass(frozen=True, slots=True)
class StreamBlock(Block):
    """A layer whose residual is a set of streams.

    around   what decides how the streams enter and leave attention and feed-forward layer
    """

    around: tuple[Streams, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """And the streams' matrices."""
        made = super(StreamBlock, self).tensors()
        return (*made, *(tensor for each in self.around for tensor in each.tensors()))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV4DecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        post, mix, y = self.around[0].enter(tape, x)
        attended = self.mixer.forward(tape, self.norms[0].forward(tape, y))
        x = self.around[0].leave(tape, x, attended, post, mix)
        post, mix, y = self.around[1].enter(tape, x)
        fed = self.feed_forward.forward(tape, self.norms[1].forward(tape, y))
        result = self.around[1].leave(tape, x, fed, post, mix)
        del post, mix, y, attended, fed
        return result


# ---------------------------------------------------------------------- feed-forward


@dataclass(frozen=True, slots=True)
class FirstClampedExperts(Experts):
    """Experts whose gate and up are clamped, then gated as usual."""

    def gate(self, tape: Tape, joined: Value) -> Value:
        """act(clamp(gate)) · clamp(up) of the two halves."""
        gate, up = tape.split(joined, half(joined.elements), half(joined.elements), dense=True)
        gate = tape.unary(gate)
        up = tape.unary(up)
        return tape.multiply(activate(tape, gate, self.activation), up)


@dataclass(frozen=True, slots=True)
class FirstClampedFeedForward(GatedFeedForward):
    """A feed-forward layer that clamps first."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV4MLP.forward."""
        gate = tape.unary(tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.gate)))
        up = tape.unary(tape.linear(x, self.hidden, self.intermediate, self.bias, self._module(self.up)))
        product = tape.multiply(activate(tape, gate, self.activation), up)
        result = tape.linear(product, self.intermediate, self.hidden, self.bias, self._module(self.down))
        del gate, up
        return result


@dataclass(frozen=True, slots=True)
class RootRouter(Router):
    """The root of softplus as score, in the dtype of the logits.

    looked_up   whether the experts of a token are read from a table by its number instead of being chosen
    """

    looked_up: bool = False

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the logits, the scores, the places, the weights and their sum."""
        rows = tape.mode.queries
        logits = self._logits(tape, x, targets)
        scores = tape.unary_output(tape.unary(logits))
        if self.looked_up:
            places = tape.new(self._slots(tape), LONG)
        else:
            values, places = top(tape, tape.new(scores.elements, FLOAT), self._slots(tape))
            del values
        weights = picked(tape, scores, places)
        total = tape.shift(tape.operate(rows, weights.dtype, (weights,), (), as_inputs))
        weights = tape.operate(weights.elements, weights.dtype, (weights, total), (weights, total), as_inputs)
        weights = tape.scale(weights)
        del scores, total
        return logits, weights, places


# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """One key that is also the value for all heads: those of a window, and one for every `ratio` tokens behind it.

    query_rank     width of the low-rank query
    head_dim, rotary   dimensions of a head, and those that are rotated
    window         tokens a query looks back
    ratio          tokens of a compressed entry, 0 where there are none
    indexed        whether an indexer picks entries: then entries overlap, and it caches smaller ones of its own
    index_heads, index_dim, most   the indexer's heads, their width, and the entries it picks
    groups, output_rank   the output in two steps: groups of heads each to a rank, then all to the hidden states
    """

    hidden: int
    heads: int
    head_dim: int
    rotary: int
    query_rank: int
    window: int
    ratio: int = 0
    indexed: bool = False
    index_heads: int = 64
    index_dim: int = 128
    most: int = 512
    groups: int = 8
    output_rank: int = 1024
    prefix: str = "self_attn"
    table: str = "main"

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head_dim

    def tensors(self) -> tuple[Tensor, ...]:
        """Queries in two steps, the one key, the output in two steps, sinks, and the compressors."""
        hidden, rank, width = self.hidden, self.query_rank, self.head_dim
        narrow = self.groups * self.output_rank
        made = [
            self._matrix("q_a_proj", rank, hidden, "attn_q"),
            self._norm("q_a_norm", rank),
            self._matrix("q_b_proj", self.query_width, rank, "attn_q", self.heads),
            self._matrix("kv_proj", width, hidden, "attn_k"),
            self._norm("kv_norm", width),
            self._matrix("o_a_proj", narrow, self.query_width // self.groups, "attn_output", self.groups),
            self._matrix("o_b_proj", hidden, narrow, "attn_output", self.groups),
            Tensor(f"{self.prefix}.sinks", (self.heads,), "attention", "other"),
        ]
        if self.ratio:
            made += self._compressor("compressor", width)
        if self.indexed:
            path = "compressor.indexer"
            made += self._compressor(path, self.index_dim)
            made.append(self._matrix(f"{path}.q_b_proj", self.index_heads * self.index_dim, rank, "attn_q"))
            made.append(self._matrix(f"{path}.scorer.weights_proj", self.index_heads, hidden, "other"))
        return tuple(made)

    def _compressor(self, path: str, width: int) -> list[Tensor]:
        wide = width * (2 if self.indexed else 1)
        bias = Tensor(f"{self.prefix}.{path}.position_bias", (self.ratio, wide), "attention", "other")
        return [
            self._matrix(f"{path}.kv_proj", wide, self.hidden, "attn_k"),
            self._matrix(f"{path}.gate_proj", wide, self.hidden, "attn_k"),
            bias,
            self._norm(f"{path}.kv_norm", width),
        ]

    def _matrix(self, name: str, out: int, into: int, role: str, pieces: int = 0) -> Tensor:
        cut = Cut.TENSOR if pieces else Cut.NONE
        return Tensor(f"{self.prefix}.{name}.weight", (out, into), "attention", role, True, cut, max(pieces, 1))

    def _norm(self, name: str, width: int) -> Tensor:
        return Tensor(f"{self.prefix}.{name}.weight", (width,), "norm", "norm")

    # ------------------------------------------------------------------ what it keeps between steps

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """The window's keys, the compressed entries, the indexer's. Every GPU of a tensor-parallel group holds them
        all.

        >>> CompressedAttention(4096, 64, 512, 64, 1024, window=128, ratio=4, indexed=True).cache(1024)
        229376
        """
        entries = tokens // self.ratio if self.ratio else 0
        width = self.head_dim + (self.index_dim if self.indexed else 0)
        return min(tokens, self.window) * self.head_dim + entries * width

    def state(self, tensor: int = 1) -> int:
        """Tokens that wait for their entry to be complete, and what the next overlaps: keys and gates."""
        if not self.ratio:
            return 0
        width = self.head_dim + (self.index_dim if self.indexed else 0)
        waiting = (self.ratio - 1) * 2 * width * (2 if self.indexed else 1)
        return waiting + (self.ratio * 2 * width if self.indexed else 0)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the window's storage, and of each compressor's entries and waiting keys and gates before a decode
        step.

        Right after a prefill those that wait are views of the whole prompt's.
        """
        wide = WIDTH[HALF if mode.autocast else mode.weights]
        width = self.head_dim * wide
        if not mode.fresh and self.window in mode.exceeded:
            made: list[Size] = [(0, (self.window - 1) * width, 0, 0, 0, 0)]
        else:
            made = [(0, -width, 0, width, 0, 0)]
        for each in (self.head_dim, *((self.index_dim,) if self.indexed else ())) if self.ratio else ():
            made.append(portion((0, 0, 0, each * wide, 0, 0), 1, self.ratio))
            both = each * wide * (2 if self.indexed else 1)
            waiting: Size = (0, -both, 0, both, 0, 0) if mode.fresh else (0, (self.ratio - 1) * both, 0, 0, 0, 0)
            made += [waiting, waiting]
        return tuple(made)

    # ------------------------------------------------------------------ its forward pass

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV4Attention.forward."""
        mode, rows = tape.mode, tape.mode.queries
        low = tape.linear(x, self.hidden, self.query_rank, False, "q_a_proj")
        low = LateRMSNorm(self.query_rank).forward(tape, low)
        q = tape.turn(tape.linear(low, self.query_rank, self.query_width, False, "q_b_proj"))
        q = unit(tape, q, self.head_dim)
        q = self.rotate(tape, q, self.head_dim)
        kv = tape.linear(x, self.hidden, self.head_dim, False, "kv_proj")
        kv = LateRMSNorm(self.head_dim).forward(tape, kv)
        kv = self.rotate(tape, kv, self.head_dim)
        if mode.step == "decode":
            kv = joined_to_cache(tape, kv, kept_rows(mode.exceeded, self.window), self.head_dim)
        elif not mode.training:
            kv = tape.operate(kv.elements, kv.dtype, (kv,))
            keep(tape, kv)
        mask = tape.shared.get("window_mask")
        bias = None
        if self.ratio:
            entries = self.compress(tape, x, self.head_dim)
            if self.indexed:
                self.pick(tape, x, low)
            bias = tape.new(portion(mode.scores, 1, self.ratio), q.dtype)
            kv = tape.concatenate(kv, entries)
            if mask is not None:
                mask = tape.concatenate(mask, bias)
        y = self._attend(tape, q, kv, mask)
        y = self.rotate(tape, y, self.head_dim)
        y = tape.copy(tape.turn(y))
        y = self._grouped(tape, y)
        result = tape.linear(y, self.groups * self.output_rank, self.hidden, False, "o_b_proj")
        del low, q, kv, mask, bias, y, rows
        return result

    def rotate(self, tape: Tape, x: Value, width: int) -> Value:
        """The last dimensions of a head turned in float32, by tables that are doubled at each call."""
        turned, rest = portion(x.elements, self.rotary, width), portion(x.elements, width - self.rotary, width)
        table = scaled(tape.mode.query_positions, self.rotary)
        cos, sin = tape.new(table, tape.mode.hidden), tape.new(table, tape.mode.hidden)
        passing, turning = tape.slice(x, rest), tape.slice(x, turned)
        straight = tape.multiply(tape.cast(turning, FLOAT), cos)
        first, second = tape.slice(turning, half(turned)), tape.slice(turning, half(turned))
        crossed = tape.concatenate(tape.scale(second), first)
        both = tape.add(straight, tape.multiply(tape.cast(crossed, FLOAT), sin))
        del straight, crossed, first, second
        both = tape.cast(both, x.dtype)
        return tape.concatenate(passing, both)

    def compress(self, tape: Tape, x: Value, width: int) -> Value:
        """Entries as sums over their tokens, weighed by a softmax in float32; overlapping ones lay every token out
        twice."""
        mode, rows = tape.mode, tape.mode.queries
        wide = width * (2 if self.indexed else 1)
        kv = tape.linear(x, self.hidden, wide, False, "kv_proj")
        gate = tape.linear(x, self.hidden, wide, False, "gate_proj")
        if mode.step == "decode":  # one token more waits; an entry closes once in `ratio` steps
            entries = Value(portion((0, 0, 0, 1, 0, 0), width, self.ratio), kv.dtype, tape.cached[0])
            del tape.cached[:3]
            for each in (entries, kv, gate):
                keep(tape, each)
            return entries
        waiting, unbiased = kv, gate
        gate = tape.add(gate, tape.parameter(self.ratio * wide))
        if self.indexed:
            kv, gate = self._laid_out(tape, kv), self._laid_out(tape, gate)
        shares = tape.cast(tape.softmax(tape.cast(gate, FLOAT)), kv.dtype)
        product = tape.multiply(kv, shares)
        size = portion(scaled(rows, width), 1, self.ratio)
        entries = tape.operate(size, product.dtype, (product,), (), as_inputs)
        del product, shares, kv, gate
        entries = LateRMSNorm(width).forward(tape, entries)
        entries = self.rotate(tape, entries, width)
        if not mode.training:
            for each in (entries, waiting, unbiased):
                keep(tape, each)
        return entries

    def _laid_out(self, tape: Tape, x: Value) -> Value:
        return tape.attach(tape.new(x.elements, x.dtype), (x,), (), as_inputs)

    def pick(self, tape: Tape, x: Value, low: Value) -> None:
        """The indexer: what it records goes with it, for its choice is made of numbers."""
        mode = tape.mode
        entries = self.compress(tape, x, self.index_dim)
        wide = self.index_heads * self.index_dim
        q = tape.turn(tape.linear(low, self.query_rank, wide, False, "q_b_proj"))
        q = self.rotate(tape, q, self.index_dim)
        fine_q, fine_k = tape.cast(q, FLOAT), tape.cast(entries, FLOAT)
        size = portion(scaled(mode.scores, self.index_heads), 1, self.ratio)
        copied = None
        if mode.step != "decode":
            copied = tape.new(portion(scaled(mode.scores, self.index_dim), 1, self.ratio), FLOAT)
        scores = tape.new(size, FLOAT)
        del fine_q, fine_k, copied
        scores = tape.scale(tape.unary_output(scores))
        weights = tape.cast(tape.linear(x, self.hidden, self.index_heads, False, "weights_proj"), FLOAT)
        weighed = tape.new(size, FLOAT)
        total = tape.new(portion(mode.scores, 1, self.ratio), FLOAT)
        del scores, weights, weighed, total, q, entries

    def _attend(self, tape: Tape, q: Value, kv: Value, mask: Value | None) -> Value:
        mode = tape.mode
        size = scaled(mode.scores, self.heads)
        if self.ratio:
            size = plus(size, portion(size, 1, self.ratio))
        every = scaled(kv.elements, self.heads)
        key = tape.operate(every, kv.dtype, (kv,), (), as_inputs)  # one head for all: the product's copy
        weights = tape.scale(tape.matmul(q, key, size))
        del key
        if mask is not None:
            weights = tape.add(weights, mask)
        sink = sunk(tape, scaled(mode.queries, self.heads), self.heads)
        joined = tape.concatenate(weights, sink)
        joined = subtract(tape, joined, largest(tape, joined, self.heads))
        chances = tape.unary_output(joined)
        kept = tape.slice(chances, size, dense=True)
        weights = tape.cast(kept, kv.dtype)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        value = tape.operate(every, kv.dtype, (kv,), (), as_inputs)
        out = tape.matmul(weights, value, q.elements)
        result = tape.copy(tape.turn(out))
        del weights, sink, joined, chances, kept, value, out
        return result

    def _grouped(self, tape: Tape, x: Value) -> Value:
        """Each group of heads through a matrix of its own."""
        if tape.mode.autocast:
            x = tape.cast(x, HALF)
        weight = tape.lowered(tape.parameter(self.output_rank * self.query_width))
        saved = [x] if weight.node is not None else []
        if x.node is not None:
            saved.append(weight)
        narrow = scaled(tape.mode.queries, self.groups * self.output_rank)
        made = tape.operate(narrow, x.dtype, (x, weight), saved, as_inputs, dense=False)
        return tape.copy(made)
