"""GLM 4 of Zhipu AI, as transformers names it: `glm` (4-9B of 2024) and `glm4` (0414)."""

from __future__ import annotations

from ..layers.blocks import Block, PreNormBlock, SandwichBlock
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import Norm, RMSNorm
from ..layers.partial import PairwiseRotated
from ..model import Model
from .fields import Fields, with_defaults
from .kin import stack
from .llama import attention_sizes
from .phi import rotary_dim
from .table import Reader

TWO = ("input_layernorm", "post_attention_layernorm")
FOUR = ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")


def half_rotated(fields: Fields, name: str | None, block: type[Block], names: tuple[str, ...]) -> Model:
    """Half of each head rotated in pairs, two key-value heads, gate and up in one matrix."""
    fields = with_defaults(fields, head_dim=128, num_key_value_heads=2)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    turned = rotary_dim(fields, head_dim, 0.5)
    attention = PairwiseRotated(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=fields.flag("attention_bias", default=True),
        rotary_dim=turned,
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    feed_forward = GatedFeedForward(hidden, fields.size("intermediate_size"), activation, fused="gate_up_proj")
    norms: tuple[Norm, ...] = tuple(RMSNorm(hidden, each) for each in names)
    layer = block(attention, feed_forward, norms)
    return stack(fields, name, lambda _: layer, RMSNorm(hidden, "norm"), rotary=turned)


def glm(fields: Fields, name: str | None) -> Model:
    """GLM-4-9B in transformers' format."""
    return half_rotated(fields, name, PreNormBlock, TWO)


def glm4(fields: Fields, name: str | None) -> Model:
    """GLM-4-0414 and GLM-Z1: norms on both sides."""
    return half_rotated(fields, name, SandwichBlock, FOUR)


READERS: dict[str, Reader] = {"glm": glm, "glm4": glm4}
