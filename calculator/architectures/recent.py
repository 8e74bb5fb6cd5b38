"""Dense decoders of transformers 5.23.0 that share their layers with Llama, Granite, Gemma or GPT-2."""

from __future__ import annotations

from dataclasses import replace

from ..layers.blocks import Block, PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import FeedForward
from ..layers.gated import ScaledSandwichBlock
from ..layers.norms import Norm, RMSNorm
from ..layers.variants import RotatedThenNormed
from ..model import Model
from .fields import Fields, with_defaults
from .gemma import TWO_SIDES, alternating, capped, gemma_like
from .gpt import gpt2
from .llama import attention_sizes, finish, granite, llama_like
from .table import Reader


def iquestcoder(fields: Fields, name: str | None) -> Model:
    """IQuest Coder: Llama's class under its own name."""
    fields = with_defaults(
        fields,
        vocab_size=76800,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=80,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
    )
    return llama_like(fields, name)


def hyperclovax(fields: Fields, name: str | None) -> Model:
    """HyperCLOVA X: Granite, with a norm after each part unless the configuration says no."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    model = granite(fields, name)
    if not fields.flag("use_post_norm", default=True):
        return model
    hidden = model.hidden
    made: dict[Block, Block] = {}
    for layer in model.distinct:
        first, second = layer.norms
        norms: tuple[Norm, ...] = (first, RMSNorm(hidden, "post_norm1"), second, RMSNorm(hidden, "post_norm2"))
        made[layer] = ScaledSandwichBlock(layer.mixer, layer.feed_forward, norms)
    return replace(model, layers=tuple(made[layer] for layer in model.layers))


def vaultgemma(fields: Fields, name: str | None) -> Model:
    """VaultGemma: Gemma 2 without the norms after each part."""
    fields = with_defaults(
        fields,
        vocab_size=256000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    return gemma_like(
        fields,
        name,
        norms=(TWO_SIDES[0], TWO_SIDES[2]),
        windows=alternating(fields, fields.size("num_hidden_layers"), 2),
        softcap=capped(fields, "attn_logit_softcapping", 50.0),
        final_softcap=capped(fields, "final_logit_softcapping", 30.0),
    )


def nanochat(fields: Fields, name: str | None) -> Model:
    """nanochat: norms without weights, one more of them on the embedding, q and k normed after they are rotated."""
    fields = with_defaults(
        fields,
        vocab_size=50304,
        hidden_size=768,
        intermediate_size=8192,
        num_hidden_layers=12,
        num_attention_heads=6,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = RotatedThenNormed(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=RMSNorm(head_dim, "q_norm", affine=False),
        key_norm=RMSNorm(head_dim, "k_norm", affine=False),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation, wide = fields.text("hidden_act", default="relu2"), fields.size("intermediate_size")
    feed_forward = FeedForward(hidden, wide, activation, bias=False, up="fc1", down="fc2")
    plain = RMSNorm(hidden, "norm", affine=False)
    block = PreNormBlock(attention, feed_forward, (plain, plain))
    vocabulary, tied = fields.size("vocab_size"), fields.flag("tie_word_embeddings")
    cap = capped(fields, "final_logit_softcapping", 15.0)
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, norm=plain),
        (block,) * fields.size("num_hidden_layers"),
        Head(vocabulary, hidden, tied, plain, softcap=cap),
        rotary=head_dim,
    )


READERS: dict[str, Reader] = {
    "gpt-sw3": gpt2,
    "hyperclovax": hyperclovax,
    "iquestcoder": iquestcoder,
    "nanochat": nanochat,
    "vaultgemma": vaultgemma,
}
