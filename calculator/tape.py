"""Abstract tensors: a layer's forward pass is a short program on a tape, and memory follows from it.

A `Value` has a size but no contents. Sizes are symbolic: integer vectors over `BASIS`, so that one trace of a layer
answers for every batch and length. The tape knows what torch's operators allocate, what autograd saves of them
for the backward pass and in which order the engine runs it; from that follow, for a layer, the bytes it keeps, and
every
moment that could be the peak of its forward or backward pass.

Lifetimes are Python's own: a storage lives while a value, a saved slot or a gradient refers to it (CPython frees it at
the last reference), exactly as a torch tensor does. So a program written with the same local variables as a
model's forward pass holds the same tensors at the same moments.

Sources: torch 2.13.0 (derivatives.yaml, engine.cpp, input_buffer.cpp, accumulate_grad.h, autocast_mode.cpp,
sdp_utils.cpp); models as in transformers 5.23.0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import add, sub
from typing import Any
from weakref import ref

Size = tuple[int, int, int, int, int, int]

# One, b sequences, s positions, b·s tokens, s² (a mask), b·s² (scores of one head). In a decode step the query is
# one token
# and s is the length of the context, so scores are b·s and positions of the query are 1: see `Mode.rows`.
BASIS = ("1", "b", "s", "b·s", "s²", "b·s²")
NOTHING: Size = (0, 0, 0, 0, 0, 0)
ONE: Size = (1, 0, 0, 0, 0, 0)
SEQUENCES: Size = (0, 1, 0, 0, 0, 0)
POSITIONS: Size = (0, 0, 1, 0, 0, 0)
TOKENS: Size = (0, 0, 0, 1, 0, 0)
SQUARE: Size = (0, 0, 0, 0, 1, 0)
SCORES: Size = (0, 0, 0, 0, 0, 1)

HALF, FLOAT, BOOL, LONG, INT = "half", "float", "bool", "long", "int"
WIDTH = {HALF: 2, FLOAT: 4, BOOL: 1, LONG: 8, INT: 4}


# What is alive at one moment, in bytes: a size, and apart from it the gradients of parameters that stay until the step.
Moment = tuple[int, int, int, int, int, int, int]
SILENCE: Moment = (0, 0, 0, 0, 0, 0, 0)


def scaled(size: Sequence[int], by: int) -> Size:
    """A size times an integer."""
    a, b, c, d, e, f = size
    return (a * by, b * by, c * by, d * by, e * by, f * by)


def plus(*sizes: Sequence[int]) -> Size:
    """The sum of sizes."""
    a, b, c, d, e, f = map(sum, zip(*sizes, strict=True))
    return (a, b, c, d, e, f)


def evaluate(size: Sequence[int], sequences: int, length: int) -> int:
    """The number a size stands for, at so many sequences of so many tokens; of a moment, the part without gradients.

    >>> evaluate((1, 0, 0, 2, 0, 0), sequences=3, length=5)
    31
    """
    return (
        size[0]
        + sequences * size[1]
        + length * (size[2] + sequences * size[3] + length * (size[4] + sequences * size[5]))
    )


def together(*sizes: Sequence[int]) -> Moment:
    """The sum of sizes and moments, as a moment.

    >>> together((1, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 5))
    (2, 0, 0, 0, 0, 0, 5)
    """
    one = b = s = bs = ss = bss = gradients = 0
    for size in sizes:
        one += size[0]
        b += size[1]
        s += size[2]
        bs += size[3]
        ss += size[4]
        bss += size[5]
        if len(size) == 7:
            gradients += size[6]
    return (one, b, s, bs, ss, bss, gradients)


def less(moment: Sequence[int], other: Sequence[int]) -> Moment:
    """A moment less another."""
    a, b, c, d, e, f, g = map(sub, moment, other)
    return (a, b, c, d, e, f, g)


def front(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    """The moments that no other exceeds in every term: the largest is among them, whatever batch and length."""
    kept: list[Moment] = []
    for moment in sorted(set(moments), reverse=True):
        a, b, c, d, e, f, g = moment
        for o in kept:
            if a <= o[0] and b <= o[1] and c <= o[2] and d <= o[3] and e <= o[4] and f <= o[5] and g <= o[6]:
                break
        else:
            kept.append(moment)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank adapters on linear layers: rank, module names (or "all-linear"), dtype of their weights, DoRA or not."""

    rank: int
    targets: tuple[str, ...]
    dtype: str
    dora: bool = False

    def takes(self, module: str) -> bool:
        """Whether a linear layer of that module name is adapted."""
        return "all-linear" in self.targets or module in self.targets


