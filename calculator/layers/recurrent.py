"""Decoders that keep a state in place of keys and values: RWKV, Griffin's RG-LRU, mLSTM."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, Mode, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from ..units import ceil_div
from .blocks import Block
from .kernels import causal_convolution
from .norms import LayerNorm
from .state_space import state_bytes, store
from .states import State, recurrent


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What recurrent mixers share: a state of one size, no cache."""

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """What is kept for a sequence, by kind."""
        raise NotImplementedError

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(each.elements for each in self.states(tensor))

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the states before a decode step, which it overwrites in place."""
        return tuple(state_bytes(each, mode) for each in self.states())


def _matrix(name: str, out: int, into: int, role: str, component: str, pieces: int, bias: bool = False) -> list[Tensor]:
    made = [Tensor(f"{name}.weight", (out, into), component, role, True, Cut.TENSOR, pieces)]
    return [*made, Tensor(f"{name}.bias", (out,), component, "bias")] if bias else made


# ---------------------------------------------------------------------- RWKV


@dataclass(frozen=True, slots=True)
class TimeMix(Recurrence):
    """RWKV's attention: a running mean with decay over keys and values, each mixed of a token and the one before it.
    [arXiv:2305.13048] The mean is one kernel, which saves keys, values and its output.

    width   of keys and values
    """

    hidden: int
    width: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Decays, mixtures, and four matrices."""
        vectors = [
            Tensor(f"attention.time_{each}", (self.width,), "attention", "ssm_other") for each in ("decay", "first")
        ]
        vectors += [
            Tensor(f"attention.time_mix_{each}", (1, 1, self.hidden), "attention", "ssm_other")
            for each in ("key", "value", "receptance")
        ]
        made: list[Tensor] = []
        for name, role in (("key", "attn_k"), ("value", "attn_v"), ("receptance", "attn_q")):
            made += _matrix(f"attention.{name}", self.width, self.hidden, role, "attention", self.width)
        out = _matrix("attention.output", self.hidden, self.width, "attn_output", "attention", self.width)
        return (*vectors, *made, *out)

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """Numerator, denominator and largest exponent of every channel, and the last token seen by each half of the
        layer.

        >>> [state.elements for state in TimeMix(4096, 4096).states()]
        [12288, 8192]
        """
        return (
            State("recurrent", 3 * ceil_div(self.width, tensor), "float32"),
            State("convolution", 2 * self.hidden, columns=0),
        )

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' RwkvSelfAttention.extract_key_value."""
        shifted = shift_back(tape, x)
        key = mixed(tape, x, shifted, self.hidden)
        value = mixed(tape, x, shifted, self.hidden)
        gate = mixed(tape, x, shifted, self.hidden)
        key = tape.linear(key, self.hidden, self.width, module="key")
        value = tape.linear(value, self.hidden, self.width, module="value")
        gate = tape.unary_output(tape.linear(gate, self.hidden, self.width, module="receptance"))
        store(tape, self.states())
        decay, first = (tape.parameter(self.width) for _ in range(2))
        out = tape.new(key.elements, key.dtype)
        means = tape.attach(out, (decay, first, key, value), (key, value, out))
        return tape.linear(tape.multiply(gate, means), self.width, self.hidden, module="output")


def shift_back(tape: Tape, x: Value) -> Value:
    """Every token's predecessor: a padded copy."""
    return tape.gather(x, x.elements)


def mixed(tape: Tape, x: Value, shifted: Value, width: int) -> Value:
    """x · mix + shifted · (1 - mix)."""
    first = tape.multiply(x, tape.parameter(width))
    return tape.add(first, tape.multiply(shifted, tape.shift(tape.parameter(width))))


@dataclass(frozen=True, slots=True)
class ChannelMix:
    """RWKV's feed-forward layer: relu(key)², gated by a sigmoid."""

    hidden: int
    intermediate: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Two mixtures and three matrices."""
        hidden, wide = self.hidden, self.intermediate
        vectors = [
            Tensor(f"feed_forward.time_mix_{each}", (1, 1, hidden), "mlp_dense", "ssm_other")
            for each in ("key", "receptance")
        ]
        return (
            *vectors,
            *_matrix("feed_forward.key", wide, hidden, "ffn_up", "mlp_dense", wide),
            *_matrix("feed_forward.receptance", hidden, hidden, "ffn_gate", "mlp_dense", hidden),
            *_matrix("feed_forward.value", hidden, wide, "ffn_down", "mlp_dense", wide),
        )

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' RwkvFeedForward.forward."""
        shifted = shift_back(tape, x)
        key = mixed(tape, x, shifted, self.hidden)
        gate = mixed(tape, x, shifted, self.hidden)
        key = tape.linear(key, self.hidden, self.intermediate, module="key")
        key = tape.power(tape.unary_output(key))
        value = tape.linear(key, self.intermediate, self.hidden, module="value")
        gate = tape.unary_output(tape.linear(gate, self.hidden, self.hidden, module="receptance"))
        return tape.multiply(gate, value)


