"""The largest moment of a forward pass in engines that fuse norms, activations and rotary embeddings.

Such a pass holds the hidden states four times (the residual, what enters the layer, its normalized copy, and the
embeddings that the runner keeps) and beside them what the widest part of a layer makes at once: gate, up and their
product; queries, keys, values and the attention's output; or, for routed experts, the two workspaces of a fused
mixture.
"""

from __future__ import annotations

from functools import lru_cache

from ..model import Model
from ..parallel import Placement
from ..tensors import Cut, Tensor
from ..units import ceil_div
from .holdings import layers_of

STREAMS = 4  # copies of the hidden states


def _share(tensor: Tensor, placement: Placement) -> int:
    return min(placement.tensor, tensor.pieces) if tensor.cut is Cut.TENSOR else 1


def attention_width(tensors: tuple[Tensor, ...], placement: Placement) -> int:
    """Elements a token of queries, keys, values and the output of attention or of a recurrent mixer."""
    width = 0
    for tensor in tensors:
        if not tensor.linear or tensor.component not in ("attention", "ssm") or len(tensor.shape) != 2:
            continue
        side = tensor.shape[1] if tensor.role in ("attn_output", "ssm_out") else tensor.shape[0]
        width += ceil_div(side, _share(tensor, placement))
    return width


def dense_width(tensors: tuple[Tensor, ...], placement: Placement, component: str) -> int:
    """Elements a token of gate, up and their product in a plain or shared feed-forward layer."""
    width = 0
    for tensor in tensors:
        if not tensor.linear or tensor.component != component or len(tensor.shape) != 2:
            continue
        side = tensor.shape[1] if tensor.role.startswith("ffn_down") else tensor.shape[0]
        width += ceil_div(side, _share(tensor, placement))
    return width


def routed_width(tensors: tuple[Tensor, ...], placement: Placement, hidden: int) -> int:
    """Elements a token of a fused mixture's workspaces: chosen × the wider of gate with up and the hidden width, and
    chosen × their product."""
    wide = inner = chosen = 0
    for tensor in tensors:
        if not tensor.experts or not tensor.linear:
            continue
        chosen = tensor.chosen
        side = tensor.elements // tensor.experts // hidden
        side = ceil_div(side, max(placement.expert_group // placement.expert, 1))
        if tensor.role.startswith("ffn_down"):
            inner = side
        else:
            wide += side
    return chosen * (max(wide, hidden) + inner) if chosen else 0


@lru_cache(maxsize=4096)
def widest(model: Model, placement: Placement, stage: int) -> int:
    """Elements a token of the largest moment on one GPU of a stage, hidden states included."""
    hidden = model.hidden
    found = 0
    for layer in layers_of(model, placement.pipeline, stage):
        tensors = layer.tensors()
        found = max(
            found,
            attention_width(tensors, placement),
            dense_width(tensors, placement, "mlp_dense"),
            dense_width(tensors, placement, "shared_experts"),
            routed_width(tensors, placement, hidden),
        )
    return found + STREAMS * hidden
