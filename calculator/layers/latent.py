"""Latent attention: keys and values as one short vector a token, from which each head's are expanded.
[arXiv:2405.04434]"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, INT, LONG, WIDTH, Mode, Node, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .attention import MIB_FLASH_HEAD, joined_to_cache, keep, kept_rows, rotated
from .norms import LayerNorm, RMSNorm


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention.

    query_rank     width of the low-rank query, 0 where queries come from one matrix
    latent         width of the vector that stands for all keys and values of a token
    plain, rotary  dimensions of a head's query and key without and with rotary positions
    value          dimensions of a head's value
    bias           on the two matrices that make latents, and on the output
    pairs          how the rotary dimensions are turned: complex (DeepSeek-V2), interleaved, halves
    stretched      whether queries are multiplied by a factor of their position (Mistral 4)
    """

    hidden: int
    heads: int
    query_rank: int
    latent: int
    plain: int
    rotary: int
    value: int
    bias: bool = False
    pairs: str = "interleaved"
    prefix: str = "self_attn"
    window: int | None = None
    stretched: bool = False

    causal = True

    # ------------------------------------------------------------------ what it stores

    @property
    def head_dim(self) -> int:
        """Dimensions of a head's query and key."""
        return self.plain + self.rotary

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def expanded(self) -> int:
        """Elements of all heads' plain keys and values of a token."""
        return self.heads * (self.plain + self.value)

    @property
    def value_width(self) -> int:
        """Elements of all heads' values of a token."""
        return self.heads * self.value

    def tensors(self) -> tuple[Tensor, ...]:
        """Queries (in one step or two), the latent, its expansion, the output, and the norms between. Latents are not
        cut."""
        made: list[Tensor] = []
        if self.query_rank:
            made += self._matrix("q_a_proj", self.query_rank, self.hidden, "attn_q", self.bias)
            made += self._norm("q_a_layernorm", self.query_rank)
            made += self._matrix("q_b_proj", self.query_width, self.query_rank, "attn_q", False, self.heads)
        else:
            made += self._matrix("q_proj", self.query_width, self.hidden, "attn_q", False, self.heads)
        made += self._matrix("kv_a_proj_with_mqa", self.latent + self.rotary, self.hidden, "attn_k", self.bias)
        made += self._norm("kv_a_layernorm", self.latent)
        made += self._matrix("kv_b_proj", self.expanded, self.latent, "attn_v", False, self.heads)
        made += self._matrix("o_proj", self.hidden, self.value_width, "attn_output", self.bias, self.heads)
        return tuple(made)

    def _matrix(self, name: str, out: int, into: int, role: str, bias: bool, pieces: int = 0) -> list[Tensor]:
        path = f"{self.prefix}.{name}"
        cut = Cut.TENSOR if pieces else Cut.NONE
        made = [Tensor(f"{path}.weight", (out, into), "attention", role, True, cut, max(pieces, 1))]
        if bias:
            made.append(Tensor(f"{path}.bias", (out,), "attention", "bias"))
        return made

    def _norm(self, name: str, width: int) -> list[Tensor]:
        return [Tensor(f"{self.prefix}.{name}.weight", (width,), "norm", "norm")]

    # ------------------------------------------------------------------ what it keeps between steps

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements of one latent and one rotated key for every kept token, whatever the heads; every GPU of a
        tensor-parallel
        group holds them all.

        >>> LatentAttention(7168, 128, 1536, 512, 128, 64, 128).cache(1)
        576
        """
        return min(tokens, self.window or tokens) * (self.latent + self.rotary)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length: none."""
        return 0

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the two storages that transformers' cache holds before a decode step: one token less than after
        it."""
        wide = WIDTH[HALF if mode.autocast else mode.weights]
        latent, rotary = self.latent * wide, self.rotary * wide
        return ((0, -latent, 0, latent, 0, 0), (0, -rotary, 0, rotary, 0, 0))

    # ------------------------------------------------------------------ its forward pass

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV3Attention.forward. In a decode step the whole cache of
        the layer
        is expanded into keys and values again."""
        rows, heads = tape.mode.queries, self.heads
        q = self.queries(tape, x)
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
        latent, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary), dense=True)
        latent = RMSNorm(self.latent).forward(tape, latent)
        q_rotary, k_rotary = self.rotate(tape, q_rotary, k_rotary)
        latent, k_rotary = self.remember(tape, latent, k_rotary)
        query = tape.concatenate(q_pass, q_rotary)
        if self.stretched:
            query = tape.multiply(query, tape.new(tape.mode.query_positions, tape.mode.hidden))
        key, value = self.expand(tape, latent, k_rotary)
        out = attend(tape, query, key, value, self)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del q, q_pass, q_rotary, joined, latent, k_rotary, query, key, value, out
        return result

    def queries(self, tape: Tape, x: Value) -> Value:
        """Queries, heads before positions."""
        if not self.query_rank:
            return tape.turn(tape.linear(x, self.hidden, self.query_width, False, "q_proj"))
        low = tape.linear(x, self.hidden, self.query_rank, self.bias, "q_a_proj")
        low = RMSNorm(self.query_rank).forward(tape, low)
        return tape.turn(tape.linear(low, self.query_rank, self.query_width, False, "q_b_proj"))

    def rotate(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """Rotary positions on the rotary dimensions of q and of the one key."""
        if self.pairs == "complex":
            table = tape.shared["frequencies"]
            wide_q, wide_k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
            out = tape.cast(tape.multiply(wide_q, table), q.dtype), tape.cast(tape.multiply(wide_k, table), k.dtype)
            del wide_q, wide_k
            return out
        cos, sin = tape.shared["cos"], tape.shared["sin"]
        if self.pairs == "halves":
            return rotated(tape, q, cos, sin), rotated(tape, k, cos, sin)
        half_q, half_k = _half(q.elements), _half(k.elements)
        q_even, q_odd = tape.slice(q, half_q), tape.slice(q, half_q)
        k_even, k_odd = tape.slice(k, half_k), tape.slice(k, half_k)
        return turned(tape, q_even, q_odd, cos, sin), turned(tape, k_even, k_odd, cos, sin)

    def remember(self, tape: Tape, latent: Value, k_rotary: Value) -> tuple[Value, Value]:
        """The cache holds the two as they are, before expansion."""
        mode = tape.mode
        if mode.training:
            return latent, k_rotary
        if mode.step == "decode":
            rows = kept_rows(mode.exceeded, self.window)
            latent = joined_to_cache(tape, latent, rows, self.latent)
            return latent, joined_to_cache(tape, k_rotary, rows, self.rotary)
        latent, k_rotary = (tape.operate(each.elements, each.dtype, (each,)) for each in (latent, k_rotary))
        keep(tape, latent)
        keep(tape, k_rotary)
        return latent, k_rotary

    def expand(self, tape: Tape, latent: Value, k_rotary: Value) -> tuple[Value, Value]:
        """Each head's key (a fresh tensor, its rotary part the same for all) and value (a view) from what is cached."""
        rows = _divided(latent.elements, self.latent)
        both = tape.turn(tape.linear(latent, self.latent, self.expanded, False, "kv_b_proj", rows))
        plain, value = tape.split(both, scaled(rows, self.heads * self.plain), scaled(rows, self.value_width))
        everywhere = spread(tape, k_rotary, self.heads)
        key = tape.new(scaled(rows, self.query_width), both.dtype)
        key = _filled(tape, key, plain)
        key = _filled(tape, key, everywhere)
        del both
        return key, value


@dataclass(frozen=True, slots=True)
class IndexedLatentAttention(LatentAttention):
    """Latent attention over the keys that an indexer picks for each query. [DeepSeek-V3.2, GLM-5]

    index_heads, index_dim   the indexer's own heads and their width; its one key a token is cached too
    most        keys it picks for a query
    indexer     whether this layer has an indexer, or takes what an earlier layer's picked
    index_pairs how the indexer's rotary dimensions are turned: interleaved or halves
    hands_on    whether the choice is handed on from layer to layer

    transformers scores every key against every query in float32, copying the keys for every query on the way, and
    turns the
    choice into a mask.
    """

    index_heads: int = 64
    index_dim: int = 128
    most: int = 2048
    indexer: bool = True
    index_pairs: str = "halves"
    hands_on: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """And the indexer's three matrices and norm."""
        made = super(IndexedLatentAttention, self).tensors()
        if not self.indexer:
            return made
        path, wide = f"{self.prefix}.indexer", self.index_heads * self.index_dim
        return (
            *made,
            Tensor(f"{path}.wq_b.weight", (wide, self.query_rank), "attention", "attn_q", True),
            Tensor(f"{path}.wk.weight", (self.index_dim, self.hidden), "attention", "attn_k", True),
            Tensor(f"{path}.k_norm.weight", (self.index_dim,), "norm", "norm"),
            Tensor(f"{path}.k_norm.bias", (self.index_dim,), "norm", "norm"),
            Tensor(f"{path}.weights_proj.weight", (self.index_heads, self.hidden), "attention", "other", True),
        )

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """And the indexer's key of every token.

        >>> IndexedLatentAttention(7168, 128, 1536, 512, 128, 64, 128).cache(1)
        704
        """
        return tokens * (self.latent + self.rotary + (self.index_dim if self.indexer else 0))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """And the indexer's keys."""
        made = super(IndexedLatentAttention, self).held(mode)
        width = self.index_dim * WIDTH[HALF if mode.autocast else mode.weights]
        return (*made, (0, -width, 0, width, 0, 0)) if self.indexer else made

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DeepseekV32Attention.forward."""
        rows, heads = tape.mode.queries, self.heads
        earlier = tape.new(scaled(rows, self.most), INT) if self.hands_on else None
        gate = self.gate(tape, x)
        low = tape.linear(x, self.hidden, self.query_rank, self.bias, "q_a_proj")
        low = RMSNorm(self.query_rank).forward(tape, low)
        q = tape.turn(tape.linear(low, self.query_rank, self.query_width, False, "q_b_proj"))
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
        latent, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary), dense=True)
        latent = RMSNorm(self.latent).forward(tape, latent)
        q_rotary, k_rotary = self.rotate(tape, q_rotary, k_rotary)
        latent, k_rotary = self.remember(tape, latent, k_rotary)
        query = tape.concatenate(q_pass, q_rotary)
        key, value = self.expand(tape, latent, k_rotary)
        picked = self.pick(tape, x, low) if self.indexer or earlier is None else earlier
        if earlier is not None:  # the model's loop holds the last choice until the layer returns the next
            tape.lingering += [earlier, picked]
        unpicked, mask = self.masks(tape, picked)
        out = self.attended(tape, query, key, value, mask, gate)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del gate, low, q, q_pass, q_rotary, joined, latent, k_rotary, query, key, value, picked, unpicked, mask, out
        del earlier
        return result

    def gate(self, tape: Tape, x: Value) -> Value | None:
        """What the result is multiplied by, where a family has it."""
        return None

    def attended(self, tape: Tape, q: Value, k: Value, v: Value, mask: Value, gate: Value | None) -> Value:
        """softmax(q·kᵀ)·v under the mask."""
        return attend(tape, q, k, v, self, mask)

    def pick(self, tape: Tape, x: Value, low: Value) -> Value:
        """Numbers of the picked keys; nothing is recorded for a backward pass."""
        recording, tape.recording = tape.recording, False
        chosen = self._pick(tape, x, low)
        tape.recording = recording
        return chosen

    def _pick(self, tape: Tape, x: Value, low: Value) -> Value:
        mode, rows, heads, wide = tape.mode, tape.mode.queries, self.index_heads, self.index_dim
        q = self.index_queries(tape, low)
        k = LayerNorm(wide).forward(tape, tape.linear(x, self.hidden, wide, False, "wk"))
        if self.rotary:
            turning, passing = scaled(rows, heads * self.rotary), scaled(rows, heads * (wide - self.rotary))
            q_turn, q_pass = tape.split(q, turning, passing)
            k_turn, k_pass = tape.split(k, scaled(rows, self.rotary), scaled(rows, wide - self.rotary))
            q_turn, k_turn = self._turn(tape, q_turn, k_turn)
            q = tape.concatenate(q_turn, q_pass)
            k = tape.concatenate(k_turn, k_pass)
            turned_too: tuple[Value, ...] = (q_turn, q_pass, k_turn, k_pass)
        else:
            turned_too = ()
        if mode.step == "decode":
            k = joined_to_cache(tape, k, kept_rows(mode.exceeded, None), wide)
        elif not mode.training:
            k = tape.operate(k.elements, k.dtype, (k,))
            keep(tape, k)
        scores = self._scores(tape, q, k)
        scores = tape.unary_output(scores)
        weights = tape.scale(tape.cast(tape.linear(x, self.hidden, heads, False, "weights_proj"), FLOAT))
        total = tape.new(mode.scores, FLOAT)
        outside = tape.new(mode.mask, BOOL)
        total = tape.scale(total)
        del outside
        values, numbers = tape.new(scaled(rows, self.most), FLOAT), tape.new(scaled(rows, self.most), LONG)
        chosen = tape.new(scaled(rows, self.most), INT)
        del values, numbers, weights, total, scores, turned_too
        return chosen

    def index_queries(self, tape: Tape, low: Value) -> Value:
        """The indexer's queries from the low-rank ones."""
        return tape.linear(low, self.query_rank, self.index_heads * self.index_dim, False, "wq_b")

    def _turn(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        cos, sin = tape.shared["cos"], tape.shared["sin"]
        if self.index_pairs == "halves":
            return rotated(tape, q, cos, sin), rotated(tape, k, cos, sin)
        return self.rotate(tape, q, k)

    def _scores(self, tape: Tape, q: Value, k: Value) -> Value:
        q, k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        if tape.mode.autocast:
            q, k = tape.cast(q, HALF), tape.cast(k, HALF)
        copied = tape.new(scaled(tape.mode.scores, self.index_dim), q.dtype) if tape.mode.step != "decode" else None
        scores = tape.new(scaled(tape.mode.scores, self.index_heads), q.dtype)
        del copied, q, k
        return tape.scale(scores)

    def masks(self, tape: Tape, picked: Value) -> tuple[Value, Value]:
        """Where the keys that were not picked are, and the mask of the causal order without them."""
        size = tape.mode.scores
        ones, numbers = tape.new(size, BOOL), tape.new(picked.elements, LONG)
        unpicked = tape.new(size, BOOL)
        del ones, numbers
        if tape.mode.attention == "eager":
            return unpicked, tape.new(size, tape.mode.hidden)
        inverse = tape.new(size, BOOL)
        mask = tape.new(size, BOOL)
        del inverse
        return unpicked, mask


def turned(tape: Tape, even: Value, odd: Value, cos: Value, sin: Value) -> Value:
    """(even · cos - odd · sin) beside (odd · cos + even · sin)."""
    first = subtract(tape, tape.multiply(even, cos), tape.multiply(odd, sin))
    second = tape.add(tape.multiply(odd, cos), tape.multiply(even, sin))
    return tape.concatenate(first, second)


def subtract(tape: Tape, a: Value, b: Value) -> Value:
    """a - b: the gradient itself for a, its negative for b."""
    return tape.operate(a.elements, a.dtype, (a, b), (), _difference, dense=a.dense)


def _difference(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    grad = grads[0]
    assert grad is not None
    first, second = node.inputs
    made: list[Value | None] = [None, None]
    if first is not None:
        made[0] = Value(grad.elements, grad.dtype, grad.storage)
    if second is not None:
        made[1] = tape.new(grad.elements, grad.dtype)
    return made


def spread(tape: Tape, x: Value, times: int) -> Value:
    """One head seen as many: a view, whose gradient is summed over the heads."""
    return tape.attach(Value(scaled(x.elements, times), x.dtype, x.storage), (x,), (), as_inputs)


def _filled(tape: Tape, whole: Value, part: Value) -> Value:
    """A part of `whole` overwritten in place. [torch: CopySlices]"""
    return tape.attach(Value(whole.elements, whole.dtype, whole.storage), (whole, part), (), _through_slice)


def _through_slice(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A copy of the whole gradient, and one of the part, which the whole's loses."""
    grad = grads[0]
    assert grad is not None
    whole, part = node.inputs
    made: list[Value | None] = [None, None]
    rest = tape.new(grad.elements, grad.dtype)
    if part is not None:
        made[1] = tape.new(part[2], grad.dtype)
    if whole is not None:
        made[0] = rest
    return made


def _half(size: Size) -> Size:
    return _divided(size, 2)


def _divided(size: Size, by: int) -> Size:
    a, b, c, d, e, f = size
    return (a // by, b // by, c // by, d // by, e // by, f // by)


def attend(tape: Tape, q: Value, k: Value, v: Value, layer: LatentAttention, mask: Value | None = None) -> Value:
    """softmax(q·kᵀ)·v. Where values are narrower than keys torch takes the memory-efficient kernel, else flash
    attention."""
    mode = tape.mode
    out = scaled(mode.queries, layer.value_width)
    if mode.attention == "eager":
        return eager(tape, q, k, v, layer, out, mask)
    if mode.autocast:
        q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
    figures = scaled(mode.queries, layer.heads)
    if mask is None and q.dtype == HALF and layer.value == layer.head_dim <= MIB_FLASH_HEAD:
        result = tape.new(out, q.dtype)
        result = tape.attach(result, (q, k, v), (q, k, v, result, tape.new(figures, FLOAT)))
        result.dense = q.dense
        return tape.copy(tape.turn(result, dense=not result.dense))
    bias = tape.new(mode.scores, q.dtype) if mask is not None else None
    result = tape.new(out, q.dtype)
    saved = [q, k, v, result] if bias is None else [q, k, v, result, bias]
    if tape.recording:
        saved.append(tape.new(figures, FLOAT))
    return tape.attach(result, (q, k, v), saved)


def eager(tape: Tape, q: Value, k: Value, v: Value, layer: LatentAttention, out: Size, mask: Value | None) -> Value:
    """The Python attention of transformers: scores, a float32 softmax, and its 16-bit copy."""
    weights = tape.scale(tape.matmul(q, k, scaled(tape.mode.scores, layer.heads)))
    mask = mask or tape.shared.get("mask")
    if mask is not None:
        weights = tape.add(weights, mask)
    weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
    tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
    result = tape.matmul(weights, v, out)
    return tape.copy(tape.turn(result))
