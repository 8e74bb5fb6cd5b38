"""Grouped attention of families with experts that picks keys, weighs heads, or has values narrower than keys."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, LONG, WIDTH, Mode, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .attention import (
    Attention,
    _repeated,
    attend,
    divided,
    joined_to_cache,
    keep,
    kept_rows,
    remember,
    rotated,
)
from .latent import subtract
from .norms import GemmaRMSNorm
from .sinks import largest, sunk


@dataclass(frozen=True, slots=True)
class HeadGatedAttention(Attention):
    """A sigmoid of one figure for each head and token weighs what the heads give. [Step 3.5]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate's matrix."""
        shape = (self.heads, self.hidden)
        gate = Tensor(f"{self.prefix}.g_proj.weight", shape, "attention", "other", True, Cut.TENSOR, self.heads)
        return (*super(HeadGatedAttention, self).tensors(), gate)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """Joined from the rotated and the passing part, even where nothing passes."""
        width = self.rotary_dim or self.head_dim
        part = scaled(divided(x.elements, self.head_dim), width)
        rest = scaled(divided(x.elements, self.head_dim), self.head_dim - width)
        turning, passing = tape.slice(x, part), tape.slice(x, rest)
        return tape.concatenate(rotated(tape, turning, *(tape.shared[name] for name in self.tables)), passing)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Step3p7Attention.forward."""
        q, k, v = self.project(tape, x)
        gate = tape.linear(x, self.hidden, self.heads, False, "g_proj")
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.multiply(y, tape.unary_output(gate))
        result = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q, k, v, gate, y
        return result


@dataclass(frozen=True, slots=True)
class UnevenAttention(Attention):
    """Values narrower than keys and multiplied by a constant; sinks in some layers; Python alone. [MiMo-V2-Flash]

    value_dim   dimensions of a head's value
    """

    value_dim: int = 128

    @property
    def value_width(self) -> int:
        """Elements of all values of a token."""
        return self.kv_heads * self.value_dim

    def tensors(self) -> tuple[Tensor, ...]:
        """Four matrices and the sinks."""
        out = self.heads * self.value_dim
        made = [
            *self._matrix("q_proj", self.query_width, self.hidden, "attn_q", self.bias, self.heads),
            *self._matrix("k_proj", self.key_width, self.hidden, "attn_k", self.bias, self.kv_heads),
            *self._matrix("v_proj", self.value_width, self.hidden, "attn_v", self.bias, self.kv_heads),
            *self._matrix("o_proj", self.hidden, out, "attn_output", False, self.heads, row=True),
        ]
        if self.sinks:
            made.append(Tensor(f"{self.prefix}.sinks", (self.heads,), "attention", "other"))
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """A key and a narrower value for every kept token."""
        kept = min(tokens, self.window or tokens)
        return kept * -(-self.kv_heads // tensor) * (self.head_dim + self.value_dim)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of both storages before a decode step."""
        keys, _ = super(UnevenAttention, self).held(mode)
        a, b, c, d, e, f = keys
        key, value = self.head_dim, self.value_dim
        return keys, (
            a * value // key,
            b * value // key,
            c * value // key,
            d * value // key,
            e * value // key,
            f * value // key,
        )

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MiMoV2FlashAttention.forward."""
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, "q_proj"))
        k = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, "k_proj"))
        v = tape.scale(tape.turn(tape.linear(x, self.hidden, self.value_width, self.bias, "v_proj")))
        q, k = self.rotate_both(tape, q, k)
        k, v = self._remember(tape, k, v)
        y = self._attend(tape, q, k, v)
        result = tape.linear(y, self.heads * self.value_dim, self.hidden, False, "o_proj")
        del q, k, v, y
        return result

    def _remember(self, tape: Tape, k: Value, v: Value) -> tuple[Value, Value]:
        mode = tape.mode
        if mode.training:
            return k, v
        if mode.step == "decode":
            rows = kept_rows(mode.exceeded, self.window)
            spare = list(tape.cached) if self.window is not None else []
            k = joined_to_cache(tape, k, rows, self.key_width)
            v = joined_to_cache(tape, v, rows, self.value_width)
            del spare
            return k, v
        k, v = tape.operate(k.elements, k.dtype, (k,)), tape.operate(v.elements, v.dtype, (v,))
        keep(tape, k)
        keep(tape, v)
        return k, v

    def _attend(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        mode, groups = tape.mode, self.heads // self.kv_heads
        key, value = _repeated(tape, k, groups, self), _repeated(tape, v, groups, self)
        weights = tape.scale(tape.matmul(q, key, scaled(mode.scores, self.heads)))
        size = weights.elements
        mask = tape.shared.get("mask" if self.window is None else "window_mask")
        if mask is not None:
            weights = tape.add(weights, mask)
        sink = None
        if self.sinks:
            sink = sunk(tape, scaled(mode.queries, self.heads), self.heads)
            weights = tape.concatenate(weights, sink)
        weights = subtract(tape, weights, largest(tape, weights, self.heads))
        chances = tape.unary_output(weights)
        if self.sinks:
            chances = tape.slice(chances, size, dense=True)
        weights = tape.cast(chances, value.dtype)
        tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
        out = tape.matmul(weights, value, scaled(mode.queries, self.heads * self.value_dim))
        result = tape.copy(tape.turn(out))
        del key, value, weights, sink, chances, out
        return result


@dataclass(frozen=True, slots=True)
class BlockPickingAttention(Attention):
    """Grouped attention over the blocks of keys that an indexer picks for each group of heads. [MiniMax M3]

    index_heads, index_dim   the indexer's heads and their width; its one key a token is cached too
    block    keys of a block
    most     blocks it picks for a query

    transformers scores every key in float32 and turns the choice into one additive mask for every head.
    """

    index_heads: int = 4
    index_dim: int = 128
    block: int = 128
    most: int = 16

    def tensors(self) -> tuple[Tensor, ...]:
        """And the indexer's two matrices and norms."""
        path, wide = f"{self.prefix}.indexer", self.index_heads * self.index_dim
        return (
            *super(BlockPickingAttention, self).tensors(),
            Tensor(f"{path}.q_proj.weight", (wide, self.hidden), "attention", "attn_q", True),
            Tensor(f"{path}.k_proj.weight", (self.index_dim, self.hidden), "attention", "attn_k", True),
            Tensor(f"{path}.q_norm.weight", (self.index_dim,), "norm", "norm"),
            Tensor(f"{path}.k_norm.weight", (self.index_dim,), "norm", "norm"),
        )

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """And the indexer's key of every token."""
        return super(BlockPickingAttention, self).cache(tokens, tensor) + tokens * self.index_dim

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """And the indexer's keys."""
        width = self.index_dim * WIDTH[HALF if mode.autocast else mode.weights]
        return (*super(BlockPickingAttention, self).held(mode), (0, -width, 0, width, 0, 0))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MiniMaxM3VLAttention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        picked = self.pick(tape, x)
        mask = self.mask(tape)
        y = self._attend(tape, q, k, v, mask)
        result = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q, k, v, picked, mask, y
        return result

    def pick(self, tape: Tape, x: Value) -> Value:
        """Numbers of the picked blocks. What the way there records goes with it."""
        mode, rows, heads, wide = tape.mode, tape.mode.queries, self.index_heads, self.index_dim
        q = tape.linear(x, self.hidden, heads * wide, False, "q_proj")
        q = tape.turn(GemmaRMSNorm(wide).forward(tape, q, heads))
        k = tape.linear(x, self.hidden, wide, False, "k_proj")
        k = tape.turn(GemmaRMSNorm(wide).forward(tape, k, 1))
        q, k = self._turned(tape, q), self._turned(tape, k)
        if mode.step == "decode":
            k = joined_to_cache(tape, k, kept_rows(mode.exceeded, None), wide)
        elif not mode.training:
            k = tape.operate(k.elements, k.dtype, (k,))
            keep(tape, k)
        scores = self._scores(tape, q, k)
        future = tape.new(mode.scores, BOOL)
        scores = tape.operate(scores.elements, scores.dtype, (scores,), (future,), as_inputs)
        picked = tape.new(scaled(rows, heads * self.most), LONG)
        del q, k, scores, future
        return picked

    def _turned(self, tape: Tape, x: Value) -> Value:
        turning = Attention(self.hidden, self.heads, self.kv_heads, self.index_dim, rotary_dim=self.rotary_dim)
        return turning.rotate(tape, x)

    def _scores(self, tape: Tape, q: Value, k: Value) -> Value:
        wide_q, wide_k = tape.cast(q, FLOAT), tape.cast(k, FLOAT)
        copied = tape.repeat(wide_k, self.index_heads)
        return tape.matmul(wide_q, copied, scaled(tape.mode.scores, self.index_heads))

    def mask(self, tape: Tape) -> Value:
        """The choice as one additive mask for every head."""
        size = scaled(tape.mode.scores, self.heads)
        blocks = tape.new(scaled(tape.mode.scores, self.index_heads), BOOL)
        chosen = tape.new(size, BOOL)
        del blocks
        future = tape.new(tape.mode.scores, BOOL)
        both = tape.new(size, BOOL)
        zeros = tape.new(size, tape.mode.hidden)
        inverse = tape.new(size, BOOL)
        mask = tape.new(size, tape.mode.hidden)
        del chosen, future, both, zeros, inverse
        return mask

    def _attend(self, tape: Tape, q: Value, k: Value, v: Value, mask: Value) -> Value:
        mode, groups = tape.mode, self.heads // self.kv_heads
        if mode.step != "decode" or mode.attention == "eager":  # else the heads of a group become positions: a view
            k, v = _repeated(tape, k, groups, self), _repeated(tape, v, groups, self)
        if mode.attention == "eager":
            weights = tape.scale(tape.matmul(q, k, scaled(mode.scores, self.heads)))
            weights = tape.add(weights, mask)
            weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
            tape.lingering.append(weights)
            return tape.copy(tape.turn(tape.matmul(weights, v, q.elements)))
        if mode.autocast:
            q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
            mask = tape.cast(mask, HALF)
        out = tape.new(q.elements, q.dtype)
        saved = [q, k, v, mask, out]
        if tape.recording:
            saved.append(tape.new(scaled(mode.queries, self.heads), FLOAT))
        return tape.attach(out, (q, k, v), saved)
