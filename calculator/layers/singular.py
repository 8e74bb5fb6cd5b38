"""Layers that one family alone has: OLMo Hybrid, Ling 3, DiffLlama, ModernBERT's decoder, JetMoE, LongCat, LFM 3."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..tape import FLOAT, INT, LONG, Mode, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, divided, remember
from .blocks import Block
from .ends import Embedding, Head
from .experts import Experts, GroupedSoftmaxRouter, StackTargets, grouped, top
from .feed_forward import GatedFeedForward, activate
from .kernels import causal_convolution
from .latent import IndexedLatentAttention, LatentAttention
from .latent import attend as attend_latent
from .linear_attention import GatedDeltaNet, KimiDeltaAttention, _part, _small, delta_rule, norm_then_gate
from .norms import LayerNorm, Norm, RMSNorm
from .state_space import store

# ---------------------------------------------------------------------- linear attention


@dataclass(frozen=True, slots=True)
class SplitDeltaNet(GatedDeltaNet):
    """The gated delta rule with a matrix each for q, k, v, decay, beta and the output gate. [OLMo Hybrid]

    doubled   whether beta is multiplied by 2, so that states may change their sign
    """

    doubled: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """Six matrices in, convolution, decay, gated norm, out."""
        at, hidden, heads, keys = self.prefix, self.hidden, self.value_heads, self.key_heads
        made = [
            _part(f"{at}.{name}", out, hidden, role, "ssm", pieces)
            for name, out, role, pieces in (
                ("q_proj", self.keys, "ssm_in", keys),
                ("k_proj", self.keys, "ssm_in", keys),
                ("v_proj", self.values, "ssm_in", heads),
                ("a_proj", heads, "ssm_other", heads),
                ("b_proj", heads, "ssm_other", heads),
                ("g_proj", self.values, "ssm_in", heads),
            )
        ]
        made.append(_part(f"{at}.o_proj", hidden, self.values, "ssm_out", "ssm", heads))
        made.append(_small(f"{at}.conv1d.weight", self.channels, 1, self.kernel, pieces=keys))
        made += [_small(f"{at}.{name}", heads, pieces=heads) for name in ("A_log", "dt_bias")]
        made.append(Tensor(f"{at}.o_norm.weight", (self.value_dim,), "norm", "norm"))
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' OlmoHybridGatedDeltaNet.forward."""
        rows, hidden, heads = tape.mode.queries, self.hidden, self.value_heads
        keys, values = scaled(rows, self.keys), scaled(rows, self.values)
        mixed = tape.turn(
            tape.concatenate(
                tape.linear(x, hidden, self.keys, module="q_proj"),
                tape.linear(x, hidden, self.keys, module="k_proj"),
                tape.linear(x, hidden, self.values, module="v_proj"),
            )
        )
        store(tape, self.states()[1:])
        mixed = causal_convolution(tape, mixed, self.channels, self.kernel, bias=False)
        q, k, v = tape.split(mixed, keys, keys, values)
        beta = tape.unary_output(tape.linear(x, hidden, heads, module="b_proj"))
        if self.doubled:
            beta = tape.scale(beta)
        decay = tape.scale(tape.unary_output(tape.cast(tape.parameter(heads), FLOAT)))
        steps = tape.cast(tape.linear(x, hidden, heads, module="a_proj"), FLOAT)
        steps = tape.unary(tape.add(steps, tape.parameter(heads)))
        g = tape.multiply(steps, decay)
        del steps
        out = delta_rule(tape, q, k, v, g, beta, heads, self.key_dim, self.value_dim, wide_gate=False)
        store(tape, self.states()[:1])
        gate = tape.linear(x, hidden, self.values, module="g_proj")
        out = norm_then_gate(tape, out, gate, self.value_dim)
        del mixed, q, k, v, beta, g, gate
        return tape.linear(out, self.values, hidden, module="o_proj")