@dataclass(frozen=True, slots=True)
class Mode:
    """What a trace depends on besides the layer: one key of the trace cache.

    step        training, prefill or decode
    weights     dtype of the parameters
    autocast    whether a 16-bit autocast region is on
    attention   sdpa, flash or eager
    frozen      whether the layer's own parameters are frozen (adapters are trained instead)
    adapter     adapters on linear layers
    input_grad  whether the layer's input needs a gradient
    one         whether there is a single sequence (a broadcast over it is then a view)
    exceeded    windows that the sequence is at least as long as
    fresh       whether a decode step is the first after a prefill of the whole context
    quantized   weights are unpacked to a 16-bit copy for each product
    kernels     standard or liger
    """

    step: str = "training"
    weights: str = HALF
    autocast: bool = False
    attention: str = "sdpa"
    frozen: bool = False
    adapter: Adapter | None = None
    input_grad: bool = True
    one: bool = False
    exceeded: frozenset[int] = frozenset()
    fresh: bool = True
    quantized: bool = False
    kernels: str = "standard"

    @property
    def hidden(self) -> str:
        """dtype of the hidden states between layers: that of the embedding's weights."""
        return self.weights

    @property
    def training(self) -> bool:
        """Whether autograd records."""
        return self.step == "training"

    @property
    def queries(self) -> Size:
        """Rows of the hidden states: every token, or one a sequence in a decode step."""
        return SEQUENCES if self.step == "decode" else TOKENS

    @property
    def query_positions(self) -> Size:
        """Positions of the hidden states."""
        return ONE if self.step == "decode" else POSITIONS

    @property
    def scores(self) -> Size:
        """Entries of one head's score matrix."""
        return TOKENS if self.step == "decode" else SCORES

    @property
    def mask(self) -> Size:
        """Entries of a mask without a batch."""
        return POSITIONS if self.step == "decode" else SQUARE


class Storage:
    """Bytes that live while somebody refers to them."""

    __slots__ = ("bytes", "tape")

    def __init__(self, tape: Tape, size: Size) -> None:
        self.tape = tape
        self.bytes: Moment = (*size, 0)
        tape.live = live = tuple(map(add, tape.live, self.bytes))
        tape.moments.append(live)

    def settle(self) -> None:
        """Become the gradient of a parameter: the same bytes, counted apart."""
        one = self.bytes[0]
        self.bytes = (0, *self.bytes[1:6], one)
        a, b, c, d, e, f, g = self.tape.live
        self.tape.live = (a - one, b, c, d, e, f, g + one)

    def __del__(self) -> None:
        self.tape.live = tuple(map(sub, self.tape.live, self.bytes))


class Node:
    """One recorded operation: what it saved, whose outputs it took, and how its gradient is made."""

    __slots__ = ("__weakref__", "buffer", "inputs", "outputs", "rule", "saved")

    def __init__(
        self,
        inputs: tuple[tuple[Node | Leaf, int, Size, str] | None, ...],
        saved: list[Storage | None],
        rule: Rule,
        outputs: int = 1,
    ) -> None:
        self.inputs = inputs
        self.saved = saved
        self.rule = rule
        self.outputs = outputs
        self.buffer: list[Value | None] = [None] * outputs


class Leaf:
    """A trained parameter: its gradient stays when the backward pass is over, unless another use of it holds it."""

    __slots__ = ("borrowed", "dtype", "elements")

    def __init__(self, elements: int, dtype: str, borrowed: bool = False) -> None:
        self.elements = elements
        self.dtype = dtype
        self.borrowed = borrowed


class Value:
    """An abstract tensor: elements, dtype, the storage it looks at, and the operation that made it.

    `storage` is None for parameters, which are counted elsewhere. `dense` is False for a view that a reshape must copy.
    """

    __slots__ = ("dense", "dtype", "elements", "index", "node", "storage")

    def __init__(
        self,
        elements: Size,
        dtype: str,
        storage: Storage | None,
        node: Node | Leaf | None = None,
        index: int = 0,
        dense: bool = True,
    ) -> None:
        self.elements = elements
        self.dtype = dtype
        self.storage = storage
        self.node = node
        self.index = index
        self.dense = dense


