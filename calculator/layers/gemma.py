"""What Gemma 3n and 4 have of their own: norms by a power, values that are normed, keys and values handed down to later
layers, and an embedding for every layer."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Leaf, Size, Storage, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, kept_rows, remember, rotated
from .blocks import Block
from .ends import Embedding
from .experts import Experts, Router
from .feed_forward import activate
from .norms import Norm, statistics_rows
from .state_space import activations


@dataclass(frozen=True, slots=True)
class PowerRMSNorm(Norm):
    """weight · x · (mean(x²) + ε)^-½, in float32 until the end, as in transformers' Gemma4RMSNorm."""

    def forward(self, tape: Tape, x: Value, rows: int = 1) -> Value:
        """Keeps x and the normalized x in float32, and two figures a row."""
        dtype = x.dtype
        y = tape.cast(x, FLOAT)
        mean = tape.shift(tape.mean(tape.power(y), statistics_rows(y, self.width)))
        y = tape.multiply(y, tape.power(mean))
        del mean
        if self.affine:
            y = tape.multiply(y, tape.cast(tape.parameter(self.width), FLOAT))
        return tape.cast(y, dtype)


def handed_down(tape: Tape, elements: Size, dtype: str, trained: bool, storage: Storage | None = None) -> Value:
    """Something another layer or the model made and holds: its gradient goes back there."""
    return Value(elements, dtype, storage, Leaf(0, dtype, borrowed=True) if trained and tape.recording else None)


@dataclass(frozen=True, slots=True)
class NormedAttention(Attention):
    """Attention with norms over each head of q, k and v, rotated as positions before heads.

    A `shared` layer takes the keys and values of the last layer of its kind that makes its own.

    values_first  whether v is made before k is normed (Gemma 4)
    """

    values_first: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma3nTextAttention.forward and Gemma4TextAttention.forward."""
        cos, sin = (tape.shared[name] for name in self.tables)
        q = tape.linear(x, self.hidden, self.query_width, self.bias, self.names.query)
        q = self._normed(tape, self.query_norm, q, self.heads)
        q = tape.turn(rotated(tape, q, cos, sin))
        if self.shared:
            rows = kept_rows(tape.mode.exceeded, self.window) if tape.mode.step == "decode" else tape.mode.queries
            trained = not tape.mode.frozen or tape.mode.input_grad
            k = handed_down(tape, scaled(rows, self.key_width), tape.mode.weights, trained)
            v = handed_down(tape, scaled(rows, self.key_width), activations(tape.mode), trained)
        else:
            k = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.key)
            early = k
            if self.values_first and not self.keys_are_values:
                early = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value)
            k = self._normed(tape, self.key_norm, k, self.kv_heads)
            k = tape.turn(rotated(tape, k, cos, sin))
            if not self.values_first:
                early = tape.linear(x, self.hidden, self.key_width, self.bias, self.names.value)
            v = tape.turn(self._normed(tape, self.value_norm, early, self.kv_heads))
            del early
            k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.hidden, self.output_bias, self.names.output)

    def _normed(self, tape: Tape, norm: Norm | None, x: Value, heads: int) -> Value:
        return x if norm is None else norm.forward(tape, x, heads)


@dataclass(frozen=True, slots=True)
class PerLayerInput:
    """What a layer does with its own embedding: a gate to its width, the product, and back. (Gemma 3n, 4)

    width   of the embedding
    layers  that have one: the embeddings of all of them are one tensor
    """

    hidden: int
    width: int
    layers: int
    activation: str
    norm: Norm

    def tensors(self) -> tuple[Tensor, ...]:
        """Two matrices and a norm."""
        return (
            Tensor("per_layer_input_gate.weight", (self.width, self.hidden), "other", "other", True),
            Tensor("per_layer_projection.weight", (self.hidden, self.width), "other", "other", True),
            *self.norm.tensors(),
        )

    def forward(self, tape: Tape, x: Value) -> Value:
        """Everything but the residual sum."""
        rows = tape.mode.queries
        x = tape.linear(x, self.hidden, self.width, module="per_layer_input_gate")
        x = activate(tape, x, self.activation)
        adapter = tape.mode.adapter
        trained = not tape.mode.frozen or (adapter is not None and adapter.takes("per_layer_model_projection"))
        every = tape.shared["per_layer"]
        every = handed_down(tape, every.elements, every.dtype, trained, every.storage)
        own = tape.slice(every, scaled(rows, self.width))
        x = tape.multiply(x, own)
        x = tape.linear(x, self.width, self.hidden, module="per_layer_projection")
        return self.norm.forward(tape, x)


@dataclass(frozen=True, slots=True)
class PerLayerEmbedding(Embedding):
    """The table of tokens, and beside it a table with a row for every layer, joined to a projection of the first.

    layer_vocabulary, layer_width, layers   of the second table
    layer_norm   over each layer's part of the projection
    in_place     whether the projection is scaled in place (Gemma 3n)
    """

    layer_vocabulary: int = 0
    layer_width: int = 0
    layers: int = 0
    layer_norm: Norm | None = None
    in_place: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Both tables, the projection and its norm."""
        wide = self.layers * self.layer_width
        made = [
            *Embedding.tensors(self),
            Tensor(
                "embed_tokens_per_layer.weight",
                (self.layer_vocabulary, wide),
                "embedding",
                "layer_embedding",
                False,
                Cut.TENSOR,
                self.layer_vocabulary,
            ),
            Tensor("per_layer_model_projection.weight", (wide, self.width), "other", "other", True, Cut.TENSOR, wide),
        ]
        return (*made, *self.layer_norm.tensors()) if self.layer_norm is not None else tuple(made)

    def forward(self, tape: Tape) -> Value:
        """The hidden states; the embeddings of all layers go to `tape.aside`."""
        rows = tape.mode.queries
        wide = scaled(rows, self.layers * self.layer_width)
        x = tape.scale(tape.embed(rows, self.vocabulary, self.width))
        tape.held.append(x)
        own = tape.scale(tape.embed(rows, self.layer_vocabulary, self.layers * self.layer_width))
        projected = tape.linear(x, self.width, self.layers * self.layer_width, module="per_layer_model_projection")
        projected = rescaled(tape, projected) if self.in_place else tape.scale(projected)
        if self.layer_norm is not None:
            projected = self.layer_norm.forward(tape, projected, self.layers)
        joined = tape.add(projected, own)
        del projected, own
        joined = tape.scale(joined)
        tape.aside.append(Value(wide, joined.dtype, joined.storage, joined.node, joined.index))
        return x


