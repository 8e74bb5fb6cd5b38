"""Layers of the latest families: Mistral 4's router and shared latents, Hy 4's sinks and streams, and Qwen 4's gated
streams, picked keys and n-gram tables."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, INT, LONG, SEQUENCES, WIDTH, Mode, Size, Tape, Value, as_inputs, plus, scaled
from ..tensors import Cut, Tensor
from .attention import eager, efficient, joined_to_cache, keep, kept_rows, mask_of
from .blocks import Block
from .ends import Head
from .experts import Router, Routing, StackTargets, divided_by_sum, limited, picked, top, untouched_product
from .feed_forward import activate
from .gemma import handed_down
from .latent import IndexedLatentAttention, LatentAttention, subtract
from .latent import attend as attend_latent
from .linear_attention import GatedAttention
from .norms import GemmaRMSNorm, LayerNorm, RMSNorm, normalized
from .sinks import largest, sunk
from .state_space import store
from .states import State, convolution
from .streams import StreamHead, Streams, fine, widened


@dataclass(frozen=True, slots=True)
class LimitedSoftmaxRouter(Router):
    """Softmax in the dtype of the logits, over the experts of the best groups, which two experts speak for. [Mistral 4]

    groups, best   groups of experts, and how many of them a token may use
    wide           whether the product is made in float32, from copies of the input and of the matrix
    """

    groups: int = 1
    best: int = 1
    wide: bool = False

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps what the product needs, the softmax, the places, and what the division needs."""
        logits = self._float_logits(tape, x, targets) if self.wide else self._logits(tape, x, targets)
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


@dataclass(frozen=True, slots=True)
class StretchedLatentAttention(IndexedLatentAttention):
    """Queries from one matrix, each head's multiplied by a learned line over the logarithm of its position; latents of
    an earlier layer in some layers. [Mistral Large 4]

    own    whether the layer makes and caches latents, or takes an earlier layer's
    """

    own: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """Without the latent's matrix and norm where it is an earlier layer's; two lines, and a norm before the
        indexer's queries."""
        plain = (each for each in LatentAttention.tensors(self) if self.own or ".kv_a_" not in each.name)
        made = [*plain, *_line(self.prefix, self.heads)]
        if self.indexer:
            path = f"{self.prefix}.indexer"
            wide, hidden = self.index_heads * self.index_dim, self.hidden
            made += [
                Tensor(f"{path}.wq_b.weight", (wide, hidden), "attention", "attn_q", True),
                Tensor(f"{path}.wk.weight", (self.index_dim, hidden), "attention", "attn_k", True),
                Tensor(f"{path}.weights_proj.weight", (self.index_heads, hidden), "attention", "other", True),
                *_line(path, self.index_heads),
            ]
            for norm, width in (("k_norm", self.index_dim), ("q_input_norm", hidden)):
                made += [Tensor(f"{path}.{norm}.{each}", (width,), "norm", "norm") for each in ("weight", "bias")]
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """The latent and the rotary key where they are its own, and the indexer's key."""
        return tokens * ((self.latent + self.rotary if self.own else 0) + (self.index_dim if self.indexer else 0))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the storages of the cache before a decode step, those of its own latent first."""
        made = super(StretchedLatentAttention, self).held(mode)
        return made if self.own else made[2:]

    def index_queries(self, tape: Tape, low: Value) -> Value:
        """From the hidden states themselves."""
        q = LayerNorm(self.hidden).forward(tape, low)
        q = tape.linear(q, self.hidden, self.index_heads * self.index_dim, False, "wq_b")
        return self._stretched(tape, q, self.index_heads)

    def _stretched(self, tape: Tape, q: Value, heads: int) -> Value:
        logarithms, slope = tape.new(tape.mode.query_positions, q.dtype), tape.parameter(heads)
        kept = (logarithms,) if slope.node is not None else ()
        line = tape.operate(scaled(tape.mode.query_positions, heads), q.dtype, (slope,), kept, as_inputs)
        line = tape.operate(line.elements, line.dtype, (line, tape.parameter(heads)), (), as_inputs)
        return tape.multiply(q, line)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MistralLarge4TextAttention.forward."""
        rows, heads = tape.mode.queries, self.heads
        earlier = tape.new(scaled(rows, self.most), INT)
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, False, "q_proj"))
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined: Value | None = None
        if self.own:
            joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
            latent, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary), dense=True)
            latent = RMSNorm(self.latent).forward(tape, latent)
        else:
            kept = rows if tape.mode.step != "decode" else kept_rows(tape.mode.exceeded, None)
            trained = not tape.mode.frozen or tape.mode.input_grad
            latent = handed_down(tape, scaled(kept, self.latent), q.dtype, trained)
            k_rotary = handed_down(tape, scaled(kept, self.rotary), q.dtype, trained)
        if self.rotary:
            q_rotary, turned_key = self.rotate(tape, q_rotary, k_rotary)
            k_rotary = turned_key if self.own else k_rotary
        if self.own:
            latent, k_rotary = self.remember(tape, latent, k_rotary)
        query = self._stretched(tape, tape.concatenate(q_rotary, q_pass), heads)
        key, value = self.expand(tape, latent, k_rotary)
        picked_keys = self.pick(tape, x, x) if self.indexer else earlier
        tape.lingering += [earlier, picked_keys]  # the model's loop holds the last choice until the next is there
        unpicked, mask = self.masks(tape, picked_keys)
        out = attend_latent(tape, query, key, value, self, mask)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del q, q_pass, q_rotary, joined, latent, k_rotary, query, key, value, picked_keys, unpicked, mask, out, earlier
        return result


