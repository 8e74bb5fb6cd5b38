"""Routers of later families: sigmoids with and without a correction, in one precision or the other."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Tape, Value, as_inputs
from ..tensors import Tensor
from .experts import MixtureOfExperts, Router, Routing, StackTargets, picked, top, untouched_product
from .norms import RMSNorm


def quotient(tape: Tape, weights: Value, shifted: bool = False) -> Value:
    """weights / Σ weights, out of place: both stay for the gradient. `shifted`: a small figure is added to the sum."""
    dtype = FLOAT if tape.mode.autocast else weights.dtype
    total = tape.operate(tape.mode.queries, dtype, (weights,), (), as_inputs)
    if shifted:
        total = tape.shift(total)
    return tape.operate(weights.elements, dtype, (weights, total), (weights, total), as_inputs)


@dataclass(frozen=True, slots=True)
class QuotientRouter(Router):
    """Sigmoid scores, the largest few after a correction, divided by their sum. [Hy3, LFM2-MoE, AFM, Laguna]

    wide       product in float32, from copies of the input and of the matrix
    raised     whether logits are brought to float32 before the sigmoid
    corrected  whether a correction that is never trained takes part in the choice
    counted    name of the correction where it is a parameter of the model class
    untouched  whether the wide product stays in float32 under autocast too
    capped     whether logits are capped by tanh
    late       whether the sigmoid is taken of the chosen logits alone (Kolibri)
    linear     name of the linear layer inside, where the matrix belongs to one that adapters may pick
    shifted, scaled   whether a small figure is added to the sum, whether weights are multiplied by a constant
    returned   whether the weights go back to the dtype of the hidden states
    """

    wide: bool = False
    raised: bool = True
    corrected: bool = True
    counted: str = ""
    untouched: bool = False
    capped: bool = False
    late: bool = False
    linear: str = ""
    shifted: bool = True
    scaled: bool = True
    returned: bool = False
    normal: bool = True

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix, and the correction where it counts."""
        if self.linear:
            path, picked_as = f"{self.name}.{self.linear}.weight", (targets.router,) if targets is not None else None
            shape = (self.experts, self.hidden)
            made: tuple[Tensor, ...] = (Tensor(path, shape, "router", "router", True, targets=picked_as),)
        else:
            made = super(QuotientRouter, self).tensors(targets)
        if not self.counted:
            return made
        return (*made, Tensor(self.counted, (self.experts,), "router", "router"))

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps what the product needs, the scores, the places, the weights of the chosen and their sum."""
        logits = self._logits_of(tape, x, targets)
        if self.late:
            places = self._places(tape, logits)
            chosen = tape.operate(places.elements, logits.dtype, (logits,), (places, logits), as_inputs)
            weights = tape.unary_output(chosen)
            del chosen
        else:
            scores = tape.unary_output(logits)
            if self.corrected:
                places = self._places(tape, scores)
                weights = picked(tape, scores, places)
            else:
                weights, places = top(tape, scores, self._slots(tape))
        if self.normal:
            weights = quotient(tape, weights, self.shifted)
        if self.scaled:
            weights = tape.scale(weights)
        if self.returned:
            weights = tape.cast(weights, x.dtype)
        return logits, weights, places

    def _places(self, tape: Tape, scores: Value) -> Value:
        choice = tape.new(scores.elements, FLOAT)
        values, places = top(tape, choice, self._slots(tape))
        del values
        return places

    def _logits_of(self, tape: Tape, x: Value, targets: StackTargets | None) -> Value:
        if self.linear and targets is None:
            logits = tape.linear(x, self.hidden, self.experts, False, self.linear)
        elif self.untouched:
            logits = untouched_product(tape, x, self.weight(tape, targets), self.experts)
        elif self.wide:
            logits = self._float_logits(tape, x, targets)
        else:
            logits = self._logits(tape, x, targets)
        if self.raised:
            logits = tape.cast(logits, FLOAT)
        if self.capped:
            logits = tape.scale(tape.unary_output(tape.scale(logits)))
        return logits


@dataclass(frozen=True, slots=True)
class ChosenSigmoidRouter(Router):
    """The largest few logits, then the sigmoid of these, perhaps divided by their sum. [Command A with experts]"""

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the places, the sigmoids and their sum."""
        logits = self._logits(tape, x, targets)
        values, places = top(tape, logits, self._slots(tape))
        weights = tape.unary_output(values)
        del values
        if self.normal:
            weights = quotient(tape, weights)
        return logits, tape.cast(weights, x.dtype), places


@dataclass(frozen=True, slots=True)
class ChosenSoftmaxRouter(Router):
    """The largest few logits, then a softmax in float32 over these. [Command A with experts]"""

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the places and the softmax."""
        logits = self._logits(tape, x, targets)
        values, places = top(tape, logits, self._slots(tape))
        weights = tape.softmax(tape.cast(values, FLOAT))
        del values
        return logits, tape.cast(weights, x.dtype), places


@dataclass(frozen=True, slots=True)
class WideSumMixture(MixtureOfExperts):
    """What routed and shared experts give is added in float32. [Hy3]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' HYV3MoE.forward."""
        assert self.shared is not None
        logits, weights, places = self.router.route(tape, x, self.experts.targets)
        routed = self.experts.forward(tape, x, weights, places)
        wide = tape.cast(routed, FLOAT)
        total = tape.add(wide, tape.cast(self.shared.forward(tape, x), FLOAT))
        del wide
        result = tape.cast(total, x.dtype)
        del logits, weights, places, routed, total
        return result


@dataclass(frozen=True, slots=True)
class RoutedFirstMixture(MixtureOfExperts):
    """The router, then the shared experts, then the routed ones. [AFM: Trinity]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' AfmoeSparseMoeBlock.forward."""
        assert self.shared is not None
        logits, weights, places = self.router.route(tape, x, self.experts.targets)
        always = self.shared.forward(tape, x)
        routed = self.experts.forward(tape, x, weights, places)
        out = tape.add(always, routed)
        del logits, weights, places, always, routed
        return out


@dataclass(frozen=True, slots=True)
class AveragedMixture(MixtureOfExperts):
    """Half the sum of routed and shared experts. [Command A with experts]"""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Cohere2MoeSparseMoeBlock.forward."""
        assert self.shared is not None
        logits, weights, places = self.router.route(tape, x, self.experts.targets)
        out = self.experts.forward(tape, x, weights, places)
        always = self.shared.forward(tape, x)
        out = tape.scale(tape.add(out, always))
        del logits, weights, places, always
        return out


@dataclass(frozen=True, slots=True)
class NormedMixture(MixtureOfExperts):
    """A norm over the sum of routed and shared experts. [A.X K1]

    after   the norm's name
    """

    after: str = "mlp.post_mlp_layernorm"

    def tensors(self) -> tuple[Tensor, ...]:
        """And the norm."""
        norm = Tensor(f"{self.after}.weight", (self.experts.hidden,), "norm", "norm")
        return (*super(NormedMixture, self).tensors(), norm)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' AXK1MoE.forward."""
        out = super(NormedMixture, self).forward(tape, x)
        return RMSNorm(self.experts.hidden, self.after).forward(tape, out)
