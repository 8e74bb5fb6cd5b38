"""The first Idefics, KOSMOS-2 and KOSMOS-2.5."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields

from ..layers.attention import Attention, Projections
from ..layers.blocks import PreNormBlock
from ..layers.conditioned import DroppedOutput, InnerNormFeedForward, TwiceDroppedEmbedding
from ..layers.ends import Head
from ..layers.norms import LayerNorm
from ..layers.older import WaveEmbedding
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .fields import Fields, with_defaults
from .linear_attention import completed
from .llama import finish, llama
from .pictures import gated
from .sight import clip
from .table import Reader
from .texts import part, tied_outside

# ---------------------------------------------------------------------- Idefics


def latent_reader(fields: Fields, width: int) -> tuple[Tensor, ...]:
    """Idefics' resampler: latents that attend to the patches, feed-forward layers four times as wide."""
    inner = fields.size("resampler_n_heads", default=16) * fields.size("resampler_head_dim", default=96)
    normed = fields.flag("qk_layer_norms_perceiver")
    layer = (
        *layer_norm("context_layer_norm", width),
        *layer_norm("latents_layer_norm", width),
        *(layer_norm("qk_layer_norm", fields.size("resampler_head_dim", default=96), count=2) if normed else ()),
        *(each for letter in "qkv" for each in matrix(f"{letter}_proj", inner, width, False)),
        *matrix("output_proj", width, inner, False),
        *layer_norm("mlp.ln", width),
        *matrix("mlp.fc", 4 * width, width, False),
        *matrix("mlp.c_proj", width, 4 * width, False),
    )
    return (
        table("perceiver_resampler.latents", fields.size("resampler_n_latents", default=64), width),
        *times(layer, fields.size("resampler_depth", default=6)),
        *layer_norm("perceiver_resampler.layer_norm", width),
    )