Rule = Callable[["Tape", list["Value | None"], Node], "list[Value | None]"]

_ALONE = 3  # references a storage has when only one value holds it: the value, the local name, getrefcount's argument


class Shared(dict[str, "Value"]):
    """What every layer of the model sees: rotary tables, masks; and which of it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Value:
        self.used.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, if the mode has it."""
        self.used.add(name)
        return super().get(name, default)


class Tape:
    """One trace: live bytes, every moment seen, the recorded graph, and the gradients that stay."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.live: Moment = SILENCE
        self.moments: list[Moment] = []
        self.nodes: list[ref[Node]] = []  # a node nobody needs any more goes, and what it saved with it
        self.gradients: list[Storage] = []
        self.casts: list[Storage] = []  # autocast's cache of 16-bit weights, dropped at the region's end
        self.cached: list[Storage] = []  # keys, values and states that stay for the next step
        self.leaves: list[Storage | None] = []  # outputs asked for a gradient, which the end of the graph holds
        self.lingering: list[Value] = []  # what a layer's local variables hold until it returns
        self.held: list[Value] = []  # what the model's own local variables hold while the layers run
        self.asked = False  # whether the embedding's output is asked for a gradient of its own (checkpointed adapters)
        self.aside: list[Value] = []  # what the embedding makes for all layers beside the hidden states
        self.shared = Shared()
        self.pending: list[tuple[Node, Size, str]] = []  # gradients that later layers have begun and this one adds to
        self.borrowing = False  # parameters made now belong to another layer, where their gradients are counted
        self.selecting: list[Storage] | None = None  # what selective checkpointing keeps; None elsewhere
        self.products = 0
        self.recording = mode.training
        self.saving = True  # a checkpointed forward pass records but keeps nothing
        self.recomputed = False  # what a node saved goes as its gradients are made, not once they are brought to shape
        self.last_save = 0  # moments seen when something was last saved: a recomputation stops there

    # ------------------------------------------------------------------ making values

    def new(self, elements: Size, dtype: str) -> Value:
        """A fresh tensor without history."""
        return Value(elements, dtype, Storage(self, scaled(elements, WIDTH[dtype])))

    def parameter(self, elements: int, trained: bool | None = None, dtype: str | None = None) -> Value:
        """A parameter: counted elsewhere, a leaf of the graph where it is trained."""
        dtype = dtype or self.mode.weights
        trained = not self.mode.frozen if trained is None else trained
        leaf = Leaf(elements, dtype, self.borrowing) if trained and self.recording else None
        return Value((elements, 0, 0, 0, 0, 0), dtype, None, leaf)

    def view(self, value: Value, elements: Size | None = None, dense: bool = True) -> Value:
        """Another look at the same storage."""
        out = Value(elements or value.elements, value.dtype, value.storage, dense=dense)
        return self._record(out, (value,), [], _alias)

    def _record(
        self, out: Value, inputs: Sequence[Value], saved: list[Storage | None], rule: Rule, outputs: int = 1
    ) -> Value:
        if self.recording:
            links = tuple((v.node, v.index, v.elements, v.dtype) if v.node is not None else None for v in inputs)
            if any(links):
                out.node = node = Node(links, saved if self.saving else [], rule, outputs)
                self.nodes.append(ref(node))
        return out

    def operate(
        self,
        elements: Size,
        dtype: str,
        inputs: Sequence[Value],
        saved: Sequence[Value] = (),
        rule: Rule | None = None,
        save_output: bool = False,
        dense: bool = True,
    ) -> Value:
        """One operator: a fresh output, what it saves, and how its gradients are made (default: one as large as
        the output for each input). `dense` is False where an element-wise operator keeps a transposed layout."""
        if saved:
            self.last_save = len(self.moments)
        out = self.new(elements, dtype)
        out.dense = dense
        if self.recording:
            kept = [each.storage for each in saved]
            if save_output:
                self.last_save = len(self.moments)
                kept.append(out.storage)
            self._record(out, inputs, kept, rule or _fresh)
        return out

    def attach(self, out: Value, inputs: Sequence[Value], saved: Sequence[Value], rule: Rule | None = None) -> Value:
        """History for an output that is already there (a kernel of several outputs); gradients as large as the
        inputs."""
        if self.recording:
            self.last_save = len(self.moments)
            self._record(out, inputs, [each.storage for each in saved], rule or _fresh_input)
        return out

    # ------------------------------------------------------------------ element-wise

    def add(self, a: Value, b: Value) -> Value:
        """a + b, b no larger than a. Saves nothing; hands its gradient on to both, summed where b is repeated."""
        alike = a.elements == b.elements or (self.mode.one and evaluate(a.elements, 1, 7) == evaluate(b.elements, 1, 7))
        return self.operate(a.elements, _promoted(a, b), (a, b), (), _alias if alike else _alias_and_sum, dense=a.dense)

    def add_into(self, a: Value, b: Value) -> Value:
        """a += b: no fresh tensor; hands its gradient on to both."""
        return self._record(Value(a.elements, a.dtype, a.storage, dense=a.dense), (a, b), [], _alias)

    def expand(self, a: Value, times: int) -> Value:
        """One head shown `times` over, without a copy; the gradient is summed back."""
        return self._record(Value(scaled(a.elements, times), a.dtype, a.storage, dense=False), (a,), [], _fresh_input)

    def gather(self, a: Value, elements: Size) -> Value:
        """The last dimension by its index, or padded: a copy. Its gradient is as large as what came in."""
        return self.operate(elements, a.dtype, (a,), (), _fresh_input)

    def shift(self, a: Value) -> Value:
        """A constant added: a fresh output, the gradient handed on."""
        return self.operate(a.elements, a.dtype, (a,), (), _alias, dense=a.dense)

    def scale(self, a: Value) -> Value:
        """A constant factor."""
        return self.operate(a.elements, a.dtype, (a,), dense=a.dense)

    def multiply(self, a: Value, b: Value) -> Value:
        """a · b, b no larger than a: each is saved if the other needs a gradient."""
        saved = []
        if a.node is not None:
            saved.append(b)
        if b.node is not None:
            saved.append(a)
        return self.operate(a.elements, _promoted(a, b), (a, b), saved, dense=a.dense)

    def unary(self, a: Value) -> Value:
        """An activation that saves its input (silu, gelu)."""
        return self.operate(a.elements, a.dtype, (a,), (a,), dense=a.dense)

    def unary_output(self, a: Value) -> Value:
        """A function that saves its output (sigmoid, tanh, relu, rsqrt, exp)."""
        return self.operate(a.elements, a.dtype, (a,), (), save_output=True, dense=a.dense)

    def power(self, a: Value) -> Value:
        """a to a constant power. Its gradient makes the power and its multiple on the way; autocast runs it in
        float32."""
        a = self.cast(a, FLOAT) if self.mode.autocast else a
        return self.operate(a.elements, a.dtype, (a,), (a,), _power)

    def mean(self, a: Value, rows: Size) -> Value:
        """The mean over the last dimension."""
        return self.operate(rows, a.dtype, (a,), (), _fresh_input)

    def cast(self, a: Value, dtype: str) -> Value:
        """a in another dtype; itself if it has it already."""
        if a.dtype == dtype:
            return a
        return self.operate(a.elements, dtype, (a,), (), _fresh_input, dense=a.dense)

    def outside(self, a: Value, alone: bool = False) -> Value:
        """What lies outside the layer and is seen by others like it, whose gradient grows from one to the next; `alone`
        where this one is the first to add to it."""
        if not self.recording:
            return Value(a.elements, a.dtype, a.storage, dense=a.dense)
        node = Node((), [], lambda tape, grads, node: [])
        if not alone:
            self.pending.append((node, a.elements, a.dtype))
            if self.recomputed:
                self.begin(len(self.pending) - 1)
        return Value(a.elements, a.dtype, a.storage, node, dense=a.dense)

    def begin(self, first: int = 0) -> None:
        """The backward pass begins: what later layers have made of those gradients is there."""
        for node, elements, dtype in self.pending[first:]:
            node.buffer[0] = self.new(elements, dtype)

    def copy(self, a: Value) -> Value:
        """A dense copy of a view that is not dense; itself otherwise."""
        if a.dense:
            return a
        return self.operate(a.elements, a.dtype, (a,), (), _alias)

    def concatenate(self, *parts: Value) -> Value:
        """Parts side by side; the gradient is a view for each."""
        return self.operate(plus(*(p.elements for p in parts)), parts[0].dtype, parts, (), _alias)

    def dropout(self, a: Value, rate: float) -> Value:
        """Dropout while training: a copy and a one-byte mask; itself where the rate is 0."""
        if not rate or not self.recording:
            return a
        mask = self.new(a.elements, BOOL)
        out = self.operate(a.elements, a.dtype, (a,), (mask,))
        self.last_save = len(self.moments)  # the mask is made with the output
        return out

    def slice(self, a: Value, elements: Size, dense: bool = False) -> Value:
        """A part of the last dimension. Its gradient is a whole tensor of zeros with the part filled in."""
        out = Value(elements, a.dtype, a.storage, dense=dense)
        return self._record(out, (a,), [], _fresh_input)

    def split(self, a: Value, *sizes: Size, dense: bool = False) -> tuple[Value, ...]:
        """Parts of the last dimension as views; the gradient joins theirs in one fresh tensor."""
        parts = tuple(Value(size, a.dtype, a.storage, dense=dense) for size in sizes)
        if self.recording and a.node is not None:
            node = Node(((a.node, a.index, a.elements, a.dtype),), [], _join, len(parts))
            self.nodes.append(ref(node))
            for index, part in enumerate(parts):
                part.node, part.index = node, index
        return parts

    def repeat(self, a: Value, times: int) -> Value:
        """Every head `times` over, as a copy; the gradient is summed back."""
        if times == 1:
            return a
        return self.operate(scaled(a.elements, times), a.dtype, (a,), (), _fresh_input)

    # ------------------------------------------------------------------ products

    def linear(
        self,
        x: Value,
        into: int,
        out: int,
        bias: bool = False,
        module: str = "",
        rows: Size | None = None,
        plain: bool = False,
    ) -> Value:
        """x · Wᵀ (+ bias), with adapters where the mode puts them on `module`.

        Saves x if the weight is trained; under autocast keeps a 16-bit copy of the weight. `plain`: written as x @ W.T,
        so that autocast caches no copy of the view W.T, and the bias is added by an operator of its own (Falcon).
        """
        rows = rows or self.mode.queries
        x = self.copy(x)
        if self.mode.quantized and module:
            y = self._unpacked_product(x, into, out, rows)
        else:
            y = self._product(x, self.parameter(into * out), rows, out, bias and not plain, cached=not plain)
        if bias and plain:
            y = self.add(y, self.parameter(out))
        adapter = self.mode.adapter
        if adapter and module and adapter.takes(module):
            result = y.dtype
            low = self.cast(x, adapter.dtype)  # the copy stays until the layer returns
            if adapter.dora:
                update = self._magnitude(low, y, into, out, rows, adapter)
            else:
                update = self.update(low, into, out, rows, adapter)
            y = self.add(y, update)
            del update
            y = self.cast(y, result)
        return y

    def product(self, x: Value, weight: Value, rows: Size, out: int, bias: bool = False) -> Value:
        """x · Wᵀ with a matrix that is itself computed, or used in another dtype than it is stored in."""
        return self._product(self.copy(x), weight, rows, out, bias)

    def lowered(self, weight: Value) -> Value:
        """Autocast's 16-bit copy of a parameter, or the parameter itself."""
        return self._lowered(weight)

    def _product(self, x: Value, weight: Value, rows: Size, out: int, bias: bool, cached: bool = True) -> Value:
        if self.mode.autocast:
            x = self.cast(x, HALF)
        elif x.dtype != weight.dtype:
            x = self.cast(x, weight.dtype)
        weight = self._lowered(weight, cached)
        terms = [x, weight]
        saved = []
        if weight.node is not None:
            saved.append(x)
        if x.node is not None:
            saved.append(weight)
        if bias:
            terms.append(self._lowered(self.parameter(out, trained=weight.node is not None, dtype=None)))
        y = self.operate(scaled(rows, out), x.dtype, terms, saved, _fresh_input)
        self.products += 1
        if self.products % 2:
            self.keep(y)
        return y

    def _unpacked_product(self, x: Value, into: int, out: int, rows: Size) -> Value:
        """A product with a frozen packed weight, which a copy stands for while it runs, and again backward.

        The copy is in what the base is computed in. Nothing is saved but the packed weight; a wider x is brought to
        that precision and the result back.
        (bitsandbytes MatMul4Bit and Linear4bit; the Triton kernels of GPTQ unpack and multiply alike)
        """
        wide = x.dtype
        kind = FLOAT if self.mode.weights == FLOAT and not self.mode.autocast else HALF
        x = self.cast(x, kind)
        copy = Storage(self, scaled((into * out, 0, 0, 0, 0, 0), WIDTH[kind]))
        y = self.operate(scaled(rows, out), kind, (x,), (), _unpacking(into * out, kind))
        del copy
        return self.cast(y, wide)

    def keep(self, *values: Value) -> None:
        """Outputs that selective checkpointing keeps: attention, and every second product of a layer."""
        if self.selecting is not None:
            self.selecting += [each.storage for each in values if each.storage is not None]

    def _lowered(self, weight: Value, cached: bool = True) -> Value:
        """Autocast's 16-bit copy of a parameter: cached while the region lasts if the parameter is trained."""
        if not self.mode.autocast or weight.dtype == HALF:
            return weight
        if self.borrowing:  # the layer that owns it has made one
            return Value(weight.elements, HALF, None, weight.node)
        copy = self.cast(weight, HALF)
        if cached and isinstance(weight.node, Leaf) and copy.storage is not None:
            self.casts.append(copy.storage)
        return copy

    def _magnitude(self, x: Value, y: Value, into: int, out: int, rows: Size, adapter: Adapter) -> Value:
        """DoRA as peft writes it: the product of the factors, for the norm of the summed weight, comes from an identity
        sent through them; it and a copy of the weight are there until the layer's update is made. [arXiv:2402.09353]
        """
        every: Size = (into * out, 0, 0, 0, 0, 0)
        first = self._lowered(self.parameter(into * adapter.rank, True, adapter.dtype))
        second = self._lowered(self.parameter(adapter.rank * out, True, adapter.dtype))
        inputs: Size = (into, 0, 0, 0, 0, 0)
        identity = self.new((into * into, 0, 0, 0, 0, 0), adapter.dtype)
        through = self._product(identity, first, inputs, adapter.rank, False)
        drift = self.cast(self._product(through, second, inputs, out, False), x.dtype)
        del identity, through
        unpacked = self.new(every, HALF) if self.mode.quantized else None
        weight = self.new(every, x.dtype) if unpacked is not None or self.mode.weights != x.dtype else None
        del unpacked
        part = self.new(every, x.dtype)
        total = self.new(every, x.dtype)
        del part
        norms = self.new((out, 0, 0, 0, 0, 0), x.dtype)
        del total
        magnitude = self.parameter(out, True, adapter.dtype)
        factor = self.operate((out, 0, 0, 0, 0, 0), FLOAT, (magnitude,), (norms,))
        down = self._product(x, first, rows, adapter.rank, False)
        up = self._product(down, second, rows, out, False)
        del down
        base = self.multiply(y, self.shift(factor))
        update = self.scale(self.multiply(up, factor))
        result = self.add(base, update)
        del drift, weight
        return result

    def update(self, low: Value, into: int, out: int, rows: Size, adapter: Adapter) -> Value:
        """What peft adds to a linear layer's result: down, up, scaled."""
        down = self._product(low, self.parameter(into * adapter.rank, True, adapter.dtype), rows, adapter.rank, False)
        up = self._product(down, self.parameter(adapter.rank * out, True, adapter.dtype), rows, out, False)
        del down
        return self.scale(up)

    def matmul(self, a: Value, b: Value, elements: Size, inside: bool = False) -> Value:
        """A batched product of two activations: saves both. `inside` an operator autocast does not reach it."""
        if self.mode.autocast and not inside:
            a, b = self.cast(a, HALF), self.cast(b, HALF)
        if not self.mode.one:  # a batch and heads that lie apart are joined by a copy
            a, b = self.copy(a), self.copy(b)
        saved = []
        if a.node is not None:
            saved.append(b)
        if b.node is not None:
            saved.append(a)
        return self.operate(elements, a.dtype, (a, b), saved, _fresh_input)

    def softmax(self, a: Value) -> Value:
        """Softmax over the last dimension; saves its output. Autocast runs it in float32."""
        a = self.cast(a, FLOAT) if self.mode.autocast else a
        return self.operate(a.elements, a.dtype, (a,), (), save_output=True)

    def turn(self, a: Value, dense: bool = False) -> Value:
        """Heads before positions, or back: a view whose memory is in the other order."""
        return self.view(a, dense=dense)

    def embed(
        self,
        rows: Size,
        vocabulary: int,
        width: int,
        trained: bool | None = None,
        indices: Value | None = None,
    ) -> Value:
        """Rows looked up in a table; the gradient is a whole table. `indices` are saved where they are no input."""
        table = self.parameter(vocabulary * width, trained)
        saved = (indices,) if indices is not None and table.node is not None else ()
        return self.operate(scaled(rows, width), table.dtype, (table,), saved, _fresh_input)

    # ------------------------------------------------------------------ running backward

    def run(self, until: Node | Leaf | None = None) -> None:
        """Run what has a gradient waiting, latest first, as the engine does; `until` that node is next."""
        self.recording = False
        nodes = [node for node in (each() for each in self.nodes) if node is not None]
        self.nodes.clear()
        while nodes:
            node = nodes.pop()
            if node is until:
                nodes.append(node)
                break
            if any(each is not None for each in node.buffer):
                self._run_node(node)
            del node
        self.nodes = [ref(node) for node in nodes]

    def first_that_saved(self) -> Node | None:
        """The recorded node that saved something and will run first."""
        for each in reversed(self.nodes):
            node = each()
            if node is not None and node.saved:
                return node
        return None

    def _run_node(self, node: Node) -> None:
        grads, node.buffer = node.buffer, [None] * node.outputs
        results = node.rule(self, grads, node)
        if self.recomputed:
            node.saved = []
        for position, link in enumerate(node.inputs):
            grad = results[position] if link is not None else None
            if grad is None or link is None:
                continue
            results[position] = None
            if grad.elements != link[2]:
                grad = self.new(link[2], grad.dtype)
            if grad.dtype != link[3]:
                grad = self.new(link[2], link[3])
            results[position] = grad
            del grad
        grads.clear()
        node.saved = []
        for position, link in enumerate(node.inputs):
            if link is None:
                continue
            grad = results[position]
            results[position] = None
            if grad is not None:
                self._accumulate(link[0], link[1], grad)
            del grad

    def _accumulate(self, target: Node | Leaf, index: int, grad: Value) -> None:
        if isinstance(target, Leaf):
            if grad.storage is not None and not target.borrowed:
                grad.storage.settle()
                self.gradients.append(grad.storage)
            return
        waiting = target.buffer[index]
        if waiting is None:
            target.buffer[index] = grad
            return
        storage = waiting.storage
        if sys.getrefcount(storage) > _ALONE:  # somebody else looks at it: the sum needs a tensor of its own
            target.buffer[index] = self.new(waiting.elements, waiting.dtype)


