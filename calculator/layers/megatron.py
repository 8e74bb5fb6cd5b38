"""Megatron-Core's layers with Transformer Engine's kernels, as one GPU of a tensor-parallel group runs them.

Norms are fused into the product that follows and keep their input and output; rotary positions, gated activations and
attention are one kernel each; residual sums keep nothing where dropout is 0. Products add the gradient of their weight
to the float32 buffer of gradients, which stays. With sequence parallelism, what lies between the products is cut along
the sequence; it is gathered for a product, and gathered again for its backward pass. (megatron-core 0.14, transformer
engine 2.11: LayerNormLinear, Linear, GroupedLinear, DotProductAttention, bias_swiglu_impl, permute)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, HALF, LONG, TOKENS, WIDTH, Node, Rule, Size, Storage, Tape, Value, scaled
from .attention import Attention
from .blocks import Block
from .ends import LOSS, Embedding, Head
from .experts import MixtureOfExperts
from .feed_forward import FeedForward, GatedFeedForward
from .latent import LatentAttention


@dataclass(frozen=True, slots=True)
class MegatronBlock(Block):
    """A decoder layer: norm, attention, sum, norm, feed-forward, sum.

    hidden    width of the hidden states, whole
    sequence  GPUs that share the sequence between products: 1, or the tensor-parallel ways
    other     a layer of another kind, which runs as it is on the gathered hidden states
    """

    hidden: int = 0
    sequence: int = 1
    other: Block | None = None

    def forward(self, tape: Tape, x: Value) -> Value:
        """x: this GPU's part of the hidden states."""
        if self.other is not None:
            if self.sequence == 1:
                return self.other.forward(tape, x)
            whole = tape.operate(scaled(TOKENS, self.hidden), HALF, (x,), (), _as_inputs)
            y = self.other.forward(tape, whole)
            return tape.operate(x.elements, HALF, (y,), (), _as_inputs)
        residual = x
        x = tape.add(residual, self._attention(tape, x))
        residual = x
        return tape.add(residual, self._feed_forward(tape, x)) if self.feed_forward is not None else x

    def placeholders(self) -> frozenset[tuple[int, int]]:
        """Shapes of its matrices: a product hands back an empty gradient, and Transformer Engine keeps one a shape."""
        hidden, found = self.hidden, []
        mixer, layer = self.mixer, self.feed_forward
        if isinstance(mixer, LatentAttention):
            if mixer.query_rank:
                found += [(mixer.query_rank, hidden), (mixer.query_width, mixer.query_rank)]
            else:
                found.append((mixer.query_width, hidden))
            found += [(mixer.latent + mixer.rotary, hidden), (mixer.expanded, mixer.latent)]
            found.append((hidden, mixer.value_width))
        elif isinstance(mixer, Attention):
            found += [(mixer.query_width + 2 * mixer.key_width, hidden), (hidden, mixer.query_width)]
        parts = [layer.experts, layer.shared] if isinstance(layer, MixtureOfExperts) else [layer]
        for part in parts:
            if part is not None and hasattr(part, "intermediate"):
                gates = 1 if isinstance(part, FeedForward) or not getattr(part, "gated", True) else 2
                found += [(gates * part.intermediate, hidden), (hidden, part.intermediate)]
        return frozenset(found)

    # ------------------------------------------------------------------ products

    def _whole(self, tape: Tape) -> Value | None:
        """The gathered input of a product, for as long as the product runs."""
        return tape.new(scaled(TOKENS, self.hidden), HALF) if self.sequence > 1 else None

    def _normed(self, tape: Tape, x: Value) -> Value:
        """A norm: keeps its input and a figure a row; the output is the caller's to keep."""
        width = x.elements[3]
        figure = tape.new((0, 0, 0, 1, 0, 0), FLOAT)
        out = tape.new((0, 0, 0, width, 0, 0), HALF)
        return tape.attach(out, (x,), (x, figure))

    def _into(self, tape: Tape, x: Value, out: int) -> Value:
        """A product that takes the hidden states: gathers them first."""
        gathered = self._whole(tape)
        y = tape.operate(scaled(TOKENS, out), HALF, (x,), (x,), self._regathered())
        del gathered
        return y

    def _out_of(self, tape: Tape, x: Value) -> Value:
        """A product that makes hidden states: the sum over the group is cut along the sequence."""
        whole = self._whole(tape)
        y = tape.operate(scaled(TOKENS, self.hidden // self.sequence), HALF, (x,), (x,), _as_inputs)
        del whole
        return y

    def _regathered(self) -> Rule:
        def rule(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
            gathered = [self._whole(tape), self._whole(tape)]  # the input for the weight, and the gradient to cut
            made = _as_inputs(tape, grads, node)
            del gathered
            return made

        return rule

    # ------------------------------------------------------------------ attention

    def _attention(self, tape: Tape, x: Value) -> Value:
        if isinstance(self.mixer, LatentAttention):
            return self._latent(tape, x, self.mixer)
        assert isinstance(self.mixer, Attention)
        return self._grouped(tape, x, self.mixer)

    def _grouped(self, tape: Tape, x: Value, layer: Attention) -> Value:
        """Queries, keys and values from one product; the rotated ones are fresh, and values are made dense."""
        x = self._normed(tape, x)
        wide, narrow = layer.query_width, layer.key_width
        joined = self._into(tape, x, wide + 2 * narrow)
        del x
        q, k, v = tape.split(joined, *(scaled(TOKENS, each) for each in (wide, narrow, narrow)))
        del joined
        if layer.query_norm is not None:
            q, k = self._normed(tape, tape.copy(q)), self._normed(tape, tape.copy(k))
        q, k, v = _fresh(tape, q), _fresh(tape, k), _fresh(tape, v)
        return self._attended(tape, q, k, v, layer.heads, wide)

    def _attended(self, tape: Tape, q: Value, k: Value, v: Value, heads: int, out: int) -> Value:
        figures = tape.new(scaled(TOKENS, heads), FLOAT)
        y = tape.new(scaled(TOKENS, out), HALF)
        y = tape.attach(y, (q, k, v), (q, k, v, y, figures))
        del q, k, v, figures
        return self._out_of(tape, y)

    def _latent(self, tape: Tape, x: Value, layer: LatentAttention) -> Value:
        """Multi-head latent attention: a norm of its own, low-rank products, each second one with its norm fused."""
        x = self._normed(tape, x)
        if layer.query_rank:
            low = self._normed(tape, self._into(tape, x, layer.query_rank))
            q = tape.operate(scaled(TOKENS, layer.query_width), HALF, (low,), (low,), _as_inputs)
        else:
            q = self._into(tape, x, layer.query_width)
        latent = self._into(tape, x, layer.latent + layer.rotary)
        del x
        low, rotary = tape.split(latent, scaled(TOKENS, layer.latent), scaled(TOKENS, layer.rotary))
        low = self._normed(tape, _fresh(tape, low))
        both = tape.operate(scaled(TOKENS, layer.expanded), HALF, (low,), (low,), _as_inputs)
        del latent, low
        plain, v = tape.split(both, scaled(TOKENS, layer.heads * layer.plain), scaled(TOKENS, layer.value_width))
        del both
        q = _fresh(tape, q)
        k = tape.operate(scaled(TOKENS, layer.query_width), HALF, (plain, rotary), (), _as_inputs)
        v = _fresh(tape, v)
        del plain, rotary
        return self._attended(tape, q, k, v, layer.heads, layer.value_width)

    # ------------------------------------------------------------------ feed-forward

    def _feed_forward(self, tape: Tape, x: Value) -> Value:
        layer = self.feed_forward
        x = self._normed(tape, x)
        if isinstance(layer, MixtureOfExperts):
            return self._experts(tape, x, layer)
        assert isinstance(layer, (GatedFeedForward, FeedForward))
        return self._plain(tape, x, layer)

    def _plain(self, tape: Tape, x: Value, layer: GatedFeedForward | FeedForward) -> Value:
        gates = 2 if isinstance(layer, GatedFeedForward) else 1
        wide = self._into(tape, x, gates * layer.intermediate)
        del x
        return self._out_of(tape, _activated(tape, wide, layer.intermediate))

    def _experts(self, tape: Tape, x: Value, layer: MixtureOfExperts) -> Value:
        """Tokens are sorted by expert and sent to it; the balanced load is as many rows as each GPU gave away."""
        experts, slots = layer.experts, layer.experts.chosen
        logits = tape.operate(scaled(TOKENS, experts.experts), FLOAT, (x,), (x,), _as_inputs)
        scores = tape.unary_output(logits)
        chances = tape.operate(scores.elements, FLOAT, (scores,), (scores,), _as_inputs)
        routed = tape.new(scores.elements, BOOL)
        del logits, scores
        places = tape.new(scaled(TOKENS, slots), LONG)
        sent = tape.operate(scaled(TOKENS, slots * self.hidden), HALF, (x,), (places, routed), _as_inputs)
        got = _fresh(tape, sent)
        del sent, routed
        gates = 2 if experts.gated else 1
        wide = scaled(TOKENS, slots * gates * experts.intermediate)
        inside = tape.operate(wide, HALF, (got,), (got,), _as_inputs)
        del got
        inside = _activated(tape, inside, slots * experts.intermediate, chances)
        out = tape.operate(scaled(TOKENS, slots * self.hidden), HALF, (inside,), (inside,), _as_inputs)
        del inside, chances
        back = _fresh(tape, out)
        del out
        y = tape.operate(x.elements, HALF, (back,), (places,), _as_inputs)
        del back, places
        if layer.shared is not None:
            y = tape.add(y, self._plain(tape, x, layer.shared))
        return y


def megatron_block(layer: Block, hidden: int, sequence: int) -> MegatronBlock:
    """The layer in Megatron's kernels; as it is, where Megatron has none of its kind."""
    mixer, wide = layer.mixer, layer.feed_forward
    known = isinstance(mixer, (Attention, LatentAttention)) and isinstance(
        wide, (GatedFeedForward, FeedForward, MixtureOfExperts, type(None))
    )
    if known:
        return MegatronBlock(mixer, wide, layer.norms, hidden, sequence)
    return MegatronBlock(None, None, layer.norms, hidden, sequence, layer)


def _activated(tape: Tape, x: Value, out: int, weights: Value | None = None) -> Value:
    """act(gate) · up in one kernel that keeps what it was given, with the router's weights where experts have them."""
    inputs = (x,) if weights is None else (x, weights)
    return tape.operate(scaled(TOKENS, out), HALF, inputs, (x,), _as_inputs)


def _fresh(tape: Tape, x: Value) -> Value:
    """A dense copy: rotated, or made contiguous."""
    return tape.operate(x.elements, x.dtype, (x,), (), _as_inputs)


def _as_inputs(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    return [None if link is None else tape.new(link[2], link[3]) for link in node.inputs]


@dataclass(frozen=True, slots=True)
class MegatronEmbedding(Embedding):
    """A table cut by rows: each GPU's part of every token, summed over the group and cut along the sequence."""

    whole: int = 0

    def forward(self, tape: Tape) -> Value:
        """The hidden states that enter the first layer."""
        every = tape.new(scaled(TOKENS, self.whole), HALF)
        if self.width == self.whole:
            return tape.operate(every.elements, HALF, (tape.parameter(1),), (), _nothing)
        return tape.operate(scaled(TOKENS, self.width), HALF, (tape.parameter(1),), (), _nothing)


def _nothing(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    return [None for _ in node.inputs]


@dataclass(frozen=True, slots=True)
class MegatronHead(Head):
    """The last norm and the columns of the matrix that this GPU has. Its product makes a placeholder gradient of the
    matrix beside the one it adds to the buffer."""

    whole: int = 0

    def final(self, tape: Tape, x: Value) -> Value:
        """The last norm, on this GPU's part."""
        figure = tape.new((0, 0, 0, 1, 0, 0), FLOAT)
        return tape.attach(tape.new(x.elements, HALF), (x,), (x, figure))

    def logits(self, tape: Tape, x: Value, rows: Size) -> Value:
        """All tokens by this GPU's part of the vocabulary. The gathered input is a buffer that stays."""
        if self.width != self.whole:
            tape.held.append(tape.new(scaled(rows, self.whole), HALF))

        def rule(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
            every = tape.new(scaled(rows, self.whole), HALF) if self.width != self.whole else None
            made = _as_inputs(tape, grads, node)
            placeholder = Storage(tape, scaled((self.vocabulary * self.whole, 0, 0, 0, 0, 0), WIDTH[HALF]))
            del placeholder, every
            return made

        return tape.operate(scaled(rows, self.vocabulary), HALF, (x,), (x,), rule)


def parallel_cross_entropy(tape: Tape, logits: Value) -> Value:
    """Cross entropy over a vocabulary that is cut: keeps the softmax in float32, from which the gradient is made in
    place and brought to 16 bit. (megatron-core: fused_vocab_parallel_cross_entropy)"""
    chances = tape.new(logits.elements, FLOAT)
    return tape.operate(LOSS, FLOAT, (logits,), (chances,), _as_inputs)