@dataclass(frozen=True, slots=True)
class BoundedDeltaAttention(KimiDeltaAttention):
    """Kimi's delta rule with whole matrices for decay and output gate, and a decay that is bounded. [Ling 3]

    bounded   whether a sigmoid makes the decay, else a softplus
    """

    bounded: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v, convolution, decay, beta, output gate, gated norm, out."""
        at, hidden, width, heads = self.prefix, self.hidden, self.width, self.heads
        made = [
            _part(f"{at}.{name}", out, into, role, "attention", heads)
            for name, out, into, role in (
                ("q_proj", width, hidden, "attn_q"),
                ("k_proj", width, hidden, "attn_k"),
                ("v_proj", width, hidden, "attn_v"),
                ("forget_gate.f_proj", width, hidden, "ssm_other"),
                ("b_proj", heads, hidden, "ssm_other"),
                ("g_proj", width, hidden, "ssm_other"),
                ("o_proj", hidden, width, "attn_output"),
            )
        ]
        made.append(_small(f"{at}.conv1d.weight", 3 * width, 1, self.kernel, pieces=heads))
        made.append(_small(f"{at}.forget_gate.A_log", heads, pieces=heads))
        made.append(_small(f"{at}.forget_gate.dt_bias", width, pieces=heads))
        made.append(Tensor(f"{at}.o_norm.weight", (self.head_dim,), "norm", "norm"))
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BailingHybridDeltaAttention.forward."""
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
        decay = self._decay(tape, x)
        beta = tape.unary_output(tape.linear(x, hidden, self.heads, module="b_proj"))
        out = delta_rule(tape, q, k, v, decay, beta, self.heads, low, low, wide_gate=True)
        store(tape, self.states()[:1])
        gate = tape.linear(x, hidden, width, module="g_proj")
        out = self._normed(tape, out, gate)
        return tape.linear(out, width, hidden, module="o_proj")

    def _decay(self, tape: Tape, x: Value) -> Value:
        g = tape.cast(tape.linear(x, self.hidden, self.width, module="f_proj"), FLOAT)
        g = tape.add(g, tape.parameter(self.width))
        rate = tape.unary_output(tape.parameter(self.heads))
        if self.bounded:
            gate = tape.scale(tape.unary_output(tape.multiply(g, rate)))
        else:
            gate = tape.multiply(tape.unary(g), tape.scale(rate))
        return tape.cast(gate, x.dtype)


@dataclass(frozen=True, slots=True)
class HeadGatedLatentAttention(LatentAttention):
    """Latent attention whose output a sigmoid of one figure a head weighs. [Ling 3]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate's matrix."""
        shape = (self.heads, self.hidden)
        gate = Tensor(f"{self.prefix}.g_proj.weight", shape, "attention", "other", True, Cut.TENSOR, self.heads)
        return (*super(HeadGatedLatentAttention, self).tensors(), gate)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' BailingHybridAttention.forward."""
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
        out = attend_latent(tape, query, key, value, self)
        gate = tape.cast(tape.linear(x, self.hidden, heads, False, "g_proj"), FLOAT)
        gate = tape.cast(tape.unary_output(gate), x.dtype)
        out = tape.multiply(out, gate)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del q, q_pass, q_rotary, joined, latent, k_rotary, query, key, value, gate, out
        return result


@dataclass(frozen=True, slots=True)
class GatedIndexedAttention(IndexedLatentAttention):
    """Latent attention with an indexer, whose queries and output gate one matrix makes from the normed and the plain
    latent. [A.X K2]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """The gate's matrix in the place of the queries'."""
        path = f"{self.prefix}.q_gate_proj.weight"
        shape = (self.heads * (self.head_dim + self.value), 2 * self.query_rank)
        gate = Tensor(path, shape, "attention", "attn_q", True, Cut.TENSOR, self.heads)
        made = super(GatedIndexedAttention, self).tensors()
        return tuple(gate if ".q_b_proj." in tensor.name else tensor for tensor in made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' AXK2Attention.forward."""
        rows, heads = tape.mode.queries, self.heads
        plain = tape.linear(x, self.hidden, self.query_rank, self.bias, "q_a_proj")
        low = RMSNorm(self.query_rank).forward(tape, plain)
        wide = heads * (self.head_dim + self.value)
        both = tape.linear(tape.concatenate(low, plain), 2 * self.query_rank, wide, False, "q_gate_proj")
        q, gate = tape.split(both, scaled(rows, self.query_width), scaled(rows, self.value_width))
        q, gate = tape.turn(q), tape.copy(gate)
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
        early, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary), dense=True)
        latent = RMSNorm(self.latent).forward(tape, early)
        q_rotary, k_rotary = self.rotate(tape, q_rotary, k_rotary)
        latent, k_rotary = self.remember(tape, latent, k_rotary)
        q = tape.concatenate(q_pass, q_rotary)
        key, value = self.expand(tape, latent, k_rotary)
        picked = self.pick(tape, x, low)
        unpicked, mask = self.masks(tape, picked)
        out = attend_latent(tape, q, key, value, self, mask)
        raised = tape.unary_output(tape.cast(gate, FLOAT))
        out = tape.cast(tape.operate(out.elements, FLOAT, (out, raised), (out, raised)), out.dtype)
        del raised
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del plain, low, both, q, gate, q_pass, q_rotary, joined, early, latent, k_rotary, key, value
        del picked, unpicked, mask, out
        return result


