"""A model is a list of layers, and a layer lists what it owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .layers.blocks import Block
from .layers.ends import Embedding, Head
from .layers.states import State
from .tape import Size
from .tensors import COMPONENTS, Tensor

_NO_CONFIG: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Tower:
    """Weights beside the text layers that a text-only step holds but does not run: vision and audio encoders,
    projectors."""

    name: str
    stored: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything it stores."""
        return self.stored


@dataclass(frozen=True, eq=False)
class Model:
    """An architecture with its sizes. Compared by identity: `read_model` gives equal configurations the same object.

    layers       in order of the forward pass; equal layers are equal objects
    tables       rotary tables that every layer sees: (name, elements a position)
    towers       weights that a text-only step does not run
    speculative  tensors of multi-token-prediction layers: in checkpoints, outside the count
    max_context  tokens, None where the family has no limit
    default_precision  dtype of the published checkpoint
    quantization  the `quantization_config` of the configuration, if it has one
    sdpa         whether transformers offers scaled_dot_product_attention for it; eager otherwise
    buffers      bytes of tables that layers hold beside their parameters
    waves        elements of further such tables that are in the dtype of the weights
    masked       whether sdpa is handed a mask even where no window asks for one
    distances    heads whose scores get distances added that are made once for all layers (ALiBi)
    float_tables whether rotary tables stay in float32
    idle_mask    whether a mask of windows is made that no layer uses (Qwen2-MoE)
    batched_tables whether each sequence has rotary tables of its own (positions of text, rows and columns)
    beside       further tensors that every layer sees: (name, elements, dtype or None for that of the weights)
    mask_filled  whether the eager mask is boolean and fills scores, so that each layer keeps it
    unmasked     whether no mask is made: encoders without padding
    biases       score matrices that all layers add, without a batch: (name, heads, whether in the dtype of products)
    holds_outputs whether attention weights that a layer hands back live until the next is through
    held_embedding  whether the forward pass holds the embedding's output while the layers run
    streams      hidden states side by side that each layer is handed (Gemma 3n)
    inputs       what the embedding makes for all layers beside the hidden states: (name, elements a token)
    last_token_from  the first layer that a prefill runs for the last token alone, where only its logits are wanted:
                 from there on layers take keys and values of earlier ones (Gemma 4)
    wide_residual  whether layers hand on float32 hidden states whatever the weights (Mamba)
    stated       parameters as a request states them, where only sizes are known; else None
    """

    name: str | None
    model_type: str
    embedding: Embedding
    layers: tuple[Block, ...]
    head: Head
    tables: tuple[tuple[str, int], ...] = ()
    towers: tuple[Tower, ...] = ()
    speculative: tuple[Tensor, ...] = ()
    max_context: int | None = None
    default_precision: str | None = None
    quantization: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    held_embedding: bool = True
    sdpa: bool = True
    masked: bool = False
    buffers: int = 0
    waves: int = 0
    distances: int = 0
    float_tables: bool = False
    idle_mask: bool = False
    batched_tables: bool = False
    beside: tuple[tuple[str, Size, str | None], ...] = ()
    mask_filled: bool = False
    unmasked: bool = False
    biases: tuple[tuple[str, int, bool], ...] = ()
    holds_outputs: bool = False
    streams: int = 1
    inputs: tuple[tuple[str, int], ...] = ()
    last_token_from: int | None = None
    wide_residual: bool = False
    stated: int | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Every stored tensor inside the count, layer by layer."""
        yield from self.embedding.tensors()
        made: dict[int, tuple[Tensor, ...]] = {}  # equal layers are mostly one object
        for layer in self.layers:
            if id(layer) not in made:
                made[id(layer)] = layer.tensors()
            yield from made[id(layer)]
        yield from self.head.tensors()
        for tower in self.towers:
            yield from tower.tensors()

    def counted(self) -> Iterator[tuple[Tensor, int]]:
        """The same, those of equal layers once, with how many such layers there are."""
        ends = [*self.embedding.tensors(), *self.head.tensors()]
        for tensor in ends + [each for tower in self.towers for each in tower.tensors()]:
            yield tensor, 1
        for layer, count in self.distinct.items():
            for tensor in layer.tensors():
                yield tensor, count

    def components(self) -> dict[str, int]:
        """Parameters by component; they add up to `parameters`."""
        counts = dict.fromkeys(COMPONENTS, 0)
        for tensor, count in self.counted():
            counts[tensor.component] += count * tensor.elements
        return counts

    @cached_property
    def parameters(self) -> int:
        """Parameters of the loaded model: unique tensors, no multi-token-prediction layers."""
        return self.stated if self.stated is not None else sum(each.elements * count for each, count in self.counted())

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token's forward pass touches: routed experts by their share, embedding and head
        included."""
        idle = sum((each.elements - each.active) * count for each, count in self.counted() if each.experts)
        return self.parameters - idle

    @cached_property
    def speculative_parameters(self) -> int:
        """Parameters of multi-token-prediction layers."""
        return sum(tensor.elements for tensor in self.speculative)

    @cached_property
    def reaches(self) -> frozenset[int | None]:
        """The windows of its layers of attention: None stands for the whole context."""
        return frozenset(getattr(layer.mixer, "window", None) for layer in self.distinct if layer.mixer is not None)

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """The windows its layers use, smallest first."""
        return tuple(sorted(window for window in self.reaches if window))

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.embedding.projected or self.embedding.width

    def cache(self, tokens: int, tensor: int = 1) -> int:
        """Elements that all layers keep for one sequence of so many tokens, inside every window.

        The sum is over distinct layers, each times its count.
        """
        return sum(count * layer.cache(tokens, tensor) for layer, count in self.distinct.items())

    def state(self, tensor: int = 1) -> int:
        """Elements that all layers keep for one sequence whatever its length."""
        return sum(count * layer.state(tensor) for layer, count in self.distinct.items())

    def states(self, tensor: int = 1) -> tuple[State, ...]:
        """The same by kind and precision: what its bytes follow from."""
        sums: dict[tuple[str, str, int], int] = {}
        for layer, count in self.distinct.items():
            for each in layer.states(tensor):
                kind = (each.name, each.precision, each.columns)
                sums[kind] = sums.get(kind, 0) + each.elements * count
        return tuple(State(name, elements, precision, columns) for (name, precision, columns), elements in sums.items())

    @cached_property
    def distinct(self) -> dict[Block, int]:
        """Each different layer, and how many of it there are."""
        counts: dict[Block, int] = {}
        for layer in self.layers:
            counts[layer] = counts.get(layer, 0) + 1
        return counts
