"""Selective state-space layers: Mamba and Mamba-2. Their cache is a state that does not grow with the context.

The programs are those of a GPU with the kernels these models are trained and served with (causal-conv1d and mamba-ssm),
which transformers takes where they are installed. Its Python loops, the way without them, keep every step of the scan
and are not what a user runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, HALF, WIDTH, Mode, Size, Tape, Value, scaled
from ..tensors import Cut, Tensor
from ..units import ceil_div
from .attention import keep
from .kernels import backward_with, causal_convolution, hold, in_float, per_chunk, weight
from .norms import normalized
from .states import State, convolution, recurrent

SCAN_CHUNK = 2048  # tokens after which mamba-ssm's selective scan writes its state down (selective_scan_fwd_kernel.cuh)


def _vector(name: str, *shape: int, role: str = "ssm_other", pieces: int = 1) -> Tensor:
    cut = Cut.TENSOR if pieces > 1 else Cut.NONE
    return Tensor(name, shape, "ssm", role, cut=cut, pieces=pieces)


def _matrix(name: str, out: int, into: int, role: str, bias: bool, pieces: int, row: bool = False) -> list[Tensor]:
    made = [Tensor(f"{name}.weight", (out, into), "ssm", role, True, Cut.TENSOR, pieces)]
    if bias:
        made.append(Tensor(f"{name}.bias", (out,), "ssm", "bias", False, Cut.NONE if row else Cut.TENSOR, pieces))
    return made


def activations(mode: Mode) -> str:
    """dtype of what linear layers hand on."""
    return HALF if mode.autocast else mode.weights


def state_bytes(state: State, mode: Mode) -> Size:
    """A state's storage in a batch."""
    dtype = FLOAT if state.precision == "float32" else activations(mode)
    return (0, state.elements * WIDTH[dtype], 0, 0, 0, 0)


def store(tape: Tape, states: tuple[State, ...]) -> None:
    """What transformers keeps of a prefill: storages of their own, which later steps overwrite."""
    if tape.mode.step == "prefill":
        for state in states:
            dtype = FLOAT if state.precision == "float32" else activations(tape.mode)
            keep(tape, tape.new((0, state.elements, 0, 0, 0, 0), dtype))


