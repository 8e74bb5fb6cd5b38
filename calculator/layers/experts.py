"""Mixtures of experts: a router picks a few of many feed-forward layers for each token. [arXiv:2101.03961]

transformers 5 keeps the experts of a layer as stacks and runs them as grouped products: tokens are copied once for
each expert that takes them, sorted by expert, sent through two grouped products, and summed back. In 32 bit the
product is the same operator with a slower kernel; autocast leaves it alone, so that under autocast the experts run in
float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import BOOL, FLOAT, INT, LONG, Node, Size, Tape, Value, as_inputs, scaled
from ..tensors import Cut, Tensor
from .feed_forward import GatedFeedForward, activate

Routing = tuple[Value, Value, Value]  # logits, weights of the chosen experts, their numbers


# ---------------------------------------------------------------------- adapters on stacks


@dataclass(frozen=True, slots=True)
class StackTargets:
    """The names by which adapters pick a family's router and stacks. peft 0.21.2 maps the names that the layers had
    while each
    expert was a module of its own; all of a family's layers of these names are then left to the stacks.

    router, gate, up, down   the old names
    """

    router: str
    gate: str
    up: str
    down: str

    def takes(self, name: str) -> bool:
        """Whether a module of that name is no longer adapted by itself."""
        return name in (self.router, self.gate, self.up, self.down)


MIXTRAL_TARGETS = StackTargets("gate", "w1", "w3", "w2")
QWEN_TARGETS = StackTargets("gate", "gate_proj", "up_proj", "down_proj")


@dataclass(slots=True)
class Stack:
    """A stack as the forward pass sees it: the parameter, and the two factors of its adapter where it has one.

    peft's ParamWrapper makes W + scale · B·A anew in each forward pass, once for a check and once to be used and saved.
    """

    weight: Value
    left: Value | None = None
    right: Value | None = None

    def adapt(self, tape: Tape, experts: int, out: int, into: int, rank: int, dtype: str) -> None:
        """The factors in the parameter's dtype, and the check."""
        lower = tape.parameter(experts * rank * into, True, dtype)
        upper = tape.parameter(experts * rank * out, True, dtype)
        self.left = tape.cast(_ordered(tape, upper), self.weight.dtype)
        self.right = tape.cast(tape.view(lower), self.weight.dtype)
        self.fold(tape)

    def fold(self, tape: Tape) -> Value:
        """The parameter itself, or the sum."""
        weight, left, right = self.weight, self.left, self.right
        if left is None or right is None:
            return weight
        return tape.operate(weight.elements, weight.dtype, (left, right), (left, right), _factors)


def _ordered(tape: Tape, upper: Value) -> Value:
    """B as stored, looked at expert by expert: its gradient is copied back into the order of the parameter."""
    return tape.attach(Value(upper.elements, upper.dtype, upper.storage), (upper,), (), as_inputs)


