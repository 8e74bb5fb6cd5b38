"""What a checkpoint stores: tensors by role, and how far each can be cut over GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

from .units import ceil_div

COMPONENTS = (
    "embedding",
    "lm_head",
    "attention",
    "mlp_dense",
    "experts",
    "shared_experts",
    "router",
    "norm",
    "ssm",
    "multimodal",
    "other",
)


class Cut(Enum):
    """The way a tensor is spread when several GPUs hold one copy of the model."""

    NONE = "none"  # every GPU of the group holds all of it
    TENSOR = "tensor"  # columns or rows are divided over the tensor-parallel group
    EXPERT = "expert"  # whole experts are dealt out over the expert-parallel group


@dataclass(frozen=True, slots=True)
class Tensor:
    """One stored tensor, or `count` equal ones.

    name       as the checkpoint names it inside its layer ("self_attn.q_proj.weight")
    shape      sizes as stored
    component  the key of `parameters_by_component` it belongs to
    role       what number formats go by: embedding, layer_embedding, output, attn_q, attn_k, attn_v, attn_qkv,
               attn_kv_a, attn_kv_b, attn_output, ffn_gate, ffn_up, ffn_gate_up, ffn_down, the same with _exps (routed
               experts, stacked) and _shexp (shared experts), router, norm, bias, ssm_in, ssm_out, ssm_other, position,
               other
    linear     whether it is the weight matrix of a linear layer (what quantizers and adapters look for)
    cut        how tensor or expert parallelism spreads it
    pieces     the most GPUs it can be cut over under Cut.TENSOR: heads are never split
    experts    how many routed experts are stacked in it, 0 if none
    chosen     of these, how many one token uses
    targets    the names by which adapters pick it, None for that of its own module
    ranks      matrices fused in it, each of which an adapter gives its rank
    """

    name: str
    shape: tuple[int, ...]
    component: str
    role: str
    linear: bool = False
    cut: Cut = Cut.NONE
    pieces: int = 1
    experts: int = 0
    chosen: int = 0
    count: int = 1
    targets: tuple[str, ...] | None = None
    ranks: int = 1

    @property
    def elements(self) -> int:
        """Elements of all `count` copies.

        >>> Tensor("w", (4, 3), "attention", "attn_q", count=2).elements
        24
        """
        return prod(self.shape) * self.count

    @property
    def active(self) -> int:
        """Elements that one token's forward pass touches."""
        return self.elements * self.chosen // self.experts if self.experts else self.elements

    @property
    def module(self) -> str:
        """The last part of the module's name: what adapters call a target module.

        >>> Tensor("self_attn.q_proj.weight", (1, 1), "attention", "attn_q").module
        'q_proj'
        """
        return self.name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]

    @property
    def adapted_as(self) -> tuple[str, ...]:
        """The names by which adapters pick it: none for what is no linear layer, unless it says so."""
        if self.targets is not None:
            return self.targets
        return (self.module,) if self.linear else ()

    def held(self, tensor: int = 1, expert: int = 1) -> int:
        """Elements on the fullest GPU of a group: `tensor` ways of tensor parallelism, `expert` ways of experts.

        >>> Tensor("k", (1024, 8), "attention", "attn_k", cut=Cut.TENSOR, pieces=4).held(tensor=8)
        2048
        """
        if self.cut is Cut.TENSOR and tensor > 1:
            return ceil_div(self.elements, min(tensor, self.pieces))
        if self.cut is Cut.EXPERT and (expert > 1 or tensor > 1):
            if expert > 1:
                return self.elements // max(self.experts, 1) * ceil_div(self.experts, expert)
            return ceil_div(self.elements, tensor)
        return self.elements
