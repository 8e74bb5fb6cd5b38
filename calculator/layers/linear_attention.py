"""Linear attention: the gated delta rule, Kimi's delta attention and lightning attention; and attention with a gate.

Delta-rule layers run as on a GPU with causal-conv1d and flash-linear-attention, which transformers takes where they are
installed. Lightning attention has no kernel there: it runs in Python, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, WIDTH, Mode, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from ..units import ceil_div
from .attention import Attention, attend, keep, remember
from .blocks import Block
from .kernels import Scratch, backward_with, causal_convolution, hold, per_chunk
from .latent import LatentAttention
from .norms import Norm, normalized
from .state_space import activations, state_bytes, store
from .states import State, convolution, recurrent

DELTA_CHUNK = 64  # tokens that flash-linear-attention's delta rules take at once


@dataclass(frozen=True, slots=True)
class GatedAttention(Attention):
    """Attention whose output is multiplied by the sigmoid of a gate that q's matrix makes beside q (Qwen 3.5)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Qwen3NextAttention.forward."""
        wide = scaled(tape.mode.queries, self.query_width)
        q, gate = tape.split(tape.linear(x, self.hidden, 2 * self.query_width, self.bias, self.names.query), wide, wide)
        gate = tape.copy(gate)
        if self.query_norm is not None:
            q = self.query_norm.forward(tape, q, self.heads)
        q = tape.turn(q)
        k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
        if self.key_norm is not None:
            k = self.key_norm.forward(tape, k, self.kv_heads)
        k = tape.turn(k)
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value))
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        k, v = remember(tape, k, v, self)
        y = self.attended(tape, q, k, v)
        y = tape.multiply(y, tape.unary_output(gate))
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def attended(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        """softmax(q·kᵀ)·v."""
        return attend(tape, q, k, v, self)


def _part(name: str, out: int, into: int, role: str, component: str, pieces: int) -> Tensor:
    return Tensor(f"{name}.weight", (out, into), component, role, True, Cut.TENSOR, pieces)


def _small(name: str, *shape: int, pieces: int) -> Tensor:
    return Tensor(name, shape, "ssm", "ssm_other", cut=Cut.TENSOR, pieces=pieces)


def delta_rule(
    tape: Tape, q: Value, k: Value, v: Value, g: Value, beta: Value, heads: int, key: int, value: int, wide_gate: bool
) -> Value:
    """flash-linear-attention's chunked delta rule: keeps normalized q and k with their norms, v, the summed gate, beta
    and one (KDA: two) 64 × 64 matrix a chunk and head; states of all chunks are computed again on the way back.

    heads    of values; q and k may have fewer
    wide_gate  whether the gate has an entry for each key dimension (KDA) instead of one a head
    """
    rows, dtype = tape.mode.queries, v.dtype
    if tape.mode.step == "decode":
        state = (0, heads * key * value, 0, 0, 0, 0)
        passing = tape.new(state, FLOAT)
        out = tape.new(v.elements, dtype)
        del passing
        return tape.attach(out, (q, k, v, g, beta), ())
    few = q.elements[3] // key if any(q.elements) else heads
    joined = hold(tape, ((q.elements, dtype), (k.elements, dtype)))  # contiguous copies
    kept = hold(
        tape,
        (
            (v.elements, dtype),
            (q.elements, dtype),
            (k.elements, dtype),
            (scaled(rows, few), FLOAT),
            (scaled(rows, few), FLOAT),
            (g.elements, FLOAT),
        ),
    )
    chunk = scaled(rows, heads * DELTA_CHUNK)
    matrix = tape.new(chunk, FLOAT)
    kept.append(tape.new(chunk, dtype))
    if wide_gate:
        kept.append(tape.new(chunk, dtype))
    del matrix
    keys, values = scaled(rows, heads * key), scaled(rows, heads * value)
    states = per_chunk(rows, heads * key * value, DELTA_CHUNK)
    again: Scratch = ((keys, dtype), (values, dtype), (states, dtype), (values, dtype))
    inner = hold(tape, again)
    if tape.mode.step == "prefill":
        final = tape.new((0, heads * key * value, 0, 0, 0, 0), FLOAT)
        inner.append(final)
    out = tape.new(values, dtype)
    del inner, joined
    back = (*again, (values, dtype), (states, dtype), *(((keys, dtype),) * 4), (g.elements, FLOAT), (g.elements, FLOAT))
    return tape.attach(out, (q, k, v, g, beta), (*kept, beta), backward_with(back))


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """The gated delta rule. [arXiv:2412.06464]

    key_heads, value_heads, key_dim, value_dim   q and k have key heads, v, gate and decay value heads
    kernel   length of the causal convolution over q, k and v
    fused    whether q, k, v and the output gate are one matrix, and beta and decay another (Qwen 3 Next)
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    fused: bool = False
    prefix: str = "linear_attn"
    precision: str = "float32"

    @property
    def keys(self) -> int:
        """Width of q, and of k."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of v, and of the output gate."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution."""
        return 2 * self.keys + self.values

    def tensors(self) -> tuple[Tensor, ...]:
        """in, convolution, decay, gated norm, out."""
        at, hidden, heads = self.prefix, self.hidden, self.value_heads
        wide = [("in_proj_qkv", self.channels), ("in_proj_z", self.values), ("in_proj_b", heads), ("in_proj_a", heads)]
        if self.fused:
            wide = [("in_proj_qkvz", self.channels + self.values), ("in_proj_ba", 2 * heads)]
        made = [
            _part(f"{at}.{name}", out, hidden, "ssm_in" if out > 2 * heads else "ssm_other", "ssm", self.key_heads)
            for name, out in wide
        ]
        made.append(_small(f"{at}.conv1d.weight", self.channels, 1, self.kernel, pieces=self.key_heads))
        made += [_small(f"{at}.{name}", heads, pieces=heads) for name in ("dt_bias", "A_log")]
        made.append(Tensor(f"{at}.norm.weight", (self.value_dim,), "norm", "norm"))
        made.append(_part(f"{at}.out_proj", hidden, self.values, "ssm_out", "ssm", self.key_heads))
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A key × value matrix a value head, and the last inputs of the convolution.

        >>> [state.elements for state in GatedDeltaNet(2048, 16, 32, 128, 128, 4).states()]
        [524288, 32768]
        """
        keys = ceil_div(self.key_heads, tensor) * self.key_dim
        values = ceil_div(self.value_heads, tensor) * self.value_dim
        return (
            recurrent(self.value_heads, self.key_dim, self.value_dim, self.precision, tensor),
            convolution(2 * keys + values, self.kernel),
        )

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the states before a decode step, which it overwrites in place."""
        return tuple(state_bytes(state, mode) for state in self.states())

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Qwen3_5GatedDeltaNet.forward and Qwen3NextGatedDeltaNet.forward."""
        rows, hidden, heads = tape.mode.queries, self.hidden, self.value_heads
        keys, values = scaled(rows, self.keys), scaled(rows, self.values)
        each = scaled(rows, heads)
        whole: Value | None = None
        if self.fused:
            whole = tape.linear(x, hidden, self.channels + self.values, module="in_proj_qkvz")
            pair = tape.linear(x, hidden, 2 * heads, module="in_proj_ba")
            q, k, v, z = tape.split(whole, keys, keys, values, values)
            b, a = tape.split(pair, each, each)
            v, z, b, a = tape.copy(v), tape.copy(z), tape.copy(b), tape.copy(a)
            q, k = tape.copy(q), tape.copy(k)
            mixed = tape.turn(tape.concatenate(q, k, v))
        else:
            mixed = tape.turn(tape.linear(x, hidden, self.channels, module="in_proj_qkv"))
            z = tape.linear(x, hidden, self.values, module="in_proj_z")
            b = tape.linear(x, hidden, heads, module="in_proj_b")
            a = tape.linear(x, hidden, heads, module="in_proj_a")
        store(tape, self.states()[1:])
        mixed = causal_convolution(tape, mixed, self.channels, self.kernel, bias=False)
        q, k, v = tape.split(mixed, keys, keys, values)
        beta = tape.unary_output(b)
        decay = tape.scale(tape.unary_output(tape.cast(tape.parameter(heads), FLOAT)))
        steps = tape.unary(tape.add(tape.cast(a, FLOAT), tape.parameter(heads)))
        g = tape.multiply(steps, decay)
        del steps
        out = delta_rule(tape, q, k, v, g, beta, heads, self.key_dim, self.value_dim, wide_gate=False)
        store(tape, self.states()[:1])
        out = norm_then_gate(tape, out, z, self.value_dim)
        del whole
        return tape.linear(out, self.values, hidden, module="out_proj")


def norm_then_gate(tape: Tape, x: Value, gate: Value, width: int) -> Value:
    """weight · norm(x), times silu(gate) in float32, in Python."""
    dtype = x.dtype
    x = normalized(tape, tape.cast(x, FLOAT), width, 1)
    x = tape.multiply(tape.cast(x, dtype), tape.parameter(width))
    x = tape.multiply(x, tape.unary(tape.cast(gate, FLOAT)))
    return tape.cast(x, dtype)


@dataclass(frozen=True, slots=True)
class KimiDeltaAttention:
    """The delta rule with a decay for every key dimension, made by a low-rank matrix. [arXiv:2510.26692]"""

    hidden: int
    heads: int
    head_dim: int
    kernel: int
    prefix: str = "self_attn"
    precision: str = "float32"

    @property
    def width(self) -> int:
        """Width of q, of k and of v."""
        return self.heads * self.head_dim

    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v, convolution, decay, beta, output gate, gated norm, out."""
        at, hidden, width, low = self.prefix, self.hidden, self.width, self.head_dim
        made = [
            _part(f"{at}.{name}", out, into, role, "attention", pieces)
            for name, out, into, role, pieces in (
                ("q_proj", width, hidden, "attn_q", self.heads),
                ("k_proj", width, hidden, "attn_k", self.heads),
                ("v_proj", width, hidden, "attn_v", self.heads),
                ("forget_gate.f_a_proj", low, hidden, "ssm_other", 1),
                ("forget_gate.f_b_proj", width, low, "ssm_other", self.heads),
                ("b_proj", self.heads, hidden, "ssm_other", self.heads),
                ("g_a_proj", low, hidden, "ssm_other", 1),
                ("g_b_proj", width, low, "ssm_other", self.heads),
                ("o_proj", hidden, width, "attn_output", self.heads),
            )
        ]
        made.append(_small(f"{at}.conv1d.weight", 3 * width, 1, self.kernel, pieces=self.heads))
        made.append(_small(f"{at}.forget_gate.dt_bias", width, pieces=self.heads))
        made.append(_small(f"{at}.forget_gate.A_log", 1, 1, self.heads, 1, pieces=self.heads))
        made.append(Tensor(f"{at}.o_norm.weight", (self.head_dim,), "norm", "norm"))
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A key × value matrix a head, and the last inputs of the convolution.

        >>> [state.elements for state in KimiDeltaAttention(2304, 32, 128, 4).states()]
        [524288, 49152]
        """
        width = ceil_div(self.heads, tensor) * self.head_dim
        return (
            recurrent(self.heads, self.head_dim, self.head_dim, self.precision, tensor),
            convolution(3 * width, self.kernel),
        )

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the states before a decode step, which it overwrites in place."""
        return tuple(state_bytes(state, mode) for state in self.states())

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' KimiLinearDeltaAttention.forward."""
        hidden, width, low = self.hidden, self.width, self.head_dim
        wide = scaled(tape.mode.queries, width)
        mixed = tape.turn(
            tape.concatenate(
                tape.linear(x, hidden, width, module="q_proj"),
                tape.linear(x, hidden, width, module="k_proj"),
                tape.linear(x, hidden, width, module="v_proj"),
            )
        )
        store(tape, self.states()[1:])
        mixed = causal_convolution(tape, mixed, 3 * width, self.kernel, bias=False)
        q, k, v = tape.split(mixed, wide, wide, wide)
        g = self._forget(tape, x)
        beta = tape.unary_output(tape.linear(x, hidden, self.heads, module="b_proj"))
        out = delta_rule(tape, q, k, v, g, beta, self.heads, low, low, wide_gate=True)
        store(tape, self.states()[:1])
        gate = tape.linear(tape.linear(x, hidden, low, module="g_a_proj"), low, width, module="g_b_proj")
        out = self._normed(tape, out, gate)
        return tape.linear(out, width, hidden, module="o_proj")

    def _forget(self, tape: Tape, x: Value) -> Value:
        low = tape.linear(x, self.hidden, self.head_dim, module="f_a_proj")
        low = tape.linear(low, self.head_dim, self.width, module="f_b_proj")
        g = tape.add(tape.cast(low, FLOAT), tape.cast(tape.parameter(self.width), FLOAT))
        rate = tape.unary_output(tape.cast(tape.parameter(self.heads), FLOAT))
        condition = tape.new(g.elements, "bool")
        soft = tape.unary(tape.shift(tape.unary_output(g)))  # log(1 + exp(g))
        chosen = tape.operate(g.elements, FLOAT, (g, soft), (condition,))
        del condition, soft
        return tape.multiply(chosen, tape.scale(rate))

    def _normed(self, tape: Tape, x: Value, gate: Value) -> Value:
        dtype = x.dtype
        x = normalized(tape, tape.cast(x, FLOAT), self.head_dim, 1)
        x = tape.multiply(x, tape.cast(tape.parameter(self.head_dim), FLOAT))
        x = tape.multiply(x, tape.unary_output(tape.cast(gate, FLOAT)))
        return tape.cast(x, dtype)


@dataclass(frozen=True, slots=True)
class LightningAttention:
    """Linear attention with a fixed decay a head, computed in blocks. [arXiv:2501.08313]

    norm   over the full width of the heads, before the output gate
    block  tokens of a block
    """

    hidden: int
    heads: int
    head_dim: int
    norm: Norm
    block: int = 256
    activation: str = "silu"
    prefix: str = "self_attn"
    precision: str = "activations"

    @property
    def width(self) -> int:
        """Width of q, of k, of v and of the gate."""
        return self.heads * self.head_dim

    def tensors(self) -> tuple[Tensor, ...]:
        """q, k and v in one, out, the output gate, the norm."""
        at, hidden, width, heads = self.prefix, self.hidden, self.width, self.heads
        norm = [
            Tensor(f"{at}.{tensor.name}", tensor.shape, "norm", "norm", cut=Cut.TENSOR, pieces=heads)
            for tensor in self.norm.tensors()
        ]
        return (
            _part(f"{at}.qkv_proj", 3 * width, hidden, "attn_qkv", "attention", heads),
            _part(f"{at}.out_proj", hidden, width, "attn_output", "attention", heads),
            _part(f"{at}.output_gate", width, hidden, "attn_q", "attention", heads),
            *norm,
        )

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A key × value matrix a head.

        >>> from .norms import RMSNorm
        >>> LightningAttention(6144, 64, 128, RMSNorm(8192)).states()[0].elements
        1048576
        """
        return (recurrent(self.heads, self.head_dim, self.head_dim, self.precision, tensor),)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the state before a decode step."""
        return tuple(state_bytes(state, mode) for state in self.states())

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MiniMaxLightningAttention.forward. Its loop over blocks is
        written as one block of all tokens: what every block keeps is kept, what one needs for a moment counts for all.
        """
        rows, hidden, width = tape.mode.queries, self.hidden, self.width
        wide = scaled(rows, width)
        joined = tape.unary(tape.linear(x, hidden, 3 * width, module="qkv_proj"))
        q, k, v = tape.split(joined, wide, wide, wide)
        state: Size = (0, self.heads * self.head_dim**2, 0, 0, 0, 0)
        if tape.mode.step == "decode":
            new = tape.matmul(tape.turn(k), tape.turn(v), state)
            whole = tape.add(tape.new(state, new.dtype), new)
            if tape.cached:
                tape.cached.pop(0)
            keep(tape, whole)
            out = tape.matmul(tape.turn(q), whole, wide)
        else:
            out = self._blocks(tape, q, k, v)
        out = tape.concatenate(out)
        out = tape.copy(tape.turn(out))
        out = self.norm.forward(tape, out)
        gate = tape.unary_output(tape.linear(x, hidden, width, module="output_gate"))
        out = tape.multiply(gate, out)
        return tape.linear(out, width, hidden, module="out_proj")

    def _blocks(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        rows = tape.mode.queries
        scores = scaled(rows, self.heads * self.block)
        states = per_chunk(rows, self.heads * self.head_dim**2, self.block)
        weights = tape.scale(tape.matmul(q, k, scores))
        inside = tape.matmul(weights, v, v.elements)
        del weights
        before = tape.scale(tape.matmul(tape.scale(k), v, states))
        between = tape.matmul(tape.scale(q), before, v.elements)
        if tape.mode.step == "prefill":
            keep(tape, tape.new((0, self.heads * self.head_dim**2, 0, 0, 0, 0), activations(tape.mode)))
        return tape.add(between, inside)


@dataclass(frozen=True, slots=True)
class PlainLatentAttention(LatentAttention):
    """Latent attention without positions: the dimensions that others rotate stay as they are (Kimi Linear)."""

    def rotate(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """Both as they are."""
        return q, k


@dataclass(frozen=True, slots=True)
class WeighedBlock(Block):
    """Sums of constant multiples, of what the norms give instead of what they get: a · norm(x) + b · part(norm(x))."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MiniMaxDecoderLayer.forward."""
        for norm, part in zip(self.norms, (self.mixer, self.feed_forward), strict=True):
            assert part is not None
            x = norm.forward(tape, x)
            residual = x
            x = part.forward(tape, x)
            x = tape.add(tape.scale(residual), tape.scale(x))
        return x


__all__ = ["WIDTH", "GatedAttention", "GatedDeltaNet", "KimiDeltaAttention", "LightningAttention", "delta_rule"]