def _line(path: str, heads: int) -> list[Tensor]:
    """What multiplies each head's queries: a slope and an offset."""
    return [Tensor(f"{path}.softmax_scaling.{each}", (heads,), "attention", "other") for each in ("scale", "bias")]


@dataclass(frozen=True, slots=True)
class HeadGatedLatentAttention(IndexedLatentAttention):
    """Latents that are scaled, a norm over the rotary key, and a gate of one figure a head; picked keys in some layers,
    a window in the others. [dots 3]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the norm and the gate."""
        gate = Tensor(
            f"{self.prefix}.g_proj.weight",
            (self.heads, self.hidden),
            "attention",
            "other",
            True,
            Cut.TENSOR,
            self.heads,
        )
        norm = Tensor(f"{self.prefix}.k_rope_only_layernorm.weight", (self.rotary,), "norm", "norm")
        return (*super(HeadGatedLatentAttention, self).tensors(), norm, gate)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Latent and rotary key inside the window, and the indexer's key of every token."""
        kept = min(tokens, self.window or tokens) * (self.latent + self.rotary)
        return kept + (tokens * self.index_dim if self.indexer else 0)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Dots3NoteTextAttention.forward."""
        mode, rows, heads = tape.mode, tape.mode.queries, self.heads
        low = tape.linear(x, self.hidden, self.query_rank, self.bias, "q_a_proj")
        low = tape.scale(RMSNorm(self.query_rank).forward(tape, low))
        q = tape.turn(tape.linear(low, self.query_rank, self.query_width, False, "q_b_proj"))
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
        latent, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary))
        latent = tape.scale(RMSNorm(self.latent).forward(tape, tape.copy(latent)))
        k_rotary = RMSNorm(self.rotary).forward(tape, k_rotary)
        kinds = q_rotary.dtype, k_rotary.dtype
        q_rotary, k_rotary = self.rotate(tape, q_rotary, k_rotary)
        q_rotary, k_rotary = tape.cast(q_rotary, kinds[0]), tape.cast(k_rotary, kinds[1])
        latent, k_rotary = self.remember(tape, latent, k_rotary)
        query = tape.concatenate(q_rotary, q_pass)
        key, value = self.expand(tape, latent, k_rotary)
        picked_keys = unpicked = None
        if self.indexer:
            picked_keys = self.pick(tape, x, low)
            unpicked, mask = self.masks(tape, picked_keys)
            out = attend_latent(tape, query, key, value, self, mask)
        else:
            masked = mode.attention == "eager" or self.window in mode.exceeded
            over = tape.shared.get(mask_of(self.window)) or Value(mode.scores, BOOL, None) if masked else None
            out = attend_latent(tape, query, key, value, self, over)
        opened = tape.unary_output(tape.linear(x, self.hidden, heads, False, "g_proj"))
        out = tape.multiply(out, opened)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del low, q, q_pass, q_rotary, joined, latent, k_rotary, query, key, value, picked_keys, unpicked, out, opened
        return result


# ---------------------------------------------------------------------- Hy 4


@dataclass(frozen=True, slots=True)
class SinkLatentAttention(IndexedLatentAttention):
    """Picked keys, a learned sink for each head, and a gate over what it gives. transformers runs it in Python alone.
    [Hy 4]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate and the sinks."""
        path, heads = f"{self.prefix}.gate_proj.weight", self.heads
        gate = Tensor(path, (self.value_width, self.hidden), "attention", "other", True, Cut.TENSOR, heads)
        sinks = Tensor(f"{self.prefix}.sinks", (heads,), "attention", "other")
        return (*super(SinkLatentAttention, self).tensors(), gate, sinks)

    def gate(self, tape: Tape, x: Value) -> Value | None:
        """As wide as the values of all heads."""
        return tape.linear(x, self.hidden, self.value_width, False, "gate_proj")

    def attended(self, tape: Tape, q: Value, k: Value, v: Value, mask: Value, gate: Value | None) -> Value:
        """With the local variables of transformers' eager_attention_forward of GPT-OSS, then the gate."""
        weights = tape.scale(tape.matmul(q, k, scaled(tape.mode.scores, self.heads)))
        weights = tape.add(weights, mask)
        sink = sunk(tape, scaled(tape.mode.queries, self.heads), self.heads)
        joined = tape.concatenate(weights, sink)
        joined = subtract(tape, joined, largest(tape, joined, self.heads))
        chances = tape.unary_output(joined)
        kept = tape.slice(chances, weights.elements, dense=True)
        weights = tape.cast(kept, v.dtype)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        out = tape.matmul(weights, v, scaled(tape.mode.queries, self.value_width))
        result = tape.copy(tape.turn(out))
        assert gate is not None
        result = tape.multiply(result, tape.unary_output(gate))
        del weights, sink, joined, chances, kept, out
        return result