@dataclass(frozen=True, slots=True)
class Mamba:
    """The selective scan of Mamba: every channel has a state of its own. [arXiv:2312.00752]

    hidden, inner   widths of the hidden states and of the scan
    state_size      state elements a channel
    kernel          length of the causal convolution
    rank            of the time-step projection
    heads           1, or several scans that each see a part of the channels (Zamba)
    projection_bias, convolution_bias   biases
    norms           whether the time step, B and C are normalized with weights of their own (Jamba)
    plain_norms     whether they are normalized without weights (Falcon Mamba)
    precision       of the recurrent state
    """

    hidden: int
    inner: int
    state_size: int
    kernel: int
    rank: int
    heads: int = 1
    projection_bias: bool = False
    convolution_bias: bool = True
    norms: bool = False
    plain_norms: bool = False
    prefix: str = "mixer"
    precision: str = "float32"

    def tensors(self) -> tuple[Tensor, ...]:
        """in, convolution, x → (time step, B, C), time step, A, D, out."""
        inner, at = self.inner, self.prefix
        wide = self.rank + 2 * self.state_size
        made = _matrix(f"{at}.in_proj", 2 * inner, self.hidden, "ssm_in", self.projection_bias, inner)
        made.append(_vector(f"{at}.conv1d.weight", inner, 1, self.kernel, pieces=inner))
        if self.convolution_bias:
            made.append(_vector(f"{at}.conv1d.bias", inner, role="bias", pieces=inner))
        if self.heads == 1:
            made += _matrix(f"{at}.x_proj", wide, inner, "ssm_other", False, inner)
            made += _matrix(f"{at}.dt_proj", inner, self.rank, "ssm_other", True, inner)
        else:
            part = inner // self.heads
            made.append(_vector(f"{at}.x_proj_weight", self.heads, wide, part, pieces=self.heads))
            made.append(_vector(f"{at}.dt_proj_weight", self.heads, part, self.rank, pieces=self.heads))
            made.append(_vector(f"{at}.dt_proj_bias", self.heads, part, role="bias", pieces=self.heads))
        made.append(_vector(f"{at}.A_log", inner, self.state_size, pieces=inner))
        made.append(_vector(f"{at}.D", inner, pieces=inner))
        made += _matrix(f"{at}.out_proj", self.hidden, inner, "ssm_out", self.projection_bias, inner, row=True)
        if self.norms:
            for name, width in (("dt", self.rank), ("b", self.state_size), ("c", self.state_size)):
                made.append(Tensor(f"{at}.{name}_layernorm.weight", (width,), "norm", "norm"))
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A state for every channel, and the last inputs of the convolution.

        >>> [state.elements for state in Mamba(4096, 8192, 16, 4, 256).states()]
        [131072, 32768]
        """
        channels = ceil_div(self.inner, tensor)
        return (recurrent(channels, 1, self.state_size, self.precision), convolution(channels, self.kernel))

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the states before a decode step, which it overwrites in place."""
        return tuple(state_bytes(state, mode) for state in self.states())

    def forward(self, tape: Tape, x: Value) -> Value:
        """The fused function in training (mamba_inner_fn); convolution and scan one after the other with a cache."""
        projected = tape.linear(x, self.hidden, 2 * self.inner, self.projection_bias, "in_proj")
        negative = tape.scale(tape.unary_output(in_float(tape, self.inner * self.state_size)))
        if tape.mode.training and self.heads == 1:
            return self._fused(tape, projected, negative)
        return self._scanned(tape, projected, negative)

    def _fused(self, tape: Tape, projected: Value, negative: Value) -> Value:
        """mamba-ssm's MambaInnerFn: keeps the input of both halves, time step with B and C, a state every 2,048 tokens
        and the scan's output before its gate; convolution and time steps are computed again on the way back."""
        rows, dtype = tape.mode.queries, projected.dtype
        inner, size = self.inner, self.state_size
        channels = scaled(rows, inner)
        both = tape.copy(tape.turn(projected))  # the kernel wants positions last
        weights = [
            weight(tape, inner * (self.rank + 2 * size)),
            weight(tape, inner * self.rank),
            weight(tape, self.hidden * inner),
        ]
        small = [weight(tape, inner * self.kernel), in_float(tape, inner), in_float(tape, inner)]
        if self.convolution_bias:
            small.append(weight(tape, inner))
        mixed = tape.new(channels, dtype)  # out of the convolution
        joined = tape.new(scaled(rows, self.rank + 2 * size), dtype)
        steps = tape.new(channels, dtype)
        sides = hold(tape, ((scaled(rows, size), dtype), (scaled(rows, size), dtype)))
        passing = tape.new(per_chunk(rows, 2 * inner * size, SCAN_CHUNK), FLOAT)
        scanned, gated = tape.new(channels, dtype), tape.new(channels, dtype)
        del mixed, steps
        out = tape.new(scaled(rows, self.hidden), dtype)
        del gated
        scratch = ((channels, dtype),) * 5 + ((scaled(rows, 2 * inner), dtype),)
        return tape.attach(
            out,
            (both, *weights, *small, negative),
            (both, *weights, *small, negative, joined, *sides, passing, scanned),
            backward_with(scratch),
        )

    def _scanned(self, tape: Tape, projected: Value, negative: Value) -> Value:
        rows = tape.mode.queries
        channels, size = scaled(rows, self.inner), self.state_size
        mixed, gate = tape.split(tape.turn(projected), channels, channels)
        store(tape, self.states()[1:])
        mixed = causal_convolution(tape, mixed, self.inner, self.kernel, self.convolution_bias)
        wide = self.rank + 2 * size
        if self.heads == 1:
            joined = tape.linear(tape.turn(mixed, dense=True), self.inner, wide, module="x_proj")
        else:
            joined = tape.matmul(mixed, tape.parameter(wide * self.inner), scaled(rows, self.heads * wide))
        parts = [scaled(rows, self.heads * each) for each in (self.rank, size, size)]
        step, left, right = tape.split(joined, *parts)
        if self.norms or self.plain_norms:
            step, left, right = (
                _small_norm(tape, part, width, self.norms)
                for part, width in ((step, self.rank), (left, size), (right, size))
            )
        step = tape.matmul(step, tape.parameter(self.inner * self.rank), channels)
        extra = [in_float(tape, self.inner), in_float(tape, self.inner)]  # D and the bias of the time step
        out = tape.new(channels, projected.dtype)
        passing = tape.new(per_chunk(rows, 2 * self.inner * size, SCAN_CHUNK), FLOAT)
        gated = tape.new(channels, projected.dtype)
        inputs = (mixed, step, negative, left, right, gate, *extra)
        gated = tape.attach(gated, inputs, (*inputs, out, passing), backward_with(((channels, projected.dtype),)))
        store(tape, self.states()[:1])
        return tape.linear(
            tape.turn(gated, dense=self.heads == 1), self.inner, self.hidden, self.projection_bias, "out_proj"
        )