@dataclass(frozen=True, slots=True)
class GatedRMSNorm(Norm):
    """A norm, times the sigmoid in float32 of a low-rank layer over it. [A.X K2]

    rank   of the two matrices
    """

    rank: int = 16

    def tensors(self) -> tuple[Tensor, ...]:
        """The norm's weight and two matrices."""
        low, wide = (self.rank, self.width), (self.width, self.rank)
        return (
            Tensor(f"{self.name}.norm.weight", (self.width,), "norm", "norm"),
            Tensor(f"{self.name}.mlp.fc1.weight", low, "norm", "other", True),
            Tensor(f"{self.name}.mlp.fc2.weight", wide, "norm", "other", True),
        )

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """With the local variables of transformers' AXK2GatedRMSNorm.forward."""
        y = RMSNorm(self.width).forward(tape, x)
        low = tape.unary(tape.linear(y, self.width, self.rank, False, "fc1"))
        gate = tape.unary_output(tape.cast(tape.linear(low, self.rank, self.width, False, "fc2"), FLOAT))
        del low
        return tape.cast(tape.operate(y.elements, FLOAT, (y, gate), (y, gate)), y.dtype)


# ---------------------------------------------------------------------- attention


@dataclass(frozen=True, slots=True)
class DifferentialAttention(Attention):
    """Two attentions with the same weights over halves of the values; half the heads' results, times a learned factor,
    are taken off the other half's. [arXiv:2410.05258, DiffLlama]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the four vectors that the factor is made of."""
        names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
        vectors = (Tensor(f"{self.prefix}.{name}", (self.head_dim,), "attention", "other") for name in names)
        return (*super(DifferentialAttention, self).tensors(), *vectors)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' DiffLlamaAttention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        half = divided(v.elements, 2)
        parts = tape.split(v, half, half)
        first, second = (tape.operate(v.elements, v.dtype, (part,), (), as_inputs) for part in parts)
        del parts
        one, two = attend(tape, q, k, first, self), attend(tape, q, k, second, self)
        joined = tape.concatenate(one, two)
        wide = divided(joined.elements, 2)
        one, two = tape.split(joined, wide, wide)
        factor = tape.add(self._factor(tape, q.dtype), tape.scale(self._factor(tape, q.dtype)))
        y = tape.add(one, tape.scale(tape.multiply(two, factor)))
        y = tape.scale(RMSNorm(2 * self.head_dim, affine=False).forward(tape, y, self.heads // 2))
        result = tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)
        del q, k, v, first, second, one, two, joined, factor, y
        return result

    def _factor(self, tape: Tape, dtype: str) -> Value:
        product = tape.multiply(tape.parameter(self.head_dim), tape.parameter(self.head_dim))
        total = tape.operate((1, 0, 0, 0, 0, 0), FLOAT, (product,), (), as_inputs)
        return tape.cast(tape.unary_output(total), dtype)


@dataclass(frozen=True, slots=True)
class FigureGatedAttention(Attention):
    """A sigmoid of one figure a head, made after attention, weighs what the heads give. [LFM 3]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """And the gate's matrix."""
        shape = (self.heads, self.hidden)
        gate = Tensor(f"{self.prefix}.g_proj.weight", shape, "attention", "other", True, Cut.TENSOR, self.heads)
        return (*super(FigureGatedAttention, self).tensors(), gate)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Lfm3Attention.forward."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        y = tape.multiply(y, tape.unary_output(tape.linear(x, self.hidden, self.heads, False, "g_proj")))
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)


# ---------------------------------------------------------------------- ModernBERT's decoder