@dataclass(frozen=True, slots=True)
class UnmixedStreams(Streams):
    """Streams that are gated on the way in and out, and never mixed with one another; all in float32. [Hy 4]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """One matrix, its bias, two factors."""
        figures = 2 * self.count
        return (
            Tensor(f"{self.name}.fn", (figures, self.count * self.hidden), self.component, "other"),
            Tensor(f"{self.name}.base", (figures,), self.component, "other"),
            Tensor(f"{self.name}.scale", (2,), self.component, "other"),
        )

    def enter(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Weights to leave by, once more in place of a mixing matrix, and the streams added up. With the local
        variables of transformers' HYV4HyperConnection.forward."""
        rows, n = tape.mode.queries, self.count
        mixes = normed_figures(tape, x, n * self.hidden, 2 * n)
        parts = tape.split(mixes, scaled(rows, n), scaled(rows, n), dense=True)
        pre, post = (tape.shift(tape.multiply(part, fine(tape, 1))) for part in parts)
        pre = tape.shift(tape.unary_output(pre))
        post = tape.shift(tape.scale(tape.unary_output(post)))
        y = gathered_streams(tape, x, pre, self.hidden)
        del mixes, parts, pre
        return post, post, y

    def leave(self, tape: Tape, x: Value, y: Value, post: Value, mix: Value) -> Value:
        """What the part gave, weighed for every stream, on top of the streams, in float32."""
        wide = tape.cast(y, FLOAT)
        kept = (*((wide,) if post.node is not None else ()), *((post,) if wide.node is not None else ()))
        injection = tape.operate(x.elements, FLOAT, (post, wide), kept, as_inputs)
        return tape.cast(tape.add(injection, tape.cast(x, FLOAT)), x.dtype)


def normed_figures(tape: Tape, x: Value, width: int, figures: int) -> Value:
    """Products of all streams in float32 with a few rows, over the root mean square of the streams."""
    flat = tape.cast(x, FLOAT)
    products = untouched_product(tape, flat, fine(tape, figures * width), figures)
    root = tape.unary_output(tape.shift(tape.mean(tape.power(flat), tape.mode.queries)))
    return tape.multiply(products, root)


def gathered_streams(tape: Tape, x: Value, weights: Value, hidden: int) -> Value:
    """The streams added up by weights in float32."""
    product = tape.multiply(x if x.dtype == FLOAT else widened(tape, x), weights)
    return tape.cast(tape.operate(scaled(tape.mode.queries, hidden), FLOAT, (product,), (), as_inputs), x.dtype)


@dataclass(frozen=True, slots=True)
class UnmixedStreamHead(StreamHead):
    """The streams added up by learned weights, then norm and matrix."""

    def final(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' HYV4HyperHead.forward."""
        weights = normed_figures(tape, x, self.streams * self.width, self.streams)
        weights = tape.shift(tape.multiply(weights, fine(tape, 1)))
        y = gathered_streams(tape, x, tape.shift(tape.unary_output(weights)), self.width)
        del weights
        return self.norm.forward(tape, y) if self.norm is not None else y


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
