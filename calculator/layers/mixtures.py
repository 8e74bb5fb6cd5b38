"""Mixtures of experts that differ from the usual: experts without a gate, a latent space, other routers."""

from __future__ import annotations

from dataclasses import dataclass

from ..tape import FLOAT, Tape, Value
from ..tensors import Tensor
from .experts import Experts, Router, Routing, StackTargets, divided_by_sum, top
from .feed_forward import FeedForward, activate
from .norms import Norm


@dataclass(frozen=True, slots=True)
class PlainExperts(Experts):
    """Stacks of feed-forward layers without a gate: act(x · up), then down (Nemotron-H)."""

    gated = False

    def gate(self, tape: Tape, joined: Value) -> Value:
        """The activation alone."""
        return activate(tape, joined, self.activation)


@dataclass(frozen=True, slots=True)
class LatentMixture:
    """A router over hidden states, experts over a narrower projection of them, shared experts over all (Nemotron-H).

    latent   width that the experts see, 0 where they see the hidden states
    prefix   of the two projections
    """

    router: Router
    experts: Experts
    shared: FeedForward
    latent: int = 0
    bias: bool = False
    prefix: str = "mixer"

    def tensors(self) -> tuple[Tensor, ...]:
        """Router, stacks, shared experts, and the way into the latent space and back."""
        made = [*self.router.tensors(self.experts.targets), *self.experts.tensors(), *self.shared.tensors()]
        hidden = self.router.hidden
        for name, out, into in (("fc1_latent_proj", self.latent, hidden), ("fc2_latent_proj", hidden, self.latent)):
            if self.latent:
                path = f"{self.prefix}.{name}"
                made.append(Tensor(f"{path}.weight", (out, into), "mlp_dense", "other", True))
                if self.bias:
                    made.append(Tensor(f"{path}.bias", (out,), "mlp_dense", "bias"))
        return tuple(made)

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' NemotronHMoE.forward."""
        residual, hidden = x, self.router.hidden
        logits, weights, places = self.router.route(tape, x, self.experts.targets)
        if self.latent:
            x = tape.linear(x, hidden, self.latent, self.bias, "fc1_latent_proj")
        x = self.experts.forward(tape, x, weights, places)
        if self.latent:
            x = tape.linear(x, self.latent, hidden, self.bias, "fc2_latent_proj")
        out = tape.add(x, self.shared.forward(tape, residual))
        del logits, weights, places
        return out


@dataclass(frozen=True, slots=True)
class FloatLateRouter(Router):
    """Logits in float32, the largest few of them, and a softmax over these alone (Granite)."""

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """Keeps the places and the softmax."""
        logits = tape.cast(self._logits(tape, x, targets), FLOAT)
        values, places = top(tape, logits, self._slots(tape))
        weights = tape.cast(tape.softmax(values), x.dtype)
        del values
        return logits, weights, places


@dataclass(frozen=True, slots=True)
class NormedRouter(Router):
    """A norm and a scale of its own before the matrix, and a factor for each expert after the choice (Gemma 4)."""

    norm: Norm | None = None

    def tensors(self, targets: StackTargets | None = None) -> tuple[Tensor, ...]:
        """The matrix, the scale and the experts' factors."""
        weight = Tensor(f"{self.name}.proj.weight", (self.experts, self.hidden), "router", "router", True)
        return (
            weight,
            Tensor(f"{self.name}.scale", (self.hidden,), "router", "other"),
            Tensor(f"{self.name}.per_expert_scale", (self.experts,), "router", "other"),
        )

    def route(self, tape: Tape, x: Value, targets: StackTargets | None) -> Routing:
        """With the local variables of transformers' Gemma4TextRouter.forward."""
        if self.norm is not None:
            x = self.norm.forward(tape, x)
        x = tape.scale(tape.multiply(x, tape.parameter(self.hidden)))
        logits = tape.linear(x, self.hidden, self.experts, module="proj")
        chances = tape.softmax(tape.cast(logits, FLOAT))
        weights, places = top(tape, chances, self._slots(tape))
        weights = divided_by_sum(tape, weights, tape.mode.queries)
        factors = tape.parameter(self.experts)
        factors = tape.operate(places.elements, factors.dtype, (factors,), (places,), None)
        weights = tape.multiply(weights, factors)
        return chances, weights, places
