"""Attention over keys and values: multi-head, grouped and multi-query, with every variant of norms, windows and
rotary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import BOOL, FLOAT, HALF, WIDTH, Mode, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from ..units import round_up
from .norms import Norm

MIB_FLASH_HEAD = 256  # the widest head that flash attention takes


@dataclass(frozen=True, slots=True)
class Projections:
    """The module names of a family's attention. `fused` replaces q, k and v by one matrix."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    fused: str | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention with a key and a value for every kept token. [arXiv:2305.13245]

    hidden, heads, kv_heads, head_dim   sizes
    bias, output_bias   on the q, k, v matrices; on the output matrix
    query_norm, key_norm   norms over each head, or over the full width when `norm_full`
    rotary_dim   dimensions of a head that are rotated (head_dim: all; 0: none)
    window       tokens a query looks back, None for all (a sliding or chunked window)
    softcap      whether scores are capped by tanh
    sinks        whether each head has a learned sink
    gated        whether q carries an output gate of its own width
    dropout      rate on the attention weights while training
    keys_are_values   whether keys serve as values (no v matrix)
    shared       whether keys and values are those of an earlier layer: no k and v matrices, no cache
    causal       False in encoders
    turned_norms whether q and k are normed as heads before positions, once v is there too
    tables       names of the rotary tables it turns by
    turned_type  whether what is rotated goes back to the dtype it had (tables in float32)
    low_softmax  whether the softmax runs in the dtype of the scores (GPT-2)
    output_dropout   rate on what the output matrix gives, while training
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    output_bias: bool = False
    names: Projections = Projections()
    prefix: str = "self_attn"
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_full: bool = False
    rotary_dim: int | None = None
    window: int | None = None
    softcap: bool = False
    sinks: bool = False
    gated: bool = False
    dropout: float = 0.0
    keys_are_values: bool = False
    shared: bool = False
    causal: bool = True
    value_norm: Norm | None = None
    turned_norms: bool = False
    tables: tuple[str, str] = ("cos", "sin")
    turned_type: bool = False
    output_dropout: float = 0.0
    low_softmax: bool = False

    # ------------------------------------------------------------------ what it stores

    @property
    def query_width(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Elements of all keys of a token."""
        return self.kv_heads * self.head_dim

    @property
    def cached_width(self) -> int:
        """Elements of a token's keys as transformers caches them."""
        return self.key_width

    def tensors(self) -> tuple[Tensor, ...]:
        """The four matrices (three of them perhaps fused), their biases, the norms of q and k, the sinks."""
        query = self.query_width * (2 if self.gated else 1)
        made: list[Tensor] = []
        names = self.names
        if names.fused:
            wide = query + self.key_width * (1 if self.keys_are_values else 2)
            made += self._matrix(names.fused, wide, self.hidden, "attn_qkv", self.bias, self.heads)
        else:
            made += self._matrix(names.query, query, self.hidden, "attn_q", self.bias, self.heads)
            if not self.shared:
                made += self._matrix(names.key, self.key_width, self.hidden, "attn_k", self.bias, self.kv_heads)
                if not self.keys_are_values:
                    made += self._matrix(names.value, self.key_width, self.hidden, "attn_v", self.bias, self.kv_heads)
        made += self._matrix(
            names.output, self.hidden, self.query_width, "attn_output", self.output_bias, self.heads, row=True
        )
        if self.sinks:
            made.append(Tensor(f"{self.prefix}.sinks", (self.heads,), "attention", "other"))
        for norm in (self.query_norm, None if self.shared else self.key_norm):
            if norm is not None:
                made += [_inside(self.prefix, tensor) for tensor in norm.tensors()]
        return tuple(made)

    def _matrix(
        self, name: str, out: int, into: int, role: str, bias: bool, pieces: int, row: bool = False
    ) -> list[Tensor]:
        path = f"{self.prefix}.{name}"
        made = [Tensor(f"{path}.weight", (out, into), "attention", role, True, Cut.TENSOR, pieces)]
        if bias:
            cut = Cut.NONE if row else Cut.TENSOR
            made.append(Tensor(f"{path}.bias", (out,), "attention", "bias", False, cut, pieces))
        return made

    # ------------------------------------------------------------------ what it keeps between steps

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements of a key and a value for every kept token. A head is never divided over GPUs. [arXiv:2305.13245]

        >>> Attention(4096, heads=32, kv_heads=8, head_dim=128).cache(1)
        2048
        """
        if self.shared or not self.causal:
            return 0
        kept = min(tokens, self.window or tokens)
        return 2 * kept * -(-self.kv_heads // tensor) * self.head_dim

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length: none."""
        return 0

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the two storages that transformers' cache holds before a decode step: one token less than after it.

        Right after a prefill a sliding layer still holds the whole prompt: its cache is a view.
        """
        if self.shared or not self.causal:
            return ()
        width = self.cached_width * WIDTH[HALF if mode.autocast else mode.weights]
        if not mode.fresh and self.window is not None and self.window in mode.exceeded:
            size: Size = (0, (self.window - 1) * width, 0, 0, 0, 0)
        else:
            size = (0, -width, 0, width, 0, 0)
        return (size, size)

    # ------------------------------------------------------------------ its forward pass

    def forward(self, tape: Tape, x: Value) -> Value:
        """x: the hidden states. Returns as much."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        return tape.dropout(y, self.output_dropout)

    def project(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Queries, keys and values, heads before positions."""
        wide, narrow = self.query_width, self.key_width
        rows = tape.mode.queries
        if self.names.fused:
            joined = tape.linear(x, self.hidden, wide + 2 * narrow, self.bias, self.names.fused)
            q, k, v = tape.split(joined, scaled(rows, wide), scaled(rows, narrow), scaled(rows, narrow))
            return q, k, v
        q = tape.linear(x, self.hidden, wide, self.bias, self.names.query)
        if self.turned_norms and self.query_norm is not None and self.key_norm is not None:
            q, k = tape.turn(q), tape.turn(tape.linear(x, self.hidden, narrow, self.bias, self.names.key))
            v = tape.turn(tape.linear(x, self.hidden, narrow, self.bias, self.names.value))
            q = self.query_norm.forward(tape, q, self.heads)
            return q, self.key_norm.forward(tape, k, self.kv_heads), v
        if self.query_norm is not None:
            q = self.query_norm.forward(tape, q, 1 if self.norm_full else self.heads)
        q = tape.turn(q)
        k = tape.linear(x, self.hidden, narrow, self.bias, self.names.key)
        if self.key_norm is not None:
            k = self.key_norm.forward(tape, k, 1 if self.norm_full else self.kv_heads)
        k = tape.turn(k)
        v = tape.turn(tape.linear(x, self.hidden, narrow, self.bias, self.names.value))
        return q, k, v

    def rotate_both(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """transformers' apply_rotary_pos_emb: q and k stay until both are turned."""
        dtype = q.dtype
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        return (tape.cast(q, dtype), tape.cast(k, dtype)) if self.turned_type else (q, k)

    def rotate(self, tape: Tape, x: Value) -> Value:
        """x · cos + rotate_half(x) · sin, on all dimensions of a head or the first `rotary_dim`."""
        if self.rotary_dim == 0:
            return x
        cos, sin = (tape.shared[name] for name in self.tables)
        if self.rotary_dim is None or self.rotary_dim == self.head_dim:
            return rotated(tape, x, cos, sin)
        part = scaled(divided(x.elements, self.head_dim), self.rotary_dim)
        rest = scaled(divided(x.elements, self.head_dim), self.head_dim - self.rotary_dim)
        turning, passing = tape.slice(x, part), tape.slice(x, rest)
        return tape.concatenate(rotated(tape, turning, cos, sin), passing)


def rotated(tape: Tape, x: Value, cos: Value, sin: Value) -> Value:
    """(x · cos) + (rotate_half(x) · sin), as transformers' apply_rotary_pos_emb."""
    if tape.mode.kernels == "liger":  # one kernel, in place, that saves only the tables
        return tape.attach(tape.view(x, dense=x.dense), (x,), (cos, sin))
    return tape.add(tape.multiply(x, cos), tape.multiply(_half_turned(tape, x), sin))


def _half_turned(tape: Tape, x: Value) -> Value:
    half = divided(x.elements, 2)
    first, second = tape.slice(x, half), tape.slice(x, half)
    return tape.concatenate(tape.scale(second), first)


def divided(size: Size, by: int) -> Size:
    """A size over an integer."""
    a, b, c, d, e, f = size
    return (a // by, b // by, c // by, d // by, e // by, f // by)


def _inside(prefix: str, tensor: Tensor) -> Tensor:
    return replace(tensor, name=f"{prefix}.{tensor.name}")


def remember(tape: Tape, k: Value, v: Value, layer: Attention) -> tuple[Value, Value]:
    """What transformers' DynamicCache does: joins old and new by a copy, and keeps the result.

    A sliding layer keeps a view of the last tokens, so after a prefill its storage is still the whole prompt's.
    """
    mode = tape.mode
    if mode.training or not layer.causal:
        return k, v
    if mode.step == "decode":
        rows = kept_rows(mode.exceeded, layer.window)
        spare = list(tape.cached) if layer.window is not None else []  # a sliding layer drops both when both are joined
        width = layer.cached_width
        k, v = joined_to_cache(tape, k, rows, width), joined_to_cache(tape, v, rows, width)
        del spare
    else:
        k, v = tape.operate(k.elements, k.dtype, (k,)), tape.operate(v.elements, v.dtype, (v,))
        keep(tape, k)
        keep(tape, v)
    return k, v


def keep(tape: Tape, value: Value) -> None:
    """Hold a storage for the next step."""
    if value.storage is not None:
        tape.cached.append(value.storage)


def kept_rows(exceeded: frozenset[int], window: int | None) -> Size:
    """Tokens of the cache in a decode step: b·window once a sequence is as long as the window, else b·s."""
    if window is not None and window in exceeded:
        return (0, window, 0, 0, 0, 0)
    return (0, 0, 0, 1, 0, 0)


def joined_to_cache(tape: Tape, new: Value, rows: Size, width: int) -> Value:
    """The old storage (first in `tape.cached`) is dropped once the copy with the new token stands."""
    whole = tape.operate(scaled(rows, width), new.dtype, (new,))
    if tape.cached:
        tape.cached.pop(0)
    keep(tape, whole)
    return whole


def attend(tape: Tape, q: Value, k: Value, v: Value, layer: Attention) -> Value:
    """softmax(q·kᵀ)·v by the kernel that torch would pick; the result has positions before heads."""
    if tape.mode.attention == "eager" or layer.sinks:
        return eager(tape, q, k, v, layer)
    return scaled_dot_product(tape, q, k, v, layer)


def eager(tape: Tape, q: Value, k: Value, v: Value, layer: Attention) -> Value:
    """The Python attention of transformers: repeated heads, scores, a float32 softmax, and its 16-bit copy."""
    groups = layer.heads // layer.kv_heads
    key, value = _repeated(tape, k, groups, layer), _repeated(tape, v, groups, layer)
    weights = tape.scale(tape.matmul(q, key, score_entries(tape.mode, layer)))
    if layer.softcap:
        weights = tape.scale(weights)
        weights = tape.unary_output(weights)
        weights = tape.scale(weights)
    mask = tape.shared.get(mask_of(layer.window))
    if mask is not None:
        weights = tape.add(weights, mask)
    if layer.low_softmax:
        weights = tape.softmax(weights)
        weights = tape.cast(weights, v.dtype)
    else:
        weights = tape.cast(tape.softmax(tape.cast(weights, FLOAT)), q.dtype)
    weights = tape.dropout(weights, layer.dropout)
    tape.lingering.append(weights)  # handed back to the decoder layer, whose local variable holds them
    out = tape.matmul(weights, value, q.elements)
    return tape.copy(tape.turn(out))


def mask_of(window: int | None) -> str:
    """Which of the model's masks a layer is handed."""
    return "mask" if window is None else "window_mask"


def score_entries(mode: Mode, layer: Attention) -> Size:
    """Entries of the scores of all heads: in a decode step one row over the tokens that are kept."""
    rows = kept_rows(mode.exceeded, layer.window) if mode.step == "decode" else mode.scores
    return scaled(rows, layer.heads)


def _repeated(tape: Tape, x: Value, times: int, layer: Attention) -> Value:
    if times == 1 or layer.kv_heads == 1:  # one head is repeated by a view
        return tape.expand(x, times) if times > 1 else x
    return tape.repeat(x, times)


def scaled_dot_product(tape: Tape, q: Value, k: Value, v: Value, layer: Attention) -> Value:
    """torch's scaled_dot_product_attention on a GPU of compute capability 8.0 or later: flash, efficient or math.

    A window that the sequence exceeds needs a mask: flash takes none, and grouped heads are then repeated.
    """
    mode = tape.mode
    masked = layer.window is not None and layer.window in mode.exceeded and mode.attention == "sdpa"
    if masked:
        tape.shared.get(mask_of(layer.window))
    groups = layer.heads // layer.kv_heads
    grouped = groups > 1
    if masked and mode.step == "decode":
        grouped = False  # the heads of a group become positions: a view
    if grouped and masked:
        k, v = _repeated(tape, k, groups, layer), _repeated(tape, v, groups, layer)
        grouped = False
    if mode.autocast or mode.attention == "flash":  # flash attention has 16-bit kernels only
        q, k, v = tape.cast(q, HALF), tape.cast(k, HALF), tape.cast(v, HALF)
    if q.dtype == HALF and not masked and layer.head_dim <= MIB_FLASH_HEAD:
        out = flash(tape, q, k, v, layer)
    elif not grouped:
        out = efficient(tape, q, k, v, layer, masked)
    else:
        out = math(tape, q, k, v, layer, masked)
    return tape.copy(tape.turn(out, dense=not out.dense))


def flash(tape: Tape, q: Value, k: Value, v: Value, layer: Attention) -> Value:
    """Flash attention: saves q, k, v, its output and one float32 figure a head and query. [arXiv:2307.08691]

    Heads whose width is no multiple of 8 are padded by a copy. torch's output follows the layout of q, that of the
    flash-attn package has positions before heads.
    """
    whole = q.elements
    narrow = layer.head_dim % 8 != 0
    if narrow:
        q, k, v = (_padded(tape, each, layer.head_dim) for each in (q, k, v))
    out = tape.new(q.elements, q.dtype)
    out.dense = q.dense and tape.mode.attention == "sdpa"
    figures = tape.new(scaled(tape.mode.queries, layer.heads), FLOAT)
    tape.keep(out, figures)
    out = tape.attach(out, (q, k, v), (q, k, v, out, figures))
    return tape.slice(out, whole, dense=True) if narrow else out


def _padded(tape: Tape, x: Value, head_dim: int) -> Value:
    return tape.gather(x, scaled(divided(x.elements, head_dim), round_up(head_dim, 8)))


def efficient(tape: Tape, q: Value, k: Value, v: Value, layer: Attention, masked: bool) -> Value:
    """Memory-efficient attention: as flash, and a 16-bit copy of the mask for every layer. [arXiv:2112.05682]"""
    saved = [q, k, v]
    if masked:
        saved.append(tape.new(tape.mode.scores, q.dtype))
    out = tape.new(q.elements, q.dtype)
    out.dense = False
    saved.append(out)
    if tape.recording:
        saved.append(tape.new(scaled(tape.mode.queries, layer.heads), FLOAT))
    tape.keep(*saved[-2:])
    return tape.attach(out, (q, k, v), saved)


def math(
    tape: Tape, q: Value, k: Value, v: Value, layer: Attention, masked: bool, one_head: bool = False
) -> Value:
    """The fallback in plain operators, in float32: repeated heads and whole score matrices.

    masked: a mask of truth values comes in, instead of one made here; one_head: the product repeats a single head.
    """
    mode, dtype = tape.mode, q.dtype
    q, k, v = tape.cast(q, FLOAT), tape.cast(k, FLOAT), tape.cast(v, FLOAT)
    groups = layer.heads // layer.kv_heads
    if groups > 1 and not one_head:
        k, v = tape.repeat(k, groups), tape.repeat(v, groups)
    q = tape.scale(q)
    mask = None
    if masked:
        mask = tape.new(mode.scores, FLOAT)
    elif mode.step != "decode":
        mask = tape.new(mode.mask, BOOL)
        mask = tape.new(mode.mask, FLOAT)
    small = tape.scale(k)
    weights = tape.matmul(q, tape.expand(small, groups) if one_head else small, score_entries(mode, layer), inside=True)
    del small
    weights = tape.unary_output(weights)
    weights = tape.dropout(weights, layer.dropout)
    v = tape.expand(v, groups) if one_head else v
    out = tape.cast(tape.matmul(weights, v, q.elements, inside=True), dtype)
    del mask  # it stays until the result is there
    return out
