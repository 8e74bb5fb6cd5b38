"""Falcon's attention and decoder layer, as transformers runs them: always a mask, key-value heads repeated early."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, Tape, Value, scaled
from .attention import Attention, efficient, flash, math, remember, rotated, score_entries
from .blocks import Block


@dataclass(frozen=True, slots=True)
class FalconAttention(Attention):
    """One matrix for q, k and v. [arXiv:2311.16867]

    grouped   the plan of 40B and 180B: k and v are repeated to all heads before they are cached, so transformers keeps
              a key and a value a head; `cache` counts the few that engines keep
    alibi     distances are added to the scores instead of a rotation [arXiv:2108.12409]
    A single key-value head (7B) is not repeated, and neither flash nor efficient attention takes it beside a mask:
    torch falls back to plain operators in float32.
    """

    grouped: bool = False
    alibi: bool = False

    @property
    def cached_width(self) -> int:
        """Elements of a token's keys as transformers caches them."""
        return self.query_width if self.grouped else self.key_width

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' FalconAttention.forward."""
        into = x
        width = self.query_width + 2 * self.key_width
        joined = tape.linear(x, self.hidden, width, self.bias, self.names.fused or "", plain=True)
        q, k, v = self._split(tape, joined)
        if not self.alibi:
            q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        eager = tape.mode.attention == "eager"
        y = self._plain(tape, q, k, v, into.dtype) if eager else self._kernel(tape, q, k, v)
        y = tape.copy(tape.turn(y, dense=not y.dense))
        return tape.linear(y, self.query_width, self.hidden, self.bias, self.names.output, plain=True)

    def _split(self, tape: Tape, joined: Value) -> tuple[Value, Value, Value]:
        rows = tape.mode.queries
        wide, narrow = scaled(rows, self.query_width), scaled(rows, self.key_width)
        if self.heads == self.kv_heads and not self.grouped:
            return tape.slice(joined, wide), tape.slice(joined, wide), tape.slice(joined, wide)
        q, k, v = tape.slice(joined, wide), tape.gather(joined, narrow), tape.gather(joined, narrow)
        if not self.grouped:
            return q, k, v
        groups = self.heads // self.kv_heads
        q = tape.copy(q) if self.kv_heads > 1 else q
        k = tape.copy(tape.expand(k, groups)) if groups > 1 else k
        v = tape.copy(tape.expand(v, groups)) if groups > 1 else v
        return tape.turn(q), tape.turn(k), tape.turn(v)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """All dimensions of a head."""
        cos, sin = (tape.shared[name] for name in self.tables)
        return rotated(tape, x, cos, sin)

    def _kernel(self, tape: Tape, q: Value, k: Value, v: Value) -> Value:
        mode = tape.mode
        mask = tape.shared.get("bias" if self.alibi else "mask")
        if mode.autocast:
            q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
        if mode.attention != "sdpa":
            return flash(tape, q, k, v, self)
        if self.heads != self.kv_heads and not self.grouped:
            return math(tape, q, k, v, self, masked=True, one_head=True)
        if not self.alibi or mask is None:
            return efficient(tape, q, k, v, self, masked=True)
        mask = tape.cast(mask, q.dtype)  # distances are floating point: taken as they are, and kept
        out = tape.new(q.elements, q.dtype)
        out.dense = False
        figures = [tape.new(scaled(mode.queries, self.heads), FLOAT)] if tape.recording else []
        return tape.attach(out, (q, k, v), (q, k, v, mask, out, *figures))

    def _plain(self, tape: Tape, q: Value, k: Value, v: Value, hidden: str) -> Value:
        """Scores, a softmax in the dtype of the hidden states, and the product with the values."""
        groups = 1 if self.grouped else self.heads // self.kv_heads
        product = tape.matmul(q, tape.expand(k, groups) if groups > 1 else k, score_entries(tape.mode, self))
        raised = scored = None
        if self.alibi:
            raised = tape.cast(product, FLOAT)
            scored = tape.shift(raised)
        masked = tape.add(scored or product, tape.shared["bias" if self.alibi else "mask"])
        weights = tape.softmax(tape.cast(masked, hidden))
        del masked
        if self.alibi:
            weights = tape.dropout(weights, self.dropout)
        else:
            del product  # its variable gets the softmax
        tape.lingering.append(weights)
        made = tape.matmul(weights, tape.expand(v, groups) if groups > 1 else v, q.elements)
        del raised, scored
        return made


@dataclass(frozen=True, slots=True)
class FalconBlock(Block):
    """Attention and feed-forward side by side on one norm or two, or one after the other.

    The layer's variables, and the model's loop, hold the attention's weights until the next layer is through.
    """

    parallel: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' FalconDecoderLayer.forward."""
        residual = x
        normed = self.norms[0].forward(tape, x)
        second = self.norms[1].forward(tape, x) if self.parallel and len(self.norms) == 2 else None
        attended = self.mixer.forward(tape, normed)  # type: ignore[union-attr]
        if self.parallel:
            second = normed if second is None else second
        else:
            attended = tape.dropout(attended, self.mixer.dropout)  # type: ignore[union-attr]
            residual = tape.add(residual, attended)
            second = self.norms[1].forward(tape, residual)
        made = self.feed_forward.forward(tape, second)  # type: ignore[union-attr]
        if self.parallel:
            made = tape.add_into(made, attended)
        return tape.add(residual, made)

