"""Layers of the latest families: Mistral 4's router, and Qwen 4's gated streams, picked keys and n-gram tables."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, INT, LONG, SEQUENCES, WIDTH, Mode, Size, Tape, Value, as_inputs, plus, scaled
from ..tensors import Cut, Tensor
from .attention import eager, efficient, joined_to_cache, keep, kept_rows
from .blocks import Block
from .ends import Head
from .experts import Router, Routing, StackTargets, divided_by_sum, limited, picked, top
from .feed_forward import activate
from .linear_attention import GatedAttention
from .norms import GemmaRMSNorm, normalized
from .state_space import store
from .states import State, convolution


@dataclass(frozen=True, slots=True)
class LimitedSoftmaxRouter(Router):
    """Softmax in the dtype of the logits, over the experts of the best groups, which two experts speak for. [Mistral 4]

    groups, best   groups of experts, and how many of them a token may use
    """

    groups: int = 1
    best: int = 1

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps what the product needs, the softmax, the places, and what the division needs."""
        logits = self._logits(tape, x, targets)
        scores = tape.softmax(logits)
        choice = limited(tape, tape.new(scores.elements, scores.dtype), self.groups, self.best, each=2)
        values, places = top(tape, choice, self._slots(tape))
        del values
        weights = picked(tape, scores, places)
        if self.normal:
            weights = divided_by_sum(tape, weights, tape.mode.queries, shifted=True)
        weights = tape.scale(weights)
        del choice
        return logits, weights, places


# ---------------------------------------------------------------------- Qwen 4


@dataclass(frozen=True, slots=True)
class GroupedRMSNorm(GemmaRMSNorm):
    """Norms over runs of `each` elements, with weights for all of them; in float32 until the end."""

    each: int = 1

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x and the normalized x in float32."""
        dtype = x.dtype
        y = normalized(tape, tape.cast(x, FLOAT), self.each, rows)
        y = tape.multiply(y, tape.shift(tape.cast(tape.parameter(self.width), FLOAT)))
        return tape.cast(y, dtype)


@dataclass(frozen=True, slots=True)
class GatedResidual:
    """How streams enter and leave one part of a layer: mixed by a low-rank gate, injected by one weight a stream.

    rank    of the gate
    leaves  whether there are weights to leave by; the last one of a model has none
    """

    hidden: int
    count: int
    rank: int
    name: str
    component: str = "other"
    leaves: bool = True

    @property
    def wide(self) -> int:
        """Width of all streams."""
        return self.count * self.hidden

    @property
    def norm(self) -> GroupedRMSNorm:
        """Over each stream for itself."""
        return GroupedRMSNorm(self.wide, f"{self.name}.hc_norm", each=self.hidden)

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm, and two or three matrices."""
        shapes = [
            ("input_mix_weight_down", (self.rank, self.wide)),
            ("input_mix_weight_up", (self.wide, self.rank)),
            ("block_inject_weight", (self.count, self.wide)),
        ][: 3 if self.leaves else 2]
        made = (Tensor(f"{self.name}.{one}.weight", shape, self.component, "other", True) for one, shape in shapes)
        return (*self.norm.tensors(), *made)

    def enter(self, tape: Tape, x: Value) -> tuple[Value, Value | None]:
        """The streams mixed to one, and the weights to leave by. With the local variables of transformers'
        Qwen4ExpTextGatedResidual.forward."""
        rows = tape.mode.queries
        normed = self.norm.forward(tape, x)
        mix = tape.scale(tape.linear(normed, self.wide, self.rank, False, "input_mix_weight_down"))
        mix = activate(tape, mix, "silu")
        mix = tape.unary_output(tape.linear(mix, self.rank, self.wide, False, "input_mix_weight_up"))
        mixed = tape.mean(tape.multiply(mix, normed), scaled(rows, self.hidden))
        if not self.leaves:
            return mixed, None
        weights = tape.scale(tape.linear(normed, self.wide, self.count, False, "block_inject_weight"))
        return mixed, tape.scale(tape.unary_output(weights))

    def leave(self, tape: Tape, x: Value, y: Value, weights: Value) -> Value:
        """What the part gave, weighed for every stream, on top of the streams."""
        kept = (*((y,) if weights.node is not None else ()), *((weights,) if y.node is not None else ()))
        injection = tape.operate(x.elements, y.dtype, (y, weights), kept, as_inputs)
        return tape.add(x, injection)