# ---------------------------------------------------------------------- how gradients are made


def _promoted(a: Value, b: Value) -> str:
    return FLOAT if FLOAT in (a.dtype, b.dtype) else a.dtype


def _alias(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The gradient handed on as it is (a view of it, where the input was a part)."""
    grad = grads[0]
    assert grad is not None
    results: list[Value | None] = []
    for link in node.inputs:
        if link is None:
            results.append(None)
        else:
            smaller = sum(link[2]) <= sum(grad.elements)
            results.append(Value(link[2] if smaller else grad.elements, grad.dtype, grad.storage))
    return results


def _alias_and_sum(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The gradient handed on as it is to what is as large, and summed for what was repeated."""
    grad = grads[0]
    assert grad is not None
    first, second = node.inputs
    return [
        None if first is None else Value(grad.elements, grad.dtype, grad.storage),
        None if second is None else tape.new(second[2], second[3]),
    ]


def _fresh(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A fresh gradient as large as the output, for each input that needs one."""
    grad = grads[0]
    assert grad is not None
    return [None if link is None else tape.new(grad.elements, grad.dtype) for link in node.inputs]


def _fresh_input(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A fresh gradient as large as the input and of its dtype, for each input that needs one."""
    return [None if link is None else tape.new(link[2], link[3]) for link in node.inputs]


_product_gradient = _fresh_input
as_inputs = _fresh_input


def _unpacking(elements: int, kind: str) -> Rule:
    """The gradient of a product's input, beside the copy of the packed weight it is made with."""

    def rule(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
        copy = Storage(tape, scaled((elements, 0, 0, 0, 0, 0), WIDTH[kind]))
        made = _fresh_input(tape, grads, node)
        del copy
        return made

    return rule


def _power(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """grad · (n · x^(n-1)): the power, its multiple and the product are alive together."""
    link = node.inputs[0]
    assert link is not None
    first, second = tape.new(link[2], link[3]), tape.new(link[2], link[3])
    result = tape.new(link[2], link[3])
    del first, second
    return [result]


def _join(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """One fresh tensor that joins the gradients of the parts."""
    link = node.inputs[0]
    assert link is not None
    return [tape.new(link[2], link[3])]