def _factors(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """Each factor's gradient is a batched product and its multiple."""
    made: list[Value | None] = []
    for link in node.inputs:
        if link is None:
            made.append(None)
            continue
        product = tape.new(link[2], link[3])
        made.append(tape.new(link[2], link[3]))
        del product
    return made


def merged_router(tape: Tape, weight: Value, out: int, into: int, rank: int, dtype: str) -> Value:
    """The same for the router's matrix: B·A, scaled, in the matrix's dtype, added."""
    lower = tape.parameter(rank * into, True, dtype)
    upper = tape.parameter(rank * out, True, dtype)
    if tape.mode.autocast:
        lower, upper = tape.lowered(lower), tape.lowered(upper)
    delta = tape.operate(weight.elements, lower.dtype, (upper, lower), (upper, lower), as_inputs)
    delta = tape.cast(tape.scale(delta), weight.dtype)
    check = tape.new(weight.elements, weight.dtype)
    del check
    return tape.operate(weight.elements, weight.dtype, (delta,), (), None)


# ---------------------------------------------------------------------- routers


@dataclass(frozen=True, slots=True)
class Router:
    """A matrix of one row an expert, and the rule that turns its products into weights.

    bias      on the matrix
    name      of the module inside the layer
    normal    whether the weights of the chosen are divided by their sum
    """

    hidden: int
    experts: int
    chosen: int
    name: str = "mlp.gate"
    bias: bool = False
    normal: bool = False

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix and its bias."""
        picked = (targets.router,) if targets is not None else ()
        shape = (self.experts, self.hidden)
        weight = Tensor(f"{self.name}.weight", shape, "router", "router", targets=picked)
        if not self.bias:
            return (weight,)
        return weight, Tensor(f"{self.name}.bias", (self.experts,), "router", "bias")

    def weight(self, tape: Tape, targets: StackTargets | None, dtype: str | None = None) -> Value:
        """The matrix as the forward pass sees it: with its adapter merged, where it has one."""
        adapter = tape.mode.adapter
        weight = tape.parameter(self.experts * self.hidden, dtype=dtype)
        if adapter is None or targets is None or not adapter.takes(targets.router):
            return weight
        return merged_router(tape, weight, self.experts, self.hidden, adapter.rank, adapter.dtype)

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Logits, weights of the chosen experts for each token, numbers of the chosen."""
        raise NotImplementedError

    def _logits(self, tape: Tape, x: Value, targets: StackTargets | None) -> Value:
        return tape.product(x, self.weight(tape, targets), tape.mode.queries, self.experts, self.bias)

    def _float_logits(self, tape: Tape, x: Value, targets: StackTargets | None) -> Value:
        """The product in float32, from float32 copies of the input and of the matrix."""
        x = tape.cast(x, FLOAT)
        weight = tape.cast(self.weight(tape, targets), FLOAT)
        return tape.product(x, weight, tape.mode.queries, self.experts)

    def _slots(self, tape: Tape) -> Size:
        return scaled(tape.mode.queries, self.chosen)


def top(tape: Tape, scores: Value, count: Size) -> tuple[Value, Value]:
    """The largest values and their places; the gradient is a whole tensor of zeros with the values filled in."""
    places = tape.new(count, LONG)
    values = tape.operate(count, scores.dtype, (scores,), (places,), as_inputs)
    return values, places


def picked(tape: Tape, scores: Value, places: Value) -> Value:
    """Entries at the given places."""
    return tape.operate(places.elements, scores.dtype, (scores,), (places,), as_inputs)


def divided_by_sum(tape: Tape, weights: Value, rows: Size, shifted: bool = False) -> Value:
    """weights /= Σ weights, in place: a copy of the dividend stays for the gradient, and the sum."""
    dtype = FLOAT if tape.mode.autocast else weights.dtype
    total = tape.operate(rows, dtype, (weights,), (), as_inputs)
    if shifted:
        total = tape.shift(total)
    dividend = tape.new(weights.elements, weights.dtype)
    out = Value(weights.elements, weights.dtype, weights.storage)
    return tape.attach(out, (weights, total), (dividend, total) if weights.node is not None else ())


@dataclass(frozen=True, slots=True)
class SoftmaxRouter(Router):
    """Softmax over all experts in float32, the largest few. [Mixtral, Qwen, OLMoE]

    keep_float   whether the weights stay in float32 (Mixtral) or return to the logits' dtype
    """

    keep_float: bool = False

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the softmax, the places, and what the division needs."""
        logits = self._logits(tape, x, targets)
        chances = tape.softmax(tape.cast(logits, FLOAT))
        weights, places = top(tape, chances, self._slots(tape))
        if self.normal:
            weights = divided_by_sum(tape, weights, tape.mode.queries)
        if not self.keep_float:
            weights = tape.cast(weights, logits.dtype)
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class GroupedSoftmaxRouter(Router):
    """Softmax in float32 from a float32 product, over all experts or those of the best groups. [DeepSeek-V2]

    groups, best   groups of experts, and how many of them a token may use; 0 without groups
    """

    groups: int = 0
    best: int = 0

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the input and the matrix in float32, the softmax, and the places."""
        logits = self._float_logits(tape, x, targets)
        scores = tape.softmax(tape.cast(logits, FLOAT))
        if self.groups:
            scores = limited(tape, scores, self.groups, self.best, each=1)
        weights, places = top(tape, scores, self._slots(tape))
        weights = tape.scale(weights)
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class SigmoidRouter(Router):
    """Sigmoid scores in float32; a correction that is no parameter takes part in the choice alone. [DeepSeek-V3]

    groups, best   groups of experts, and how many of them a token may use; 0 where the family has no groups
    wide           whether the product is made in float32, from copies of the input and of the matrix
    scaled         whether the weights are multiplied by a constant at the end (and a small one added to their sum)
    """

    groups: int = 0
    best: int = 0
    wide: bool = True
    scaled: bool = True

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps what the product needs, the scores, the places, and what the division needs."""
        logits = self._float_logits(tape, x, targets) if self.wide else self._logits(tape, x, targets)
        scores = tape.unary_output(logits if self.wide else tape.cast(logits, FLOAT))
        choice = tape.new(scores.elements, FLOAT)
        if self.groups:
            choice = limited(tape, choice, self.groups, self.best, each=2)
        values, places = top(tape, choice, self._slots(tape))
        del values
        weights = picked(tape, scores, places)
        if self.normal:
            weights = divided_by_sum(tape, weights, tape.mode.queries, shifted=self.scaled)
        if self.scaled:
            weights = tape.scale(weights)
        del choice
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class LateSoftmaxRouter(Router):
    """The largest few logits, then a softmax over these alone. [GPT-OSS, Granite]

    wide   whether logits and softmax are in float32, and the weights return to the input's dtype
    """

    wide: bool = False

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the places and the softmax."""
        logits = self._logits(tape, x, targets)
        if self.wide:
            logits = tape.cast(logits, FLOAT)
        values, places = top(tape, logits, self._slots(tape))
        weights = tape.unary_output(values)
        if self.wide:
            weights = tape.cast(weights, x.dtype)
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class CorrectedSoftmaxRouter(Router):
    """Softmax in float32, even under autocast, from a matrix kept in float32; a correction that is never trained takes
    part in the choice. [ERNIE 4.5]"""

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix and the correction, which the model class counts as a parameter."""
        correction = Tensor(f"{self.name}.moe_statics.e_score_correction_bias", (1, self.experts), "router", "router")
        return (*super(CorrectedSoftmaxRouter, self).tensors(targets), correction)

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the input and the matrix in float32, the softmax, the places, the weights and their sum."""
        logits = untouched_product(tape, x, self.weight(tape, targets, FLOAT), self.experts)
        chances = tape.unary_output(logits)
        values, places = top(tape, tape.new(chances.elements, FLOAT), self._slots(tape))
        del values
        weights = picked(tape, chances, places)
        total = tape.operate(tape.mode.queries, FLOAT, (weights,), (), as_inputs)
        total = tape.unary(total)
        weights = tape.operate(weights.elements, FLOAT, (weights, total), (weights, total), as_inputs)
        return logits, tape.cast(weights, x.dtype), places


def untouched_product(tape: Tape, x: Value, weight: Value, out: int) -> Value:
    """A product in float32 that autocast leaves alone."""
    x, weight = tape.cast(x, FLOAT), tape.cast(weight, FLOAT)
    saved = [x] if weight.node is not None else []
    if x.node is not None:
        saved.append(weight)
    return tape.operate(scaled(tape.mode.queries, out), FLOAT, (x, weight), saved, as_inputs)


@dataclass(frozen=True, slots=True)
class WideSoftmaxRouter(Router):
    """A linear layer whose matrix is in float32 whatever the model's, its softmax, the largest few. [Hunyuan]

    layer   name of the linear layer, which adapters pick by itself
    """

    layer: str = "wg"

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix."""
        return (Tensor(f"{self.name}.{self.layer}.weight", (self.experts, self.hidden), "router", "router", True),)

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the input in float32, the softmax, the places, and what the division needs."""
        wide = tape.cast(x, FLOAT)
        weight = tape.parameter(self.experts * self.hidden, dtype=FLOAT)
        logits = tape.product(wide, weight, tape.mode.queries, self.experts)
        adapter = tape.mode.adapter
        if adapter is not None and adapter.takes(self.layer):
            low = tape.cast(wide, adapter.dtype)
            update = tape.update(low, self.hidden, self.experts, tape.mode.queries, adapter)
            logits = tape.cast(tape.add(logits, update), logits.dtype)
            del low, update
        del wide
        weights, places = top(tape, tape.softmax(tape.cast(logits, FLOAT)), self._slots(tape))
        weights = divided_by_sum(tape, weights, tape.mode.queries)
        return logits, tape.cast(weights, logits.dtype), places


@dataclass(frozen=True, slots=True)
class NarrowSoftmaxRouter(Router):
    """Softmax in the dtype of the logits, the largest few, divided by their norm. [DBRX]"""

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix of a linear layer."""
        return (Tensor(f"{self.name}.layer.weight", (self.experts, self.hidden), "router", "router", True),)

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the softmax, the places, the weights and their norm."""
        logits = tape.linear(x, self.hidden, self.experts, False, "layer")
        chances = tape.unary_output(logits)
        weights, places = top(tape, chances, self._slots(tape))
        if self.normal:
            total = tape.operate(tape.mode.queries, weights.dtype, (weights,), (weights,), as_inputs)
            weights = tape.operate(weights.elements, weights.dtype, (weights, total), (weights, total), as_inputs)
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class MixerRouter(Router):
    """SparseMixer: the best expert and the next, drawn at random while training, each with a masked softmax of its
    own. [arXiv:2409.12136, Phi-3.5-MoE]"""

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix of a linear layer."""
        return (Tensor(f"{self.name}.weight", (self.experts, self.hidden), "router", "router", True),)

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps two softmaxes, two masks and the places."""
        rows = tape.mode.queries
        logits = tape.linear(x, self.hidden, self.experts, False, self.name.rsplit(".", 1)[-1])
        first, place = self._draw(tape, logits, logits)
        rest = tape.operate(logits.elements, logits.dtype, (logits,), (place,))
        second, next_place = self._draw(tape, rest, logits)
        weights = tape.concatenate(first, second)
        places = tape.new(scaled(rows, 2), LONG)
        del first, second, place, next_place, rest
        return logits, weights, places

    def _draw(self, tape: Tape, scores: Value, all_scores: Value) -> tuple[Value, Value]:
        rows = tape.mode.queries
        place = tape.new(rows, LONG)
        mask = tape.new(scores.elements, BOOL)
        gates = tape.operate(scores.elements, scores.dtype, (scores,), (mask,))
        gates = tape.softmax(gates)
        weight = picked(tape, gates, place)
        if tape.recording:
            one = tape.new(rows, weight.dtype)
            result = tape.new(weight.elements, weight.dtype)
            weight = tape.attach(result, (all_scores, weight), (weight, place, gates), _first_alone)
            del one
        return weight, place


def _first_alone(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """A gradient for the first input, none for the others, which stay in the graph all the same."""
    link = node.inputs[0]
    return [None if link is None else tape.new(link[2], link[3]), *([None] * (len(node.inputs) - 1))]


def limited(tape: Tape, scores: Value, groups: int, best: int, each: int) -> Value:
    """Scores outside the best groups masked out. A group is judged by its largest score, or the sum of its two
    largest."""
    rows = tape.mode.queries
    group = tape.new(scaled(rows, groups * each), FLOAT)
    where = tape.new(scaled(rows, groups * each), LONG)
    if each > 1:
        group = tape.new(scaled(rows, groups), FLOAT)
    del where
    values, chosen = tape.new(scaled(rows, best), FLOAT), tape.new(scaled(rows, best), LONG)
    del values
    mask = tape.new(scaled(rows, groups), FLOAT)
    wide = tape.new(scores.elements, FLOAT)
    flags = tape.new(scores.elements, BOOL)
    outside = tape.new(scores.elements, BOOL)
    del flags
    out = tape.operate(scores.elements, scores.dtype, (scores,), (outside,))
    del group, chosen, mask, wide, outside
    return out


# ---------------------------------------------------------------------- experts


def grouped(tape: Tape, x: Value, weight: Value, offsets: Value, elements: Size) -> Value:
    """A product of rows sorted by expert with a stack of matrices: saves both."""
    x = tape.cast(x, weight.dtype)
    saved = [offsets]
    if weight.node is not None:
        saved.append(x)
    if x.node is not None:
        saved.append(weight)
    return tape.operate(elements, x.dtype, (x, weight), saved, as_inputs)


@dataclass(frozen=True, slots=True)
class Experts:
    """Stacks of gated feed-forward layers.

    name      of the module inside the layer
    bias      on both matrices
    targets   how adapters name router and stacks, None where they leave them alone
    names     of the two stacks, or of three where gate and up are apart in memory too
    transposed   whether matrices are stored input first
    modules   whether each expert's matrices are linear modules of their own, which adapters pick by name
    """

    hidden: int
    intermediate: int
    experts: int
    chosen: int
    activation: str = "silu"
    name: str = "mlp.experts"
    bias: bool = False
    targets: StackTargets | None = None
    names: tuple[str, ...] = ("gate_up_proj", "down_proj")
    transposed: bool = False
    modules: bool = False

    gated = True

    def tensors(self) -> tuple[Tensor, ...]:
        """Two stacks, gate and up side by side in the first, and their biases."""
        wide = self.intermediate * (2 if self.gated else 1)
        role = "ffn_gate_up_exps" if self.gated else "ffn_up_exps"
        pair = self.targets
        if len(self.names) == 3:
            made: tuple[Tensor, ...] = ()
            for name, role in zip(self.names, ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), strict=True):
                sizes = (self.hidden, self.intermediate)
                out, into = sizes if role == "ffn_down_exps" else sizes[::-1]
                made += self._stack(name, out, into, role, (name,) if self.modules else (), 1)
            return made
        first = () if pair is None else (pair.gate, pair.up)
        second = () if pair is None else (pair.down,)
        made = self._stack(self.names[0], wide, self.hidden, role, first, 2 if self.gated else 1)
        return (*made, *self._stack(self.names[-1], self.hidden, self.intermediate, "ffn_down_exps", second, 1))

    def _stack(
        self, name: str, out: int, into: int, role: str, targets: tuple[str, ...], ranks: int
    ) -> tuple[Tensor, ...]:
        path, count, chosen = f"{self.name}.{name}", self.experts, self.chosen
        shape = (count, into, out) if self.transposed else (count, out, into)
        stack = Tensor(path, shape, "experts", role, True, Cut.EXPERT, 1, count, chosen, targets=targets, ranks=ranks)
        if not self.bias:
            return (stack,)
        bias = Tensor(f"{path}_bias", (count, out), "experts", "bias", False, Cut.EXPERT, 1, count, chosen)
        return stack, bias

    def stacks(self, tape: Tape) -> tuple[Stack, Stack]:
        """Both stacks, adapted where the mode says so: the second first, as the wrappers are nested."""
        wide = self.intermediate * (2 if self.gated else 1)
        first = Stack(tape.parameter(self.experts * self.hidden * wide))
        second = Stack(tape.parameter(self.experts * self.hidden * self.intermediate))
        adapter, pair = tape.mode.adapter, self.targets
        if adapter is not None and pair is not None:
            if adapter.takes(pair.down):
                second.adapt(tape, self.experts, self.hidden, self.intermediate, adapter.rank, adapter.dtype)
            if adapter.takes(pair.gate):
                rank = adapter.rank * (2 if self.gated else 1)
                first.adapt(tape, self.experts, wide, self.hidden, rank, adapter.dtype)
        return first, second

    def forward(self, tape: Tape, x: Value, weights: Value, places: Value) -> Value:
        """With the local variables of transformers' grouped_mm_experts_forward."""
        first, second = self.stacks(tape)
        slots = scaled(tape.mode.queries, self.chosen)
        wide = scaled(slots, self.intermediate * (2 if self.gated else 1))
        order, permutation = tape.new(slots, LONG), tape.new(slots, LONG)  # expert of each slot, sorted; its place
        rows = tape.new(slots, LONG)
        selected = tape.operate(scaled(slots, self.hidden), x.dtype, (x,), (rows,), as_inputs)
        del rows
        chosen_weights = tape.operate(slots, weights.dtype, (weights,), (permutation,), as_inputs)
        numbers = tape.new(slots, INT)
        counts = tape.new((self.experts, 0, 0, 0, 0, 0), INT)
        offsets = tape.new((self.experts, 0, 0, 0, 0, 0), INT)
        up = first.fold(tape)
        bias = self._biases(tape, wide, order) if self.bias else None
        out = self._with_bias(tape, grouped(tape, selected, up, offsets, wide), bias)
        out = self.gate(tape, out)
        down = second.fold(tape)
        bias = self._biases(tape, scaled(slots, self.hidden), order) if self.bias else None
        out = self._with_bias(tape, grouped(tape, out, down, offsets, scaled(slots, self.hidden)), bias)
        weighted = tape.multiply(out, chosen_weights)
        inverse = tape.new(slots, LONG)
        steps = tape.new(slots, LONG)
        del steps
        weighted = tape.operate(weighted.elements, weighted.dtype, (weighted,), (inverse,), as_inputs)
        final = tape.operate(x.elements, weighted.dtype, (weighted,), (), as_inputs)
        result = tape.cast(final, x.dtype)
        del order, permutation, selected, numbers, counts, offsets, out, inverse, bias, weighted, up, down
        return result

    def _biases(self, tape: Tape, elements: Size, order: Value) -> Value:
        """The bias of each slot's expert, looked up."""
        width = elements[3] // self.chosen if elements[3] else elements[1] // self.chosen
        table = tape.parameter(self.experts * width)
        return tape.operate(elements, table.dtype, (table,), (order,), as_inputs)

    def _with_bias(self, tape: Tape, out: Value, bias: Value | None) -> Value:
        """The bias added in place."""
        if bias is None:
            return out
        return tape.attach(Value(out.elements, out.dtype, out.storage), (out, bias), (), _handed)

    def gate(self, tape: Tape, joined: Value) -> Value:
        """act(gate) · up of the two halves."""
        half = _half(joined.elements)
        gate, up = tape.split(joined, half, half)
        return tape.multiply(activate(tape, gate, self.activation), up)


@dataclass(frozen=True, slots=True)
class ClampedExperts(Experts):
    """Experts of GPT-OSS: gate and up interleaved and clamped, (up + 1) · gate · sigmoid(α · gate)."""

    def gate(self, tape: Tape, joined: Value) -> Value:
        """Keeps the clamped gate, the sigmoid, their product, up + 1 and the result."""
        half = _half(joined.elements)
        gate, up = tape.slice(joined, half, dense=True), tape.slice(joined, half, dense=True)
        gate = tape.unary(gate)
        up = tape.unary(up)
        glu = tape.multiply(gate, tape.unary_output(tape.scale(gate)))
        return tape.multiply(tape.shift(up), glu)


def _handed(tape: Tape, grads: list[Value | None], node: Node) -> list[Value | None]:
    """The gradient itself for every input."""
    grad = grads[0]
    assert grad is not None
    return [None if link is None else Value(link[2], grad.dtype, grad.storage) for link in node.inputs]


def _half(size: Size) -> Size:
    a, b, c, d, e, f = size
    return (a // 2, b // 2, c // 2, d // 2, e // 2, f // 2)


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """A router and its experts, with or without shared experts that every token passes.

    shared        the shared experts as one feed-forward layer of their joint width
    shared_first  whether they run before the router (Qwen 2) or after the experts (DeepSeek)
    scaled        whether what the experts give is multiplied by a constant before anything is added
    shared_gate   whether a sigmoid of one product a token weighs them (Qwen 2)
    """

    router: Router
    experts: Experts
    shared: GatedFeedForward | None = None
    shared_first: bool = False
    shared_gate: str | None = None
    scaled: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """Router, stacks, shared experts and their gate."""
        made = [*self.router.tensors(self.experts.targets), *self.experts.tensors()]
        if self.shared is not None:
            made += self.shared.tensors()
        if self.shared_gate:
            shape = (1, self.experts.hidden)
            made.append(Tensor(f"{self.shared_gate}.weight", shape, "router", "router", True))
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """The order of transformers' blocks; the router's logits stay in a local variable while the experts run."""
        early = self.shared.forward(tape, x) if self.shared is not None and self.shared_first else None
        logits, weights, places = self.router.route(tape, x, self.experts.targets)
        out = self.experts.forward(tape, x, weights, places)
        if self.scaled:
            out = tape.scale(out)
        if early is not None:
            if self.shared_gate:
                gate = tape.unary_output(tape.linear(x, self.experts.hidden, 1, False, _last(self.shared_gate)))
                early = tape.multiply(early, gate)
                del gate
            out = tape.add(out, early)
        elif self.shared is not None:
            out = tape.add(out, self.shared.forward(tape, x))
        del logits, weights, places, early
        return out


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]