@dataclass(frozen=True, slots=True)
class GramTables:
    """Tables of hashed n-grams, whose rows are gated into every stream, and a dilated convolution behind them.

    vocabulary   rows of all tables together
    heads, width   rows a token looks up, and what they make side by side
    kernel, grams  of the convolution: its length, and its dilation, which is the longest n-gram
    """

    hidden: int
    count: int
    vocabulary: int
    heads: int
    width: int
    kernel: int
    grams: int
    prefix: str = "ple"

    @property
    def wide(self) -> int:
        """Width of all streams."""
        return self.count * self.hidden

    @property
    def span(self) -> int:
        """Tokens that the convolution looks back."""
        return (self.kernel - 1) * self.grams

    def norm(self, name: str) -> GroupedRMSNorm:
        """Over each stream for itself."""
        return GroupedRMSNorm(self.wide, f"{self.prefix}.{name}", each=self.hidden)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tables, two matrices, three norms, the convolution."""
        rows, at = self.vocabulary, self.prefix
        table = f"{at}.ple_embedding.ngram_embedding.weight"
        return (
            Tensor(table, (rows, self.width // self.heads), "embedding", "embedding", False, Cut.TENSOR, rows),
            Tensor(f"{at}.key_proj.weight", (self.wide, self.width), "other", "other", True),
            Tensor(f"{at}.value_proj.weight", (self.hidden, self.width), "other", "other", True),
            *(each for name in ("norm_key", "norm_query", "norm_conv") for each in self.norm(name).tensors()),
            Tensor(f"{at}.conv1d.weight", (self.wide, 1, self.kernel), "other", "other"),
        )

    def states(self) -> tuple[State, ...]:
        """The last inputs of the convolution."""
        return (convolution(self.wide, self.span),)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Qwen4ExpTextPLELayer.forward."""
        rows = tape.mode.queries
        places = tape.new(scaled(rows, self.heads), LONG)
        found = tape.embed(scaled(rows, self.heads), self.vocabulary, self.width // self.heads, indices=places)
        key = self.norm("norm_key").forward(tape, tape.linear(found, self.width, self.wide, False, "key_proj"))
        value = tape.linear(found, self.width, self.hidden, False, "value_proj")
        query = self.norm("norm_query").forward(tape, x)
        product = tape.multiply(key, query)
        gate = tape.scale(tape.operate(scaled(rows, self.count), product.dtype, (product,), (), as_inputs))
        del product
        root = tape.unary_output(tape.unary(tape.unary(gate)))
        gate = tape.multiply(root, tape.operate(gate.elements, gate.dtype, (gate,)))
        opened = tape.unary_output(gate)
        kept = (*((value,) if opened.node is not None else ()), *((opened,) if value.node is not None else ()))
        gated = tape.operate(scaled(rows, self.wide), value.dtype, (opened, value), kept, as_inputs)
        normed = self.norm("norm_conv").forward(tape, gated)
        store(tape, self.states())
        padded = tape.gather(normed, plus(normed.elements, scaled(SEQUENCES, self.wide * self.span)))
        made = tape.new(normed.elements, normed.dtype)
        weights = tape.parameter(self.wide * self.kernel)
        made = tape.attach(made, (padded, weights), (padded, weights), as_inputs)
        result = tape.add(gated, tape.unary(made))
        del places, found, key, query, root, opened, value, made, padded, gate, normed, gated
        return result


@dataclass(frozen=True, slots=True)
class GatedStreamBlock(Block):
    """A layer whose residual is a set of streams.

    around   how the streams enter and leave attention and feed-forward layer
    grams    tables of n-grams that are added before, in some layers
    """

    around: tuple[GatedResidual, ...] = ()
    grams: GramTables | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """And the streams' matrices, and the tables."""
        made = super(GatedStreamBlock, self).tensors()
        more = self.grams.tensors() if self.grams is not None else ()
        return (*made, *more, *(tensor for each in self.around for tensor in each.tensors()))

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """And the inputs of the convolution behind the tables."""
        made = super(GatedStreamBlock, self).states(tensor)
        return (*made, *self.grams.states()) if self.grams is not None else made

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        more = sum(each.elements for each in self.grams.states()) if self.grams is not None else 0
        return super(GatedStreamBlock, self).state(tensor) + more

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Qwen4ExpTextDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        if self.grams is not None:
            x = tape.add(x, self.grams.forward(tape, x))
        for around, part in zip(self.around, (self.mixer, self.feed_forward), strict=True):
            y, weights = around.enter(tape, x)
            y = part.forward(tape, y)
            assert weights is not None
            x = around.leave(tape, x, y, weights)
        del y, weights
        return x


@dataclass(frozen=True, slots=True)
class GatedStreamHead(Head):
    """The streams mixed by a gate of their own, then the matrix."""

    mixer: GatedResidual | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """And the mixer's."""
        made = super(GatedStreamHead, self).tensors()
        return (*made, *self.mixer.tensors()) if self.mixer is not None else made

    def final(self, tape: Tape, x: Value) -> Value:
        """The streams as one."""
        assert self.mixer is not None
        return self.mixer.enter(tape, x)[0]


@dataclass(frozen=True, slots=True)
class PickedGatedAttention(GatedAttention):
    """Gated attention over the blocks of keys that an indexer picks for each query, and the newest keys.

    index_heads, index_dim   the indexer's heads and their width; its one key a token is cached too
    most     tokens it picks for a query
    ratio    tokens of a block

    transformers walks over the queries one by one in Python to pick, and attends to all keys under a mask.
    """

    index_heads: int = 0
    index_dim: int = 0
    most: int = 0
    ratio: int = 1

    def tensors(self) -> tuple[Tensor, ...]:
        """And the indexer's matrix and two norms."""
        path, wide = f"{self.prefix}.indexer", (self.index_heads + 1) * self.index_dim
        return (
            *super(PickedGatedAttention, self).tensors(),
            Tensor(f"{path}.index_qk_proj.weight", (wide, self.hidden), "attention", "attn_q", True),
            *(
                Tensor(f"{path}.{name}.weight", (self.index_dim,), "norm", "norm")
                for name in ("q_layernorm", "k_layernorm")
            ),
        )

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """And the indexer's key of every token."""
        return super(PickedGatedAttention, self).cache(tokens, tensor) + tokens * self.index_dim

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """And the indexer's keys, which it caches first."""
        width = self.index_dim * WIDTH[HALF if mode.autocast else mode.weights]
        return ((0, -width, 0, width, 0, 0), *super(PickedGatedAttention, self).held(mode))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Qwen4ExpTextAttention.forward."""
        recording, tape.recording = tape.recording, False
        chosen = self._pick(tape, x)
        tape.recording = recording
        mask = tape.new(tape.mode.scores, tape.mode.hidden if tape.mode.attention == "eager" else BOOL)
        result = super(PickedGatedAttention, self).forward(tape, x)
        del chosen, mask
        return result

    def attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        """Always under a mask, so torch takes the memory-efficient kernel over repeated heads."""
        if tape.mode.attention == "eager":
            return eager(tape, q, k, v, self)
        groups = self.heads // self.kv_heads
        if groups > 1 and tape.mode.step != "decode":
            k, v = tape.repeat(k, groups), tape.repeat(v, groups)
        if tape.mode.autocast:
            q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
        out = efficient(tape, q, k, v, self, masked=True)
        return tape.copy(tape.turn(out, dense=not out.dense))

    def _pick(self, tape: Tape, x: Value) -> Value:
        """Where the picked keys are."""
        mode, rows = tape.mode, tape.mode.queries
        both = tape.linear(x, self.hidden, (self.index_heads + 1) * self.index_dim, False, "index_qk_proj")
        q, keys = tape.split(both, scaled(rows, self.index_heads * self.index_dim), scaled(rows, self.index_dim))
        q = GemmaRMSNorm(self.index_dim).forward(tape, tape.copy(q), self.index_heads)
        if mode.step == "decode":
            keys = joined_to_cache(tape, keys, kept_rows(mode.exceeded, None), self.index_dim)
        elif not mode.training:
            keys = tape.operate(keys.elements, keys.dtype, (keys,))
            keep(tape, keys)
        numbers = tape.new(scaled(rows, self.most + self.ratio - 1), INT)
        empty = tape.new(mode.scores, BOOL)
        places = tape.new(numbers.elements, LONG)
        chosen = tape.new(mode.scores, BOOL)
        del both, q, keys, numbers, empty, places
        return chosen