def idefics(fields: Fields, name: str | None) -> Model:
    """Idefics: Llama, CLIP's tower, and layers between that attend to pictures behind a gate. They are stored; a step
    over text alone passes Llama's layers."""
    extra = fields.size("additional_vocab_size", default=0, least=0)
    rows = fields.size("vocab_size", default=32000) + extra
    plan = {"head_dim": None, "num_key_value_heads": None, "attention_bias": False, "mlp_bias": False}
    model = llama(Fields({**fields.values, **plan, "vocab_size": rows}, fields.path), name)
    seen = with_defaults(
        part(fields, "vision_config"),
        intermediate_size=5120,
        patch_size=14,
        num_hidden_layers=32,
        num_attention_heads=16,
    )
    width = seen.size("embed_dim", "hidden_size", default=768)
    hidden, count = model.hidden, fields.size("num_hidden_layers", default=32)
    each = fields.size("cross_layer_interval", default=1, most=count)
    kind = fields.text("alpha_type", default="float")
    if kind not in ("float", "vector"):
        fields.refuse("alpha_type", "must be float or vector")
    head = hidden // fields.size("num_attention_heads", default=32)
    crossed = (
        table("alpha", hidden if kind == "vector" else 1, count=2),
        *matrix("cross_attn.q_proj", hidden, hidden, False),
        *matrix("cross_attn.k_proj", hidden, width, False),
        *matrix("cross_attn.v_proj", hidden, width, False),
        *matrix("cross_attn.o_proj", hidden, hidden, False),
        *(layer_norm("cross_attn.qk_layer_norm", head, False, count=2) if fields.flag("qk_layer_norms") else ()),
        *gated("mlp", hidden, fields.size("intermediate_size", default=11008), hidden),
        *layer_norm("input_layernorm", hidden, False),
        *layer_norm("post_attention_layernorm", hidden, False),
    )
    towers = [
        clip(Fields({**seen.values, "hidden_size": width}, seen.path)),
        Tower("cross", times(crossed, count // each)),
    ]
    if fields.flag("use_resampler"):
        towers.append(Tower("projector", latent_reader(part(fields, "perceiver_config"), width)))
    return completed(fields, model, tuple(towers))


# ---------------------------------------------------------------------- KOSMOS-2, KOSMOS-2.5


def kosmos_text(fields: Fields, text: Fields, name: str | None, normed: bool = True) -> Model:
    """Layers with a norm before the last matrix of each part (of attention where it is `normed`), sines for
    positions. The head is tied where the whole or the text part says so, as both do where nothing is said."""
    tied = tied_outside(fields, True) or text.flag("tie_word_embeddings", default=True)
    hidden = text.size("embed_dim", "hidden_size")
    heads = text.size("attention_heads", "num_attention_heads", most=4096)
    head_dim = text.divides(hidden, heads, ("embed_dim", "attention_heads"))
    if text.flag("add_cross_attention"):
        text.refuse("add_cross_attention", "must be false: the decoder alone is read")
    wide, dropped = text.size("ffn_dim"), text.number("dropout", default=0.1)
    attention = Attention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=Projections(output="out_proj"),
        rotary_dim=0,
        dropout=text.number("attention_dropout", default=0.1),
        output_dropout=dropped,
    )
    if normed:
        kept = {each.name: getattr(attention, each.name) for each in dataclass_fields(attention)}
        attention = DroppedOutput(**kept, inner=LayerNorm(hidden, "inner_attn_ln"))
    feed_forward = InnerNormFeedForward(
        hidden,
        wide,
        text.text("activation_function", default="gelu"),
        up="fc1",
        down="fc2",
        prefix="ffn",
        dropout=dropped,
        inner=LayerNorm(wide, "ffn_layernorm"),
        activated=text.number("activation_dropout", default=0.0),
    )
    norms = (LayerNorm(hidden, "self_attn_layer_norm"), LayerNorm(hidden, "final_layer_norm"))
    vocabulary, positions = text.size("vocab_size"), text.size("max_position_embeddings")
    return finish(
        text,
        name,
        (TwiceDroppedEmbedding if normed else WaveEmbedding)(
            vocabulary, hidden, scaled=text.flag("scale_embedding", default=True), dropout=dropped
        ),
        (PreNormBlock(attention, feed_forward, norms),)
        * text.size("layers", "num_hidden_layers", default=24, most=10_000),
        Head(vocabulary, hidden, tied, LayerNorm(hidden, "layer_norm")),
        max_context=positions,
        waves=(positions + 2) * hidden,
    )


def kosmos_projector(fields: Fields, hidden: int, seen: int, queries: int) -> tuple[Tensor, ...]:
    """Latents that attend to what the tower gives."""
    return (
        table("image_to_text_projection.latent_query", fields.size("latent_query_num", default=queries), hidden),
        *matrix("image_to_text_projection.dense", hidden, seen),
        *(each for one in ("k", "v", "q", "out") for each in matrix(f"x_attn.{one}_proj", hidden, hidden)),
    )


def kosmos_2(fields: Fields, name: str | None) -> Model:
    """KOSMOS-2: its text layers and CLIP's tower."""
    text = with_defaults(
        part(fields, "text_config"),
        vocab_size=65037,
        max_position_embeddings=2048,
        **({} if fields.inner("text_config").has("hidden_size") else {"embed_dim": 2048}),
        **({} if fields.inner("text_config").has("num_attention_heads") else {"attention_heads": 32}),
        ffn_dim=8192,
    )
    model = kosmos_text(fields, text, name)
    seen = with_defaults(
        part(fields, "vision_config"),
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    )
    projector = kosmos_projector(fields, model.hidden, seen.size("hidden_size"), 64)
    return completed(fields, model, (clip(seen), Tower("projector", projector)))


def patch_rows(fields: Fields, name: str) -> tuple[Tensor, ...]:
    """A tower over patches of any number, each with the row and the column it stands in (Pix2Struct's)."""
    width, wide = fields.size("hidden_size", default=1536), fields.size("intermediate_size", default=3968)
    inner = fields.size("num_attention_heads", default=24) * fields.size("head_dim", default=64)
    block = (
        *(each for one in ("query", "key", "value") for each in matrix(f"attention.{one}", inner, width, False)),
        *matrix("attention.output", width, inner, False),
        *matrix("mlp.wi_0", wide, width, False),
        *matrix("mlp.wi_1", wide, width, False),
        *matrix("mlp.wo", width, wide, False),
        *layer_norm("pre_mlp_layer_norm", width, False),
        *layer_norm("pre_attention_layer_norm", width, False),
    )
    places = fields.size("max_num_patches", default=4096)
    return (
        *matrix(f"{name}.patch_projection", width, fields.size("patch_embed_hidden_size", default=768)),
        table(f"{name}.row_embedder.weight", places, width),
        table(f"{name}.column_embedder.weight", places, width),
        *times(block, fields.size("num_hidden_layers", default=18)),
        *layer_norm("layernorm", width, False),
    )


def kosmos_2_5(fields: Fields, name: str | None) -> Model:
    """KOSMOS-2.5: the same without a norm before the output matrix of attention, Pix2Struct's tower, and two rows that
    tell pictures from text."""
    given = fields.inner("text_config")
    text = with_defaults(
        part(fields, "text_config"),
        vocab_size=108481,
        max_position_embeddings=4096,
        attention_dropout=0.0,
        **({} if given.has("hidden_size") else {"embed_dim": 1536}),
        **({} if given.has("num_attention_heads") else {"attention_heads": 16}),
        ffn_dim=6144,
    )
    model = kosmos_text(fields, text, name, normed=False)
    seen = part(fields, "vision_config")
    projector = (
        *kosmos_projector(fields, model.hidden, seen.size("hidden_size", default=1536), 2048),
        table("segment_emb.weight", 2, model.hidden),
    )
    towers = (Tower("vision", patch_rows(seen, "embeddings")), Tower("projector", projector))
    return completed(fields, model, towers)


READERS: dict[str, Reader] = {
    "idefics": idefics,
    "kosmos-2": kosmos_2,
    "kosmos-2.5": kosmos_2_5,
}