def rescaled(tape: Tape, x: Value) -> Value:
    """x multiplied in place by a constant tensor: nothing new but its gradient."""
    return tape.attach(Value(x.elements, x.dtype, x.storage, dense=x.dense), (x,), ())


@dataclass(frozen=True, slots=True)
class BesideMixture:
    """Experts over the hidden states that the dense layer's norm saw, added to that layer's result (Gemma 4).

    norms   behind the dense layer, before the experts, behind them
    """

    router: Router
    experts: Experts
    norms: tuple[Norm, Norm, Norm]

    def tensors(self) -> tuple[Tensor, ...]:
        """Router, stacks and norms."""
        parts = (self.router, self.experts, *self.norms)
        return tuple(tensor for part in parts for tensor in part.tensors())

    def forward(self, tape: Tape, dense: Value, residual: Value) -> Value:
        """The sum of both."""
        one = self.norms[0].forward(tape, dense)
        chances, weights, places = self.router.route(tape, residual, None)
        tape.lingering.clear()  # the variable that held the attention's weights holds the router's chances now
        two = self.norms[1].forward(tape, residual)
        two = self.experts.forward(tape, two, weights, places)
        two = self.norms[2].forward(tape, two)
        out = tape.add(one, two)
        tape.lingering += [one, two, chances, weights, places]  # variables of the layer
        return out


@dataclass(frozen=True, slots=True)
class GemmaBlock(Block):
    """Norms around attention and feed-forward layer, then the layer's own embedding, and a constant (Gemma 4).

    own     what it does with its embedding, where it has one
    mixture experts beside the dense layer, with a norm before them and one behind each of the two
    """

    own: PerLayerInput | None = None
    mixture: BesideMixture | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        made = Block.tensors(self)
        for part in (self.own, self.mixture):
            if part is not None:
                made += part.tensors()
        return made

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma4TextDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)
        x = self.norms[1].forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[2].forward(tape, x)
        x = self.feed_forward.forward(tape, x)
        if self.mixture is not None:
            x = self.mixture.forward(tape, x, residual)
        x = self.norms[3].forward(tape, x)
        x = tape.add(residual, x)
        if self.own is not None:
            residual = x
            x = self.own.forward(tape, x)
            x = tape.add(residual, x)
        return rescaled(tape, x)
