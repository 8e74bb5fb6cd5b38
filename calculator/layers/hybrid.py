"""Blocks that join state-space layers with attention: beside each other, or a transformer shared by several depths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..tape import FLOAT, Mode, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from .attention import Attention, attend, remember
from .blocks import Block
from .feed_forward import GatedFeedForward, activate
from .norms import Norm
from .state_space import Mamba, Mamba2
from .states import State


@dataclass(frozen=True, slots=True)
class ResidualBlock(Block):
    """x + mixer(norm(x)), the sum in float32 where `wide`: Mamba."""

    wide: bool = True

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' MambaBlock.forward."""
        assert self.mixer is not None
        residual = x
        x = self.norms[0].forward(tape, tape.cast(x, tape.mode.weights))
        if self.wide:
            residual = tape.cast(residual, FLOAT)
        x = self.mixer.forward(tape, x)
        return tape.add(residual, x)


@dataclass(frozen=True, slots=True)
class ScaledResidualBlock(Block):
    """x + a · mixer(norm(x)), then x + a · feed_forward(norm(x)): Granite."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' GraniteMoeHybridDecoderLayer.forward."""
        for norm, part in zip(self.norms, (self.mixer, self.feed_forward), strict=True):
            assert part is not None
            residual = x
            x = norm.forward(tape, x)
            x = part.forward(tape, x)
            x = tape.add(residual, tape.scale(x))
        return x


@dataclass(frozen=True, slots=True)
class ScaledKeyAttention(Attention):
    """Attention whose keys are multiplied by a constant (Falcon H1)."""

    def project(self, tape: Tape, x: Value) -> tuple[Value, Value, Value]:
        """Queries, scaled keys and values, heads before positions."""
        q = tape.turn(tape.linear(x, self.hidden, self.query_width, self.bias, "q_proj"))
        k = tape.scale(tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, "k_proj")))
        v = tape.turn(tape.linear(x, self.hidden, self.key_width, self.bias, "v_proj"))
        return q, k, v


@dataclass(frozen=True, slots=True)
class ScaledFeedForward(GatedFeedForward):
    """A gated feed-forward layer whose gate and output are multiplied by constants (Falcon H1)."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """(x · up) · act(x · gate · constant), down, · constant."""
        up = tape.linear(x, self.hidden, self.intermediate, self.bias, self.up)
        gate = tape.scale(tape.linear(x, self.hidden, self.intermediate, self.bias, self.gate))
        product = tape.multiply(up, activate(tape, gate, self.activation))
        del up, gate
        return tape.scale(tape.linear(product, self.intermediate, self.hidden, self.bias, self.down))


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Attention and Mamba-2 over the same normalized input, their outputs scaled and added (Falcon H1)."""

    attention: Attention
    state_space: Mamba2

    def tensors(self) -> tuple[Tensor, ...]:
        """Those of both."""
        return self.state_space.tensors() + self.attention.tensors()

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """The attention's."""
        return self.attention.cache(tokens, tensor)

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The state-space layer's."""
        return self.state_space.states(tensor)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return self.state_space.state(tensor)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes held before a decode step: the attention's first, which the step replaces."""
        return self.attention.held(mode) + self.state_space.held(mode)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' FalconH1DecoderLayer.forward."""
        mixed = tape.scale(self.state_space.forward(tape, x))
        attended = tape.scale(self.attention.forward(tape, tape.scale(x)))
        return tape.add(mixed, attended)


@dataclass(frozen=True, slots=True)
class WideAttention(Attention):
    """Attention over hidden states beside the embedding's output: twice as wide in as out (Zamba).

    width    of its output
    """

    width: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """The four matrices."""
        made: list[Tensor] = []
        for name, out, role, heads in (
            ("q_proj", self.query_width, "attn_q", self.heads),
            ("k_proj", self.key_width, "attn_k", self.kv_heads),
            ("v_proj", self.key_width, "attn_v", self.kv_heads),
        ):
            made += self._matrix(name, out, self.hidden, role, False, heads)
        made += self._matrix("o_proj", self.width, self.query_width, "attn_output", False, self.heads, row=True)
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """x is `hidden` wide, the result `width`."""
        q, k, v = self.project(tape, x)
        q, k = self.rotate(tape, q), self.rotate(tape, k)
        k, v = remember(tape, k, v, self)
        y = attend(tape, q, k, v, self)
        return tape.linear(y, self.query_width, self.width, False, "o_proj")


