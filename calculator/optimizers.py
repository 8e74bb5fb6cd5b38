"""What an optimizer keeps of each parameter between steps, and what a step needs for a moment.

A row answers two questions in bytes: `states(tensor, width)`, what lives from the first step on, and
`temporary(tensors, width)`, the most that the step allocates besides. `width` is the size of one element of a state
that follows the precision of the parameters: torch keeps moments in the dtype of the parameter it was given.

Temporaries are those of torch 2.13.0 and transformers 5.23.0, allocations counted on fake CUDA tensors. A loop over
parameters holds the results of one parameter until those of the next replace them, so the order counts: give tensors
in the order of `model.parameters()`. Repeating an equal layer changes nothing in that loop, but it counts where a
whole copy is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod

from .errors import InvalidSetup, UnknownName, nearest
from .tensors import Tensor
from .units import ceil_div

FLOAT32 = 4  # bytes
IMPLEMENTATIONS = ("foreach", "fused", "for-loop")


@dataclass(frozen=True, slots=True)
class States:
    """Bytes that the state of a tensor takes.

    moments   the moments themselves, what "8 bytes a parameter" means
    extra     scales of quantized blocks, and what tensors kept in float32 take beyond the quantized size
    resident  of both, what stays in GPU memory; the rest is paged to the host under pressure
    """

    moments: int
    extra: int = 0
    resident: int = -1

    def __post_init__(self) -> None:
        if self.resident < 0:
            object.__setattr__(self, "resident", self.moments + self.extra)


@dataclass(frozen=True, slots=True)
class Step:
    """How one implementation of a step allocates, in multiples of a state's size.

    whole   copies of all trained parameters at once
    now     copies of the parameter a loop is at, at its worst moment
    before  copies of the parameter before it that are still held then
    """

    whole: int = 0
    now: int = 0
    before: int = 0

    def bytes(self, sizes: Sequence[tuple[int, int]], width: int) -> int:
        """The most that this step allocates; sizes are (elements of one parameter, how many there are)."""
        total = sum(elements * count for elements, count in sizes)
        return width * (self.whole * total + _loop(sizes, self.now, self.before))


def _loop(sizes: Iterable[tuple[int, int]], now: int, before: int) -> int:
    """The largest now · p[i] + before · p[i-1] over parameters in order.

    >>> _loop([(8, 1), (1, 1), (4, 1), (8, 1)], 2, 1)
    20
    """
    most = last = 0
    for elements, count in sizes:
        most = max(most, now * elements + before * (elements if count > 1 else last), now * elements + before * last)
        last = elements
    return most


def _sizes(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(prod(tensor.shape), tensor.count) for tensor in tensors]


@dataclass(frozen=True, slots=True)
class Optimizer(ABC):
    """A row of the table.

    name                 as requests say it
    bytes_per_parameter  of state, with float32 states and a large matrix: what /api/config/options shows
    source               where the states and temporaries come from
    aliases              other names for the same thing
    """

    name: str
    bytes_per_parameter: float
    source: str
    aliases: tuple[str, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """What is kept of a tensor between steps."""

    @abstractmethod
    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """Bytes that a step over these trained tensors needs at its worst moment, besides states and gradients."""


@dataclass(frozen=True, slots=True)
class Moments(Optimizer):
    """So many moments of the parameter's own shape, stepped by one of torch's implementations.

    moments  how many
    steps    what each implementation allocates; one that is not there does not exist
    fixed    bytes of an element where the optimizer chooses, 0 where states follow the parameters
    paged    smallest tensor whose state lives in unified memory, 0 if none does
    """

    moments: int
    steps: Mapping[str, Step]
    fixed: int = 0
    paged: int = 0

    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """Every moment has the shape of its parameter.

        >>> OPTIMIZERS["AdamW"].states(Tensor("w", (1024, 1024), "attention", "attn_q")).moments
        8388608
        """
        held = self.moments * tensor.elements * (self.fixed or width)
        away = 0 < self.paged <= prod(tensor.shape)
        return States(held, resident=0 if away else held)

    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """What the chosen implementation allocates: foreach AdamW one copy of everything, fused nothing."""
        step = self.steps.get(implementation)
        if step is None:
            raise InvalidSetup(
                f"{self.name} has no {implementation} implementation; it has {', '.join(self.steps)}",
                "optimizer_implementation",
            )
        return step.bytes(_sizes(tensors), self.fixed or width)


@dataclass(frozen=True, slots=True)
class QuantizedMoments(Optimizer):
    """Moments in blocks of few bits with one float32 scale each; small tensors stay in float32.

    Kernels step them in place, whatever implementation is asked for.

    moments     how many
    bits        of an element of a moment
    block       elements that share a scale
    embeddings  whether embeddings stay in float32: transformers' Trainer asks bitsandbytes for that
    whole       whether a tensor must be a multiple of the block to be quantized
    paged       smallest tensor whose state lives in unified memory, 0 if none does
    """

    moments: int
    bits: int
    block: int
    embeddings: bool = False
    whole: bool = False
    paged: int = 0

    SMALLEST = 4096  # elements: min_8bit_size of bitsandbytes, the same bound in torchao

    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """Moments at their bits, scales beside them.

        >>> OPTIMIZERS["Quantized AdamW"].states(Tensor("w", (1024, 1024), "attention", "attn_q"))
        States(moments=2097152, extra=32768, resident=2129920)
        """
        elements = prod(tensor.shape)
        one = ceil_div(elements * self.bits, 8)
        kept = elements < self.SMALLEST or (self.whole and elements % self.block != 0)
        if kept or (self.embeddings and tensor.component == "embedding"):
            beside = elements * FLOAT32 - one
        else:
            beside = ceil_div(elements, self.block) * FLOAT32
        moments = self.moments * one * tensor.count
        extra = self.moments * beside * tensor.count
        away = 0 < self.paged <= elements
        return States(moments, extra, 0 if away else moments + extra)

    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """Nothing: the kernels read and write blocks in registers."""
        return 0


@dataclass(frozen=True, slots=True)
class FactoredMoments(Optimizer):
    """Adafactor without momentum: of a matrix only the mean square of each row and each column, in float32."""

    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """A row vector and a column vector for two dimensions and more, a full moment for one.

        >>> OPTIMIZERS["Adafactor"].states(Tensor("w", (4096, 1024), "attention", "attn_q")).moments
        20480
        """
        shape = tensor.shape
        if len(shape) < 2:
            return States(tensor.elements * FLOAT32)
        rows, columns = prod(shape[:-1]), prod(shape[:-2]) * shape[-1]
        return States((rows + columns) * tensor.count * FLOAT32)

    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """The squared gradient and its sum, in float32, beside the update of the parameter before.

        A 16-bit parameter and its gradient are copied to float32 first: 16 bytes an element of the largest. The row
        and column factors of the update come later, when the update before is gone.
        """
        copies = 2 if width >= FLOAT32 else 4
        most = last = 0
        for tensor in tensors:
            elements = prod(tensor.shape)
            factors = self.states(tensor).moments // (FLOAT32 * tensor.count)
            before = elements if tensor.count > 1 else last
            most = max(most, copies * elements + max(before, last, factors))
            last = elements
        return FLOAT32 * most


def is_hidden_matrix(tensor: Tensor) -> bool:
    """Whether a matrix optimizer takes the tensor: weights of hidden layers, not embeddings, heads or vectors."""
    return (
        len(tensor.shape) >= 2
        and tensor.component not in ("embedding", "lm_head")
        and tensor.role not in ("norm", "bias", "position", "ssm_other")
    )


@dataclass(frozen=True, slots=True)
class Orthogonalized(Optimizer):
    """Muon on hidden matrices, another optimizer on everything else."""

    rest: Optimizer

    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """One momentum of a matrix.

        >>> OPTIMIZERS["Muon"].states(Tensor("w", (1024, 1024), "attention", "attn_q")).moments
        4194304
        """
        if is_hidden_matrix(tensor):
            return States(tensor.elements * width)
        return self.rest.states(tensor, width)

    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """The Newton-Schulz iteration of the largest matrix, or the step of the rest: one follows the other.

        Alive at once: the update in the gradient's precision, two iterates in bfloat16, and two Gram matrices of the
        smaller side.
        """
        most = 0
        for tensor in filter(is_hidden_matrix, tensors):
            elements, side = prod(tensor.shape), min(tensor.shape[-2:])
            gram = elements // prod(tensor.shape[-2:]) * side * side
            most = max(most, elements * width + 2 * 2 * elements + 2 * 2 * gram)
        others = [tensor for tensor in tensors if not is_hidden_matrix(tensor)]
        return max(most, self.rest.temporary(others, width, implementation))


@dataclass(frozen=True, slots=True)
class LowRank(Optimizer):
    """GaLore: Adam in a subspace of rank `rank` of each hidden matrix, full Adam elsewhere."""

    rest: Optimizer
    rank: int = 128

    def states(self, tensor: Tensor, width: int = FLOAT32) -> States:
        """A projector along the smaller side, two moments along the larger. [arXiv:2403.03507]

        >>> OPTIMIZERS["GaLore AdamW"].states(Tensor("w", (4096, 1024), "attention", "attn_q")).moments
        4718592
        """
        if not is_hidden_matrix(tensor):
            return self.rest.states(tensor, width)
        small, large = sorted(tensor.shape[-2:])
        stacked = tensor.elements // (small * large)
        rank = min(self.rank, small)
        return States(stacked * rank * (small + 2 * large) * width)

    def temporary(self, tensors: Sequence[Tensor], width: int = FLOAT32, implementation: str = "foreach") -> int:
        """When the subspace is renewed: a float32 copy of the gradient and its two thin singular factors.

        The workspace of the decomposition comes on top and is not counted.
        """
        most = 0
        for tensor in filter(is_hidden_matrix, tensors):
            small, large = sorted(tensor.shape[-2:])
            most = max(most, FLOAT32 * (2 * small * large + small * small))
        others = [tensor for tensor in tensors if not is_hidden_matrix(tensor)]
        return max(most, self.rest.temporary(others, width, "for-loop"))


_TORCH = "torch 2.13.0, torch.optim: allocations counted on fake CUDA tensors"
_BITSANDBYTES = "bitsandbytes: blocks of 256 with a float32 absmax, tensors under 4096 elements in float32"
_PAGED = 100_000  # elements: bitsandbytes pages the state of larger tensors only

_ADAM_STEPS = {"foreach": Step(whole=1), "fused": Step(), "for-loop": Step(now=2, before=1)}
_PLAIN_STEPS = {"foreach": Step(), "fused": Step(), "for-loop": Step()}
_ROOT_STEPS = {"foreach": Step(whole=1), "for-loop": Step(now=1, before=1)}

_ADAMW = Moments("AdamW", 8, _TORCH, 2, _ADAM_STEPS, aliases=("adamw_torch", "adamw_torch_fused"))

_ROWS: tuple[Optimizer, ...] = (
    _ADAMW,
    QuantizedMoments(
        "Quantized AdamW",
        2,
        _BITSANDBYTES,
        moments=2,
        bits=8,
        block=256,
        embeddings=True,
        aliases=("AdamW 8-bit", "adamw_8bit", "adamw_bnb_8bit"),
    ),
    Moments("SGD", 4, _TORCH, 1, _PLAIN_STEPS, aliases=("SGD with momentum",)),
    Moments("SGD without momentum", 0, _TORCH, 0, _PLAIN_STEPS),
    FactoredMoments("Adafactor", 0, "transformers 5.23.0, optimization.Adafactor without a first moment"),
    Moments(
        "Lion",
        4,
        "lion-pytorch: its foreach version clones all momenta, its loop clones one twice; bitsandbytes fuses",
        1,
        {"foreach": Step(whole=1), "fused": Step(), "for-loop": Step(now=2)},
    ),
    Orthogonalized(
        "Muon",
        4,
        "torch 2.13.0, torch.optim.Muon on matrices of hidden layers, AdamW on embeddings, head and vectors",
        _ADAMW,
    ),
    Moments(
        "Paged AdamW",
        8,
        "bitsandbytes: float32 states in unified memory for tensors of 100,000 elements and more",
        2,
        _PLAIN_STEPS,
        fixed=FLOAT32,
        paged=_PAGED,
        aliases=("paged_adamw_32bit",),
    ),
    QuantizedMoments(
        "Paged Quantized AdamW",
        2,
        _BITSANDBYTES,
        moments=2,
        bits=8,
        block=256,
        embeddings=True,
        paged=_PAGED,
        aliases=("Paged AdamW 8-bit", "paged_adamw_8bit"),
    ),
    QuantizedMoments(
        "AdamW 4-bit",
        1,
        "torchao: blocks of 128 with a float32 scale, tensors under 4096 elements or not of whole blocks in float32",
        moments=2,
        bits=4,
        block=128,
        whole=True,
        aliases=("adamw_torch_4bit",),
    ),
    LowRank("GaLore AdamW", 0.375, "galore-torch on hidden matrices; the figure is that of 4096 × 4096", _ADAMW),
    Moments("Adam", 8, _TORCH, 2, _ADAM_STEPS),
    Moments("RMSprop", 4, _TORCH, 1, _ROOT_STEPS),
    Moments("Adagrad", 4, _TORCH, 1, {"foreach": Step(whole=2), "for-loop": Step(now=1, before=1)}),
    Moments("Adamax", 8, _TORCH, 2, {"foreach": Step(whole=1), "for-loop": Step(now=1)}),
    Moments("RAdam", 8, _TORCH, 2, {"foreach": Step(whole=1), "for-loop": Step(now=2)}),
    QuantizedMoments(
        "Quantized Lion",
        1,
        _BITSANDBYTES,
        moments=1,
        bits=8,
        block=256,
        embeddings=True,
        aliases=("Lion 8-bit", "lion_8bit"),
    ),
)

OPTIMIZERS: dict[str, Optimizer] = {row.name: row for row in _ROWS}


@cache
def _index() -> dict[str, Optimizer]:
    return {name.lower(): row for row in _ROWS for name in (row.name, *row.aliases)}


def find_optimizer(name: str) -> Optimizer:
    """The row of that name, in any case.

    >>> find_optimizer("adamw").bytes_per_parameter
    8
    """
    found = _index().get(name.lower())
    if found is not None:
        return found
    close = nearest(name, OPTIMIZERS)
    raise UnknownName(f"unknown optimizer '{name}'; known: {', '.join(OPTIMIZERS)}", "optimizer", close)