@dataclass(frozen=True, slots=True)
class WidenedRotary(Attention):
    """Rotates in float32, from a copy for each of the two products. [ModernBERT]"""

    def rotate_both(self, tape: Tape, q: Value, k: Value) -> tuple[Value, Value]:
        """With the temporaries of its apply_rotary_pos_emb."""
        dtype = q.dtype
        q, k = self._turned(tape, q), self._turned(tape, k)
        return tape.cast(q, dtype), tape.cast(k, dtype)

    def _turned(self, tape: Tape, x: Value) -> Value:
        cos, sin = (tape.shared[name] for name in self.tables)
        straight = tape.multiply(tape.cast(x, FLOAT), cos)
        return tape.add(straight, tape.multiply(self._crossed(tape, tape.cast(x, FLOAT)), sin))

    def _crossed(self, tape: Tape, x: Value) -> Value:
        half = divided(x.elements, 2)
        first, second = tape.slice(x, half), tape.slice(x, half)
        return tape.concatenate(tape.scale(second), first)


@dataclass(frozen=True, slots=True)
class BareBlock(Block):
    """x + mixer(x), then x + feed_forward(norm(x)): the first layer after a normed embedding."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' ModernBertDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = tape.add(residual, self.mixer.forward(tape, x))
        residual = x
        x = self.norms[0].forward(tape, x)
        return tape.add(residual, self.feed_forward.forward(tape, x))


@dataclass(frozen=True, slots=True)
class HoldingEmbedding(Embedding):
    """An embedding of which what the layers are handed keeps a name, and nothing else. [ModernBERT's decoder]"""

    def forward(self, tape: Tape) -> Value:
        """The rows, normed and dropped."""
        x = super(HoldingEmbedding, self).forward(tape)
        tape.held.clear()
        tape.held.append(x)
        return x


@dataclass(frozen=True, slots=True)
class InnerFeedForward(GatedFeedForward):
    """A gated layer of one matrix, with dropout before the last. [ModernBERT]"""

    rate: float = 0.0

    def forward(self, tape: Tape, x: Value) -> Value:
        """act(first half) · second half, dropped, down."""
        wide = scaled(tape.mode.queries, self.intermediate)
        joined = tape.linear(x, self.hidden, 2 * self.intermediate, self.bias, self.fused or "")
        first, second = tape.split(joined, wide, wide)
        del joined
        product = tape.multiply(activate(tape, first, self.activation), second)
        product = tape.dropout(product, self.rate)
        return tape.linear(product, self.intermediate, self.hidden, self.bias, self.down)


@dataclass(frozen=True, slots=True)
class TransformedHead(Head):
    """A matrix, an activation and a norm before the matrix to the vocabulary. [ModernBERT's decoder]

    activation, inner_bias   of the first matrix
    norm_bias                of both norms
    """

    activation: str = "gelu"
    inner_bias: bool = False
    norm_bias: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """And the matrix before, and its norm."""
        wide = self.width
        made = [Tensor("lm_head.dense.weight", (wide, wide), "lm_head", "other", True)]
        if self.inner_bias:
            made.append(Tensor("lm_head.dense.bias", (wide,), "lm_head", "bias"))
        made.append(Tensor("lm_head.norm.weight", (wide,), "norm", "norm"))
        if self.norm_bias:
            made.append(Tensor("lm_head.norm.bias", (wide,), "norm", "norm"))
        return (*super(TransformedHead, self).tensors(), *made)

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """`rows` × vocabulary."""
        x = tape.linear(x, self.width, self.width, self.inner_bias, "dense", rows)
        x = activate(tape, x, self.activation)
        x = LayerNorm(self.width, bias=self.norm_bias).forward(tape, x)
        return super(TransformedHead, self).logits(tape, x, rows)


# ---------------------------------------------------------------------- JetMoE


@dataclass(frozen=True, slots=True)
class ParallelExperts:
    """Stacks of matrices that tokens pass sorted by expert, one product an expert. [JetMoE, arXiv:2404.07413]

    prefix   of the names
    into, wide   widths of what comes in and of what the first stack makes (twice that where it is `gated`)
    """

    prefix: str
    into: int
    wide: int
    experts: int
    chosen: int
    gated: bool

    def tensors(self) -> tuple[Tensor, ...]:
        """A bias, two stacks, the router."""
        at, count, chosen = self.prefix, self.experts, self.chosen
        first = (count, self.wide * (2 if self.gated else 1), self.into)
        roles = ("ffn_gate_up_exps" if self.gated else "attn_q", "ffn_down_exps" if self.gated else "attn_output")
        shapes = (first, (count, self.into, self.wide))
        stacks = (
            Tensor(f"{at}.{name}.weight", shape, "experts", role, True, Cut.EXPERT, 1, count, chosen, targets=())
            for name, shape, role in zip(("input_linear", "output_linear"), shapes, roles, strict=True)
        )
        router = Tensor(f"{self.prefix}.router.layer.weight", (count, self.into), "router", "router", True)
        kind = "experts" if self.gated else "attention"
        return (Tensor(f"{self.prefix}.bias", (self.into,), kind, "bias"), *stacks, router)

    def route(self, tape: Tape, x: Value) -> tuple[Value, Value, Value, Value]:
        """Logits, weights, order and tokens of the slots."""
        slots = scaled(tape.mode.queries, self.chosen)
        logits = tape.cast(tape.linear(x, self.into, self.experts, module="layer"), FLOAT)
        values, places = top(tape, logits, slots)
        weights = tape.cast(tape.softmax(values), x.dtype)
        del values, places
        order, tokens = tape.new(slots, LONG), tape.new(slots, LONG)
        weights = tape.operate(slots, weights.dtype, (weights,), (order,), as_inputs)
        return logits, weights, order, tokens

    def product(self, tape: Tape, x: Value, out: int, into: int) -> Value:
        """One product an expert, joined by a copy."""
        slots = scaled(tape.mode.queries, self.chosen)
        offsets = tape.new((self.experts, 0, 0, 0, 0, 0), INT)
        parts = grouped(tape, x, tape.parameter(self.experts * out * into), offsets, scaled(slots, out))
        return tape.concatenate(parts)

    def summed(self, tape: Tape, x: Value, weights: Value, tokens: Value) -> Value:
        """Weighted, summed over a token's slots, and the bias."""
        x = tape.multiply(x, weights)
        zeros = tape.new(scaled(tape.mode.queries, self.into), x.dtype)
        out = tape.operate(zeros.elements, x.dtype, (x,), (tokens,), as_inputs)
        del zeros
        return tape.add(out, tape.parameter(self.into))


@dataclass(frozen=True, slots=True)
class JetFeedForward:
    """A mixture of gated feed-forward layers."""

    experts: ParallelExperts
    activation: str

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of its experts."""
        return self.experts.tensors()

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' JetMoeMoE.forward."""
        inner = self.experts
        slots = scaled(tape.mode.queries, inner.chosen)
        logits, weights, order, tokens = inner.route(tape, x)
        rows = tape.operate(scaled(slots, inner.into), x.dtype, (x,), (tokens,), as_inputs)
        joined = inner.product(tape, rows, 2 * inner.wide, inner.into)
        half = scaled(slots, inner.wide)
        gate, up = tape.split(joined, half, half)
        joined = tape.multiply(activate(tape, gate, self.activation), up)
        out = inner.product(tape, joined, inner.into, inner.wide)
        out = inner.summed(tape, out, weights, tokens)
        del logits, weights, order, tokens, rows, joined, gate, up
        return out


@dataclass(frozen=True, slots=True)
class AttentionOfExperts(Attention):
    """Queries and the output come from experts; keys and values are the same for all. [JetMoE]

    experts  the stacks
    """

    experts: ParallelExperts | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The stacks and the one matrix of keys and values."""
        assert self.experts is not None
        shape = (2 * self.key_width, self.hidden)
        pair = Tensor(f"{self.prefix}.kv_proj.weight", shape, "attention", "attn_k", True, Cut.TENSOR, self.kv_heads)
        return (*self.experts.tensors(), pair)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' JetMoeAttention.forward."""
        inner = self.experts
        assert inner is not None
        slots = scaled(tape.mode.queries, inner.chosen)
        logits, weights, order, tokens = inner.route(tape, x)
        rows = tape.operate(scaled(slots, inner.into), x.dtype, (x,), (tokens,), as_inputs)
        made = inner.product(tape, rows, inner.wide, inner.into)
        q = tape.operate(scaled(slots, inner.wide), made.dtype, (made,), (order,), as_inputs)
        del rows, made
        q = tape.turn(q)
        narrow = scaled(tape.mode.queries, self.key_width)
        pair = tape.linear(x, self.hidden, 2 * self.key_width, module="kv_proj")
        k, v = tape.split(pair, narrow, narrow)
        del pair
        q, k = self.rotate_both(tape, q, k)
        k, v = remember(tape, k, v, self)
        k, v = tape.repeat(k, inner.chosen), tape.repeat(v, inner.chosen)
        y = attend(tape, q, k, v, replace(self, kv_heads=self.heads))
        rows = tape.operate(scaled(slots, inner.wide), y.dtype, (y,), (order,), as_inputs)
        out = inner.product(tape, rows, inner.into, inner.wide)
        out = inner.summed(tape, out, weights, tokens)
        del logits, weights, order, tokens, rows, q, k, v, y
        return out


# ---------------------------------------------------------------------- LongCat


@dataclass(frozen=True, slots=True)
class ScaledLatentAttention(LatentAttention):
    """Latent attention whose queries and latents are multiplied by constants. [LongCat]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' LongcatFlashMLA.forward."""
        rows, heads = tape.mode.queries, self.heads
        q = self.queries(tape, x)
        q_pass, q_rotary = tape.split(q, scaled(rows, heads * self.plain), scaled(rows, heads * self.rotary))
        joined = tape.linear(x, self.hidden, self.latent + self.rotary, self.bias, "kv_a_proj_with_mqa")
        early, k_rotary = tape.split(joined, scaled(rows, self.latent), scaled(rows, self.rotary), dense=True)
        latent = RMSNorm(self.latent).forward(tape, early)
        q_pass, q_rotary, latent = tape.scale(q_pass), tape.scale(q_rotary), tape.scale(latent)
        q_rotary, k_rotary = self.rotate(tape, q_rotary, k_rotary)
        latent, k_rotary = self.remember(tape, latent, k_rotary)
        query = tape.concatenate(q_pass, q_rotary)
        key, value = self.expand(tape, latent, k_rotary)
        out = attend_latent(tape, query, key, value, self)
        result = tape.linear(out, self.value_width, self.hidden, self.bias, "o_proj")
        del q, q_pass, q_rotary, joined, early, latent, k_rotary, query, key, value, out
        return result


@dataclass(frozen=True, slots=True)
class Twice:
    """Two attentions of the same sizes in one layer."""

    one: LatentAttention

    @property
    def window(self) -> int | None:
        """Tokens that a query looks back: all."""
        return self.one.window

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of both."""
        made: list[Tensor] = []
        for index in range(2):
            made += replace(self.one, prefix=f"{self.one.prefix}.{index}").tensors()
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that both keep."""
        return 2 * self.one.cache(tokens, tensor)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return 2 * self.one.state(tensor)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """What the cache of both holds before a decode step."""
        return self.one.held(mode) * 2


@dataclass(frozen=True, slots=True)
class ShortcutBlock(Block):
    """Attention, a dense layer, attention, a dense layer; a mixture beside them from the first half to the end.
    [LongCat, arXiv:2404.05019]

    dense   the dense layer, of which there are two
    """

    dense: GatedFeedForward | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Mixture, attentions, dense layers, four norms."""
        assert self.dense is not None
        made = list(super(ShortcutBlock, self).tensors())
        for index in range(2):
            made += replace(self.dense, prefix=f"{self.dense.prefix}.{index}").tensors()
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' LongcatFlashDecoderLayer.forward."""
        assert isinstance(self.mixer, Twice) and self.feed_forward is not None and self.dense is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.one.forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[1].forward(tape, x)
        shortcut = self.feed_forward.forward(tape, x)
        x = self.dense.forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[2].forward(tape, x)
        x = self.mixer.one.forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[3].forward(tape, x)
        x = self.dense.forward(tape, x)
        return tape.add(tape.add(residual, x), shortcut)


@dataclass(frozen=True, slots=True)
class ClassifierRouter(GroupedSoftmaxRouter):
    """DeepSeek-V2's router in a linear layer of its own, over real experts and those that pass tokens on. [LongCat]"""

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix and its bias."""
        path, shape = f"{self.name}.classifier", (self.experts, self.hidden)
        made = (Tensor(f"{path}.weight", shape, "router", "router", True, targets=()),)
        return (*made, Tensor(f"{path}.bias", (self.experts,), "router", "bias")) if self.bias else made


@dataclass(frozen=True, slots=True)
class PassingExperts(Experts):
    """Experts of which some pass tokens on: the first stack has rows for them all the same. [LongCat]

    passing   how many
    """

    passing: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """Two stacks, the first longer."""
        first, *rest = super(PassingExperts, self).tensors()
        count, out, into = first.shape
        whole = count + self.passing
        return (replace(first, shape=(whole, out, into), experts=whole), *rest)