def _small_norm(tape: Tape, x: Value, width: int, affine: bool) -> Value:
    dtype = x.dtype
    y = tape.cast(normalized(tape, tape.cast(x, FLOAT), width, 1), dtype)
    return tape.multiply(y, tape.parameter(width)) if affine else y


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Mamba-2: heads with one decay each, and keys and queries (B, C) shared by groups of heads. [arXiv:2405.21060]

    heads, head_dim   their product is the inner width
    state_size        state columns a head
    groups            of heads that share B and C
    chunk             tokens that the scan takes at once
    gated_norm        whether the scan's output is normalized after its gate (else it is only gated)
    input_scaled      whether the projection of the input is multiplied by a constant vector (Falcon H1)
    precision         of the recurrent state
    """

    hidden: int
    heads: int
    head_dim: int
    state_size: int
    groups: int
    kernel: int
    chunk: int = 256
    projection_bias: bool = False
    output_bias: bool = False
    convolution_bias: bool = True
    gated_norm: bool = True
    input_scaled: bool = False
    prefix: str = "mixer"
    precision: str = "float32"

    @property
    def inner(self) -> int:
        """Width of the scan."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: the scan's input, B and C."""
        return self.inner + 2 * self.groups * self.state_size

    @property
    def projected(self) -> int:
        """Width of the projection: gate, channels of the convolution, time steps."""
        return self.inner + self.channels + self.heads

    def tensors(self) -> tuple[Tensor, ...]:
        """in, convolution, the biases of the time steps, A, D, the gated norm, out."""
        at, heads = self.prefix, self.heads
        made = _matrix(f"{at}.in_proj", self.projected, self.hidden, "ssm_in", self.projection_bias, heads)
        made.append(_vector(f"{at}.conv1d.weight", self.channels, 1, self.kernel, pieces=heads))
        if self.convolution_bias:
            made.append(_vector(f"{at}.conv1d.bias", self.channels, role="bias", pieces=heads))
        made += [_vector(f"{at}.{name}", heads, pieces=heads) for name in ("dt_bias", "A_log", "D")]
        if self.gated_norm:
            made.append(Tensor(f"{at}.norm.weight", (self.inner,), "norm", "norm", cut=Cut.TENSOR, pieces=heads))
        made += _matrix(f"{at}.out_proj", self.hidden, self.inner, "ssm_out", self.output_bias, heads, row=True)
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that grow with the context: none."""
        return 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """A matrix for every head, and the last inputs of the convolution.

        >>> [state.elements for state in Mamba2(4096, 128, 64, 128, 8, 4).states()]
        [1048576, 40960]
        """
        heads, groups = ceil_div(self.heads, tensor), ceil_div(self.groups, tensor)
        channels = heads * self.head_dim + 2 * groups * self.state_size
        return (
            recurrent(heads, self.head_dim, self.state_size, self.precision),
            convolution(channels, self.kernel),
        )

    def state(self, tensor: int = 1) -> int:
        """Elements kept a sequence whatever its length."""
        return sum(state.elements for state in self.states(tensor))

    def held(self, mode: Mode) -> tuple[Size, ...]:
        """Bytes of the states before a decode step, which it overwrites in place."""
        return tuple(state_bytes(state, mode) for state in self.states())

    def forward(self, tape: Tape, x: Value) -> Value:
        """One fused function in training; convolution, scan and norm one after the other with a cache."""
        if self.input_scaled:
            x = tape.scale(x)
        projected = tape.linear(x, self.hidden, self.projected, self.projection_bias, "in_proj")
        if self.input_scaled:
            projected = tape.scale(projected)
        decay = tape.scale(tape.unary_output(in_float(tape, self.heads)))
        if tape.mode.training:
            return self._fused(tape, projected, decay)
        return self._scanned(tape, projected, decay)

    def _scan(self, dtype: str) -> tuple[tuple[Size, str], ...]:
        """What a chunked scan holds for each token: time steps and decays a head in float32, the states of all chunks
        in float32 and in the activations' precision, and the scores of B and C inside a chunk."""
        token: Size = (0, 0, 0, 1, 0, 0)
        states = per_chunk(token, self.inner * self.state_size, self.chunk)
        return (
            (scaled(token, 2 * self.heads), FLOAT),
            (states, FLOAT),
            (states, dtype),
            (scaled(token, self.groups * self.chunk), FLOAT),
        )

    def _fused(self, tape: Tape, projected: Value, decay: Value) -> Value:
        """mamba-ssm's MambaSplitConv1dScanCombinedFn: keeps the projection and the scan's output; all else is computed
        again on the way back."""
        rows, dtype = tape.mode.queries, projected.dtype
        inner = scaled(rows, self.inner)
        weights = [weight(tape, self.channels * self.kernel), weight(tape, self.hidden * self.inner)]
        if self.convolution_bias:
            weights.append(weight(tape, self.channels))
        weights += [tape.parameter(self.heads), tape.parameter(self.heads)]  # D and the bias of the time steps
        mixed = tape.new(scaled(rows, self.channels), dtype)
        scratch = self._scan(dtype)
        held = hold(tape, (scratch[0], scratch[2], scratch[3]))
        scanned = tape.new(inner, dtype)
        saved = [projected, scanned]
        final = scanned
        if self.gated_norm:
            weights.append(weight(tape, self.inner))
            final = tape.new(inner, dtype)
            saved.append(tape.new(scaled(rows, self.groups), FLOAT))
        out = tape.new(scaled(rows, self.hidden), dtype)
        del mixed, held, final
        back = (
            (scaled(rows, 2 * self.channels), dtype),  # the convolution's output again, and its gradient
            (scaled(inner, 3), dtype),  # gradients before and after the norm, the norm's output again
            *scratch,
        )
        inputs = (projected, decay, *weights)
        return tape.attach(out, inputs, (*saved, decay, *weights), backward_with(back))

    def _scanned(self, tape: Tape, projected: Value, decay: Value) -> Value:
        rows, dtype = tape.mode.queries, projected.dtype
        inner = scaled(rows, self.inner)
        gate, mixed, _steps = tape.split(projected, inner, scaled(rows, self.channels), scaled(rows, self.heads))
        store(tape, self.states()[1:])
        mixed = causal_convolution(tape, mixed, self.channels, self.kernel, self.convolution_bias)
        if tape.mode.step == "decode":
            scanned = tape.new(inner, dtype)
        else:
            scratch = self._scan(dtype)
            held = hold(tape, scratch[:2])
            held[1] = tape.new(*scratch[2])
            final = tape.new((0, self.states()[0].elements, 0, 0, 0, 0), FLOAT)
            held.append(tape.new(*scratch[3]))
            scanned = tape.new(inner, dtype)
            del held
            store(tape, self.states()[:1])
            del final
        y = gated_norm(tape, scanned, gate, self.inner) if self.gated_norm else self._gated(tape, scanned, gate)
        return tape.linear(y, self.inner, self.hidden, self.output_bias, "out_proj")

    def _gated(self, tape: Tape, scanned: Value, gate: Value) -> Value:
        return tape.multiply(scanned, tape.unary(gate))


def gated_norm(tape: Tape, x: Value, gate: Value, width: int) -> Value:
    """weight · norm(x · silu(gate)), in float32 until the end, in Python."""
    dtype = x.dtype
    x = tape.cast(x, FLOAT)
    x = tape.multiply(x, tape.unary(tape.cast(gate, FLOAT)))
    x = tape.cast(normalized(tape, x, width, 1), dtype)
    return tape.multiply(x, tape.parameter(width))