@dataclass(frozen=True, slots=True)
class SharedTransformer:
    """Attention and feed-forward layer of a shared block (Zamba).

    adapter_rank   width of the low-rank update of gate and up that each use has for itself (Zamba 2), else 0
    attention_adapters  whether q, k and v have such updates too
    """

    attention: WideAttention
    feed_forward: GatedFeedForward
    norms: tuple[Norm, Norm]
    adapter_rank: int = 0
    attention_adapters: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """What all uses share."""
        parts = (self.attention, self.feed_forward, *self.norms)
        return tuple(tensor for part in parts for tensor in part.tensors())

    def adapters(self) -> tuple[Tensor, ...]:
        """What one use has for itself."""
        if not self.adapter_rank:
            return ()
        wide = self.attention.hidden
        made = list(
            _low_rank("feed_forward.gate_up_proj_adapter", self.feed_forward.hidden, self.adapter_rank,
                      2 * self.feed_forward.intermediate, "mlp_dense")
        )  # fmt: skip
        if self.attention_adapters:
            for name in ("q", "k", "v"):
                made += _low_rank(f"self_attn.linear_{name}_adapter", wide, self.adapter_rank, wide, "attention")
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """x beside the embedding's output through attention, then the feed-forward layer; no residual inside."""
        beside = Value(x.elements, x.dtype, None)
        x = tape.concatenate(x, beside)
        x = self.norms[0].forward(tape, x)
        x = self.attention.forward(tape, x)
        x = self.norms[1].forward(tape, x)
        if not self.adapter_rank:
            return self.feed_forward.forward(tape, x)
        layer = self.feed_forward
        wide = scaled(tape.mode.queries, layer.intermediate)
        both = tape.linear(x, layer.hidden, 2 * layer.intermediate, layer.bias, "gate_up_proj")
        borrowing, tape.borrowing = tape.borrowing, False
        low = tape.linear(x, layer.hidden, self.adapter_rank)
        update = tape.linear(low, self.adapter_rank, 2 * layer.intermediate)
        tape.borrowing = borrowing
        del low
        both = tape.add(both, update)
        del update
        gate, up = tape.split(both, wide, wide)
        product = tape.multiply(activate(tape, gate, layer.activation), up)
        return tape.linear(product, layer.intermediate, layer.hidden, layer.bias, layer.down)


def _low_rank(name: str, into: int, rank: int, out: int, component: str) -> tuple[Tensor, Tensor]:
    return (
        Tensor(f"{name}.0.weight", (rank, into), component, "other", True),
        Tensor(f"{name}.1.weight", (out, rank), component, "other", True, Cut.TENSOR, out),
    )


@dataclass(frozen=True, slots=True)
class SharedAttentionMixer:
    """A use of a shared transformer before a state-space layer (Zamba): keys and values of this depth, weights of all.

    first   whether this use is the one that counts the shared weights
    """

    transformer: SharedTransformer
    state_space: Mamba | Mamba2
    norm: Norm
    first: bool
    parts: tuple[str, str] = field(default=("shared_transf", "mamba_decoder"))

    def tensors(self) -> tuple[Tensor, ...]:
        """The matrix between, the state-space layer, this use's adapters, and the shared weights if it counts them."""
        width = self.state_space.hidden
        shared, inner = self.parts
        made = [Tensor("linear.weight", (width, width), "other", "other", True)]
        made += [
            replace(each, name=f"{inner}.{each.name}") for each in (*self.state_space.tensors(), *self.norm.tensors())
        ]
        stored = self.transformer.adapters() + (self.transformer.tensors() if self.first else ())
        return tuple(made + [replace(each, name=f"{shared}.{each.name}") for each in stored])

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Keys and values of this use."""
        return self.transformer.attention.cache(tokens, tensor)

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The state-space layer's."""
        return self.state_space.states(tensor)

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return self.state_space.state(tensor)

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes held before a decode step: the attention's first, which the step replaces."""
        return self.transformer.attention.held(mode) + self.state_space.held(mode)


@dataclass(frozen=True, slots=True)
class SharedAttentionBlock(Block):
    """x + state-space(norm(x + linear(transformer(x beside the embedding)))): Zamba's hybrid layer."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' ZambaHybridLayer.forward and ZambaMambaDecoderLayer.forward."""
        mixer = self.mixer
        assert isinstance(mixer, SharedAttentionMixer)
        tape.borrowing = not mixer.first
        between = mixer.transformer.forward(tape, x)
        tape.borrowing = False
        width = mixer.state_space.hidden
        between = tape.linear(between, width, width, module="linear")
        y = mixer.norm.forward(tape, tape.add(x, between))
        y = mixer.state_space.forward(tape, y)
        return tape.add(x, y)
