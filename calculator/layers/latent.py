"""Latent attention: keys and values as one short vector a token, from which each head's are expanded.
[arXiv:2405.04434]"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, WIDTH, Mode, Node, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .attention import MIB_FLASH_HEAD, joined_to_cache, keep, kept_rows, rotated
from .norms import RMSNorm


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention.

    query_rank     width of the low-rank query, 0 where queries come from one matrix
    latent         width of the vector that stands for all keys and values of a token
    plain, rotary  dimensions of a head's query and key without and with rotary positions
    value          dimensions of a head's value
    bias           on the two matrices that make latents, and on the output
    pairs          how the rotary dimensions are turned: complex (DeepSeek-V2), interleaved, halves
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


def attend(tape: Tape, q: Value, k: Value, v: Value, layer: LatentAttention) -> Value:
    """softmax(q·kᵀ)·v. Where values are narrower than keys torch takes the memory-efficient kernel, else flash
    attention."""
    mode = tape.mode
    out = scaled(mode.queries, layer.value_width)
    if mode.attention == "eager":
        return eager(tape, q, k, v, layer, out)
    if mode.autocast:
        q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
    figures = scaled(mode.queries, layer.heads)
    if q.dtype == HALF and layer.value == layer.head_dim <= MIB_FLASH_HEAD:
        result = tape.new(out, q.dtype)
        result = tape.attach(result, (q, k, v), (q, k, v, result, tape.new(figures, FLOAT)))
        result.dense = q.dense
        return tape.copy(tape.turn(result, dense=not result.dense))
    result = tape.new(out, q.dtype)
    saved = [q, k, v, result]
    if tape.recording:
        saved.append(tape.new(figures, FLOAT))
    return tape.attach(result, (q, k, v), saved)


def eager(tape: Tape, q: Value, k: Value, v: Value, layer: LatentAttention, out: Size) -> Value:
    """The Python attention of transformers: scores, a float32 softmax, and its 16-bit copy."""
    weights = tape.scale(tape.matmul(q, k, scaled(tape.mode.scores, layer.heads)))
    mask = tape.shared.get("mask")
    if mask is not None:
        weights = tape.add(weights, mask)
    weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
    tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
    result = tape.matmul(weights, v, out)
    return tape.copy(tape.turn(result))
