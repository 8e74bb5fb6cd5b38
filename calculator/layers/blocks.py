"""How a decoder layer arranges its parts: norm before, after, on both sides, or attention and feed-forward side by
side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..tape import Tape, Value
from ..tensors import Tensor
from .norms import Norm
from .states import State


class Part(Protocol):
    """What a block is made of: an attention, a feed-forward layer, a mixer."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything it stores."""
        ...

    def forward(self, tape: Tape, x: Value) -> Value:
        """Its forward pass."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer: a mixer of tokens and a feed-forward layer, either of which may be missing.

    norms   in the order they stand in the checkpoint
    """

    mixer: Any | None
    feed_forward: Any | None
    norms: tuple[Norm, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the layer stores."""
        made: list[Tensor] = []
        for part in (self.mixer, self.feed_forward, *self.norms):
            if part is not None:
                made += part.tensors()
        return tuple(made)

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements kept for a sequence of so many tokens."""
        return self.mixer.cache(tokens, tensor) if self.mixer is not None else 0

    def state(self, tensor: int = 1) -> int:
        """Elements kept for a sequence whatever its length."""
        return self.mixer.state(tensor) if self.mixer is not None else 0

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The same by kind and precision."""
        return self.mixer.states(tensor) if self.mixer is not None and hasattr(self.mixer, "states") else ()

    def forward(self, tape: Tape, x: Value) -> Value:
        """x: hidden states, as many out."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PreNormBlock(Block):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)): Llama and most others."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' LlamaDecoderLayer.forward."""
        norms = list(self.norms)
        if self.mixer is not None:
            residual = x
            x = norms.pop(0).forward(tape, x) if norms else x
            x = self.mixer.forward(tape, x)
            x = tape.add(residual, x)
        if self.feed_forward is not None:
            residual = x
            x = norms.pop(0).forward(tape, x) if norms else x
            x = self.feed_forward.forward(tape, x)
            x = tape.add(residual, x)
        return x


@dataclass(frozen=True, slots=True)
class PostNormBlock(Block):
    """x + norm(mixer(x)), then x + norm(feed_forward(x)): OLMo 2 and 3."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Olmo2DecoderLayer.forward."""
        residual = x
        x = self.mixer.forward(tape, x)  # type: ignore[union-attr]
        x = self.norms[0].forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.feed_forward.forward(tape, x)  # type: ignore[union-attr]
        x = self.norms[1].forward(tape, x)
        return tape.add(residual, x)


@dataclass(frozen=True, slots=True)
class SandwichBlock(Block):
    """x + norm(mixer(norm(x))), then x + norm(feed_forward(norm(x))): Gemma 2 and 3, GLM 4."""

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' Gemma2DecoderLayer.forward."""
        residual = x
        x = self.norms[0].forward(tape, x)
        x = self.mixer.forward(tape, x)  # type: ignore[union-attr]
        x = self.norms[1].forward(tape, x)
        x = tape.add(residual, x)
        residual = x
        x = self.norms[2].forward(tape, x)
        x = self.feed_forward.forward(tape, x)  # type: ignore[union-attr]
        x = self.norms[3].forward(tape, x)
        return tape.add(residual, x)


@dataclass(frozen=True, slots=True)
class ParallelBlock(Block):
    """Attention and feed-forward side by side on one norm: Phi, GPT-J, Cohere, StableLM 2 12B.

    residual_first   whether the sum begins with the input, else with what the two gave
    dropout          rate on what the feed-forward layer gives, and the attention too where `both`
    """

    residual_first: bool = False
    dropout: float = 0.0
    both: bool = False

    def forward(self, tape: Tape, x: Value) -> Value:
        """With the local variables of transformers' PhiDecoderLayer.forward or CohereDecoderLayer.forward."""
        assert self.mixer is not None and self.feed_forward is not None
        residual = x
        x = self.norms[0].forward(tape, x)
        attended = self.mixer.forward(tape, x)
        if self.both:
            attended = tape.dropout(attended, self.dropout)
        made = self.feed_forward.forward(tape, x)
        made = tape.dropout(made, self.dropout)
        if self.residual_first:
            return tape.add(tape.add(residual, attended), made)
        return tape.add(tape.add(attended, made), residual)