@dataclass(frozen=True, slots=True)
class MixingBlock(Block):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)), the first after a norm of its own (RWKV).

    before   that norm, None in all other layers
    """

    before: LayerNorm | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        return (*(self.before.tensors() if self.before is not None else ()), *Block.tensors(self))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' RwkvBlock.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        if self.before is not None:
            x = self.before.forward(tape, x)
        attended = self.mixer.forward(tape, self.norms[0].forward(tape, x))
        x = tape.add(x, attended)
        fed = self.feed_forward.forward(tape, self.norms[1].forward(tape, x))
        x = tape.add(x, fed)
        del attended, fed
        return x


# ---------------------------------------------------------------------- RecurrentGemma


@dataclass(frozen=True, slots=True)
class LinearRecurrence(Recurrence):
    """Griffin's recurrent block: a convolution and a gated linear recurrence in one branch, an activation in the other.
    [arXiv:2402.19427] The recurrence is answered as a scan that keeps its float32 states, not as transformers' loop
    over tokens.

    width    of both branches
    blocks   of the gates' block-diagonal matrices
    kernel   of the convolution
    """

    hidden: int
    width: int
    blocks: int
    kernel: int
    activation: str = "gelu_pytorch_tanh"

    def tensors(self) -> tuple[Tensor, ...]:
        """Three matrices with biases, the convolution, two gates of blocks, the decay."""
        at, part = "temporal_block", self.width // self.blocks
        made = [
            *_matrix(f"{at}.linear_y", self.width, self.hidden, "ssm_in", "ssm", self.blocks, True),
            *_matrix(f"{at}.linear_x", self.width, self.hidden, "ssm_in", "ssm", self.blocks, True),
            *_matrix(f"{at}.linear_out", self.hidden, self.width, "ssm_out", "ssm", self.blocks, True),
            Tensor(f"{at}.conv_1d.weight", (self.width, 1, self.kernel), "ssm", "ssm_other"),
            Tensor(f"{at}.conv_1d.bias", (self.width,), "ssm", "ssm_other"),
            Tensor(f"{at}.rg_lru.recurrent_param", (self.width,), "ssm", "ssm_other"),
        ]
        for gate in ("input", "recurrent"):
            made.append(Tensor(f"{at}.rg_lru.{gate}_gate_weight", (self.blocks, part, part), "ssm", "ssm_other"))
            made.append(Tensor(f"{at}.rg_lru.{gate}_gate_bias", (self.blocks, part), "ssm", "ssm_other"))
        return tuple(made)

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The running state of every channel, and the last inputs of the convolution.

        >>> [state.elements for state in LinearRecurrence(2560, 2560, 10, 4).states()]
        [2560, 7680]
        """
        width = ceil_div(self.blocks, tensor) * (self.width // self.blocks)
        return (State("recurrent", width, "float32"), State("convolution", width * (self.kernel - 1)))

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' RecurrentGemmaRecurrentBlock.forward."""
        y = tape.unary(tape.linear(x, self.hidden, self.width, True, "linear_y"))
        x = tape.turn(tape.linear(x, self.hidden, self.width, True, "linear_x"))
        store(tape, self.states()[1:])
        x = tape.copy(tape.turn(causal_convolution(tape, x, self.width, self.kernel, bias=True), dense=True))
        given = tape.unary_output(self._gate(tape, x))
        gate = tape.unary_output(self._gate(tape, x))
        decay = tape.unary(tape.parameter(self.width))
        exponent = tape.multiply(tape.scale(gate), decay)
        gate = tape.unary_output(exponent)
        square = tape.unary_output(tape.scale(exponent))
        inputs = tape.multiply(x, given)
        factor = tape.unary(tape.shift(square))
        reset = tape.new(tape.mode.queries, BOOL)
        factor = tape.operate(factor.elements, factor.dtype, (factor,), (reset,))
        normed = tape.multiply(inputs, factor)
        states = tape.new(normed.elements, FLOAT)
        scanned = tape.attach(tape.new(normed.elements, normed.dtype), (normed, gate), (gate, states))
        store(tape, self.states()[:1])
        return tape.linear(tape.multiply(scanned, y), self.width, self.hidden, True, "linear_out")

    def _gate(self, tape: Tape, x: Value) -> Value:
        """A matrix for every block."""
        weight = tape.lowered(tape.parameter(self.width * (self.width // self.blocks)))
        bias = tape.lowered(tape.parameter(self.width))
        out = tape.operate(scaled(tape.mode.queries, self.width), x.dtype, (x, weight, bias), (x, weight), as_inputs)
        out.dense = False
        return tape.copy(out)


@dataclass(frozen=True, slots=True)
class NamedResidualBlock(Block):
    """mixer(norm(x)) + x, then feed_forward(norm(y)) + y, each with a name of its own: RecurrentGemma."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' RecurrentGemmaDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        normed = self.norms[0].forward(tape, x)
        y = self.mixer.forward(tape, normed)
        residual = tape.add(y, x)
        y = self.norms[1].forward(tape, residual)
        y = self.feed_forward.forward(tape, y)
        out = tape.add(y, residual)
        del normed
        return out


# ---------------------------------------------------------------------- xLSTM


@dataclass(frozen=True, slots=True)
class MatrixMemory(Recurrence):
    """mLSTM: a key × value matrix a head, with input and forget gates and an output gate. [arXiv:2405.04517] It is
    answered as a chunked kernel that keeps queries, keys, values, gates and the state at the end of every chunk.

    keys, values   widths of all heads together
    bias    on all matrices (the gates' have one always)
    fused   whether q, k, v and the output gate are one matrix, and the gates another
    chunk   tokens of a chunk
    """

    hidden: int
    heads: int
    keys: int
    values: int
    bias: bool = False
    fused: bool = False
    chunk: int = 64

    def tensors(self) -> tuple[Tensor, ...]:
        """Matrices, gates and the norm over heads."""
        at, hidden, heads = "mlstm_layer", self.hidden, self.heads
        made: list[Tensor] = []
        if self.fused:
            wide = 2 * self.keys + 2 * self.values
            made += _matrix(f"{at}.qkv_opreact", wide, hidden, "ssm_in", "ssm", heads, self.bias)
            made += _matrix(f"{at}.ifgate_preact", 2 * heads, hidden, "ssm_other", "ssm", heads, True)
        else:
            for name, out in (("q", self.keys), ("k", self.keys), ("v", self.values), ("ogate_preact", self.values)):
                made += _matrix(f"{at}.{name}", out, hidden, "ssm_in", "ssm", heads, self.bias)
            for name in ("igate_preact", "fgate_preact"):
                made += _matrix(f"{at}.{name}", heads, hidden, "ssm_other", "ssm", heads, True)
        norm = LayerNorm(self.values, f"{at}.multihead_norm", bias=self.bias)
        return (
            *made,
            *norm.tensors(),
            *_matrix(f"{at}.out_proj", hidden, self.values, "ssm_out", "ssm", heads, self.bias),
        )

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A key × value matrix, a key vector and a figure a head, in float32.

        >>> [state.elements for state in MatrixMemory(4096, 8, 2048, 4096).states()]
        [1050632]
        """
        key, value = self.keys // self.heads, self.values // self.heads
        return (recurrent(self.heads, 1, key * value + key + 1, "float32", tensor),)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' xLSTMLayer.forward."""
        rows, hidden, heads = tape.mode.queries, self.hidden, self.heads
        if self.fused:
            joined = tape.linear(x, hidden, 2 * self.keys + 2 * self.values, self.bias, "qkv_opreact")
            parts = [scaled(rows, each) for each in (self.keys, self.keys, self.values, self.values)]
            q, k, v, out_gate = tape.split(joined, *parts)
            gates = tape.linear(x, hidden, 2 * heads, True, "ifgate_preact")
            given, forget = tape.split(gates, scaled(rows, heads), scaled(rows, heads))
        else:
            q = tape.linear(x, hidden, self.keys, self.bias, "q")
            k = tape.linear(x, hidden, self.keys, self.bias, "k")
            v = tape.linear(x, hidden, self.values, self.bias, "v")
            out_gate = tape.linear(x, hidden, self.values, self.bias, "ogate_preact")
            given = self._capped(tape, tape.linear(x, hidden, heads, True, "igate_preact"))
            forget = self._capped(tape, tape.linear(x, hidden, heads, True, "fgate_preact"))
        key = self.keys // heads
        per_token = key * (self.values // heads) * heads // self.chunk
        states = tape.new(scaled(rows, max(per_token, 1)), FLOAT)
        figures = tape.new(scaled(rows, 2 * heads), FLOAT)
        y = tape.new(v.elements, v.dtype)
        y = tape.attach(y, (q, k, v, given, forget), (q, k, v, given, forget, y, states, figures))
        store(tape, self.states())
        y = LayerNorm(self.values // heads, bias=self.bias).forward(tape, y)
        y = tape.multiply(tape.unary_output(out_gate), y)
        return tape.linear(y, self.values, hidden, self.bias, "out_proj")

    def _capped(self, tape: Tape, x: Value) -> Value:
        return tape.scale(tape.unary_output(tape.scale(x)))
