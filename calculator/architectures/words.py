"""Pictures as words of a vocabulary (Janus, Chameleon), and vision models on Granite, Hunyuan, Aria and ERNIE."""

from __future__ import annotations

from dataclasses import replace

from ..layers.attention import Attention
from ..layers.blocks import Block, PostNormBlock, PreNormBlock
from ..layers.experts import Experts, LateSoftmaxRouter, MixtureOfExperts
from ..layers.feed_forward import GatedFeedForward
from ..layers.partial import ScatteredNorm
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .bridges import querying
from .experts import ends, ernie4_5_moe, expert_counts, two_norms
from .fields import Fields, with_defaults
from .kin import rms_pair
from .linear_attention import completed
from .llama import attention_sizes, finish
from .sight import encoder_block, heads_of, idefics3, patches, tower_of
from .speech import convolution, sizes
from .table import Reader
from .texts import part, plain_head, read_text, text_part, tied_outside
from .vision import seen_in_three

# ---------------------------------------------------------------------- pictures as words


def residual(into: int, out: int) -> tuple[Tensor, ...]:
    """Two convolutions with norms, and a third of one point where the width changes."""
    return (
        *layer_norm("norm1", into),
        *convolution("conv1", out, into, 3, 3),
        *layer_norm("norm2", out),
        *convolution("conv2", out, out, 3, 3),
        *(convolution("nin_shortcut", out, into, 1, 1) if into != out else ()),
    )


def attending(width: int) -> tuple[Tensor, ...]:
    """Attention over all points."""
    return (*layer_norm("attn.norm", width), *convolution("attn.qkvo", width, width, 1, 1, count=4))


def encoding(fields: Fields, last_attends: bool) -> tuple[Tensor, ...]:
    """From pixels to words: stages that halve the sides; attention in the middle, in the last stage on request."""
    base = fields.size("base_channels", default=128)
    widths = [base * each for each in sizes(fields, "channel_multiplier", [1, 1, 2, 2, 4])]
    blocks = fields.size("num_res_blocks", default=2, most=1024)
    width = base
    made = [*convolution("conv_in", base, fields.size("in_channels", default=3), 3, 3)]
    for index, out in enumerate(widths):
        last = index == len(widths) - 1
        made += residual(width, out)
        made += times(residual(out, out), blocks - 1) if blocks > 1 else ()
        made += times(attending(out), blocks) if last and last_attends else ()
        made += () if last else convolution("downsample.conv", out, out, 3, 3)
        width = out
    latent = fields.size("latent_channels", default=256) * (2 if fields.flag("double_latent") else 1)
    return (
        *made,
        *times(residual(width, width), 2),
        *attending(width),
        *layer_norm("norm_out", width),
        *convolution("conv_out", latent, width, 3, 3),
    )


def decoding(fields: Fields) -> tuple[Tensor, ...]:
    """From words to pixels: the same the other way, with a block more in each stage."""
    base = fields.size("base_channels", default=128)
    widths = [base * each for each in sizes(fields, "channel_multiplier", [1, 1, 2, 2, 4])]
    blocks = fields.size("num_res_blocks", default=2, most=1024)
    width = widths[-1]
    made = [*convolution("conv_in", width, fields.size("latent_channels", default=256), 3, 3)]
    made += (*times(residual(width, width), 2), *attending(width))
    for index, out in reversed(list(enumerate(widths))):
        made += (*residual(width, out), *times(residual(out, out), blocks))
        made += times(attending(out), blocks + 1) if index == len(widths) - 1 else ()
        made += convolution("upsample.conv", out, out, 3, 3) if index else ()
        width = out
    pixels = convolution("conv_out", fields.size("out_channels", default=3), width, 3, 3)
    return (*made, *layer_norm("norm_out", width), *pixels)


def quantizing(fields: Fields, words: int, embedded: int) -> tuple[Tensor, ...]:
    """The table of words, and convolutions of one point on both sides of it."""
    latent = fields.size("latent_channels", default=256)
    return (
        table("quantize.embedding.weight", words, embedded),
        *convolution("quant_conv", embedded, latent, 1, 1),
        *convolution("post_quant_conv", latent, embedded, 1, 1),
    )


def janus(fields: Fields, name: str | None) -> Model:
    """Janus and Janus-Pro: Llama, SigLIP's blocks to see, and a vocabulary of pictures to draw."""
    kind, text = text_part(fields, "llama")
    model = read_text(kind, text, name, tied_outside(fields, True))
    seen, drawn = part(fields, "vision_config"), part(fields, "vq_config")
    width = seen.size("hidden_size", default=1024)
    heads_of(seen, width, 16)
    wide = width * seen.number("mlp_ratio", default=4.0)
    if not 1 <= wide <= 10**9:
        seen.refuse("mlp_ratio", "makes no layer")
    normed, bias = seen.flag("use_qk_norm"), seen.flag("attention_bias", default=True)
    patch = seen.size("patch_size", default=16)
    block = (
        *encoder_block(width, int(wide), bias=bias, out="projection_layer"),
        *(each for one in ("q_norm", "k_norm") if normed for each in layer_norm(one, width)),
    )
    out, depth = seen.size("projection_dim", default=2048), seen.size("depth", default=2, most=1024)
    tower = (
        *convolution("patch_embedding", width, seen.size("num_channels", default=3), patch, patch),
        table("position_embedding.weight", patches(seen, 384, 16), width),
        *times(block, seen.size("num_hidden_layers", default=24)),
        *layer_norm("post_layernorm", width),
        *matrix("aligner.fc1", out, width),
        *(matrix("aligner.hidden_layers", out, out, count=depth - 1) if depth > 1 else ()),
    )
    words, embedded = drawn.size("num_embeddings", default=16384), drawn.size("embed_dim", default=8)
    projected = drawn.size("projection_dim", default=2048)
    layers = drawn.size("num_hidden_layers", default=2, most=1024)
    drawing = (
        *encoding(drawn, last_attends=True),
        *quantizing(drawn, words, embedded),
        *decoding(drawn),
        table("generation_embeddings.weight", words, embedded),
        *matrix("generation_aligner.fc1", projected, embedded),
        *(matrix("generation_aligner.hidden_layers", projected, projected, count=layers - 1) if layers > 1 else ()),
        *matrix("generation_head.proj_out", projected, drawn.size("image_token_embed_dim", default=2048)),
        *matrix("generation_head.vision_head", words, projected),
    )
    return completed(fields, model, (Tower("vision", tower), Tower("drawing", drawing)))


def chameleon(fields: Fields, name: str | None) -> Model:
    """Chameleon: Llama's layers with a norm for each head of q and k, or norms after each part (30B); pictures are
    words of its vocabulary."""
    fields = with_defaults(
        fields,
        vocab_size=65536,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
    )
    fields = Fields({**fields.values, "head_dim": None}, fields.path)
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    attention = Attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        bias=bias,
        output_bias=bias,
        query_norm=ScatteredNorm(head_dim, "q_norm", heads=heads),
        key_norm=ScatteredNorm(head_dim, "k_norm", heads=kv_heads),
        dropout=fields.number("attention_dropout", default=0.0),
    )
    activation = fields.text("hidden_act", default="silu")
    wide = fields.size("intermediate_size")
    feed_forward = GatedFeedForward(hidden, wide, activation, fields.flag("mlp_bias"))
    layer: Block = PreNormBlock(attention, feed_forward, rms_pair(hidden))
    if fields.flag("swin_norm"):
        layer = PostNormBlock(attention, feed_forward, rms_pair(hidden))
    embedding, head = ends(fields, hidden)
    layers = (layer,) * fields.size("num_hidden_layers")
    model = finish(fields, name, embedding, layers, head, rotary=head_dim)
    drawn = part(fields, "vq_config")
    if drawn.items("attn_resolutions") or drawn.text("attn_type", default="vanilla") != "vanilla":
        drawn.refuse("attn_resolutions", "and other kinds of attention than vanilla are not read here")
    words, embedded = drawn.size("num_embeddings", default=8192), drawn.size("embed_dim", default=256)
    stored = (*encoding(drawn, last_attends=False), *quantizing(drawn, words, embedded))
    return completed(fields, model, (Tower("vision", stored),))


# ---------------------------------------------------------------------- Granite Vision, HunyuanOCR


def granite4_vision(fields: Fields, name: str | None) -> Model:
    """Granite Vision 4: Granite and a tower, of whose layers some enter layers of the text model, each by a Q-Former
    over windows; four more take every second row and column."""
    text = text_part(fields, "granite", fixed=True)[1]
    text = with_defaults(
        text,
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    model = read_text("granite", text, name, tied_outside(fields, False))
    model = replace(model, head=replace(model.head, scaled=True))  # it divides its logits as Granite does
    seen = part(fields, "vision_config")
    tower = tower_of(seen, "clip_vision_model")
    width = seen.size("hidden_size", default=768)
    absent = {"num_hidden_layers": 1, "intermediate_size": 3072, "cross_attention_frequency": 1}
    asking = part(fields, "qformer_config", absent)
    asking = Fields({**asking.values, "hidden_size": width, "num_attention_heads": max(width // 64, 1)}, asking.path)
    sides = fields.text("downsample_rate", default="").split("/")
    if len(sides) != 2 or not all(each.isdigit() and 0 < int(each[:5]) < 10_000 and len(each) < 5 for each in sides):
        fields.refuse("downsample_rate", "must be the sides of queries and of windows, as 4/8")
    queries, window = (int(each) for each in sides)
    pairs = fields.items("deepstack_layer_map")
    if pairs is None or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        fields.refuse("deepstack_layer_map", "must be pairs of a layer of the tower and one of the text model")
    projector = (
        table("query", 1, queries**2, width),
        table("image_positions", 1, window**2, width),
        *layer_norm("qformer.layernorm", width),
        *querying(asking, width, asking.flag("use_qformer_text_input")),
        *layer_norm("norm", width),
        *matrix("out_linear", model.hidden, width),
    )
    stored = (*times(projector, len(pairs) + 4), table("image_newline", model.hidden))
    return completed(fields, model, (tower, Tower("projector", stored)))


def hunyuan_vl(fields: Fields, name: str | None) -> Model:
    """HunyuanOCR: Hunyuan's text layers and a tower whose merger joins patches by a convolution and marks rows."""
    kind, text = text_part(fields, "hunyuan_v1_dense", fixed=True)
    if not text.has("head_dim") and text.has("attention_head_dim"):
        text = Fields({**text.values, "head_dim": text.values["attention_head_dim"]}, text.path)
    inside = text.flag("tie_word_embeddings", default=True)
    model = seen_in_three(read_text(kind, text, name, tied_outside(fields, True) or inside))
    seen = part(fields, "vision_config")
    width, wide = seen.size("hidden_size", default=1152), seen.size("intermediate_size", default=4304)
    heads_of(seen, width, 16)
    patch, merge = seen.size("patch_size", default=16), seen.size("spatial_merge_size", default=2)
    out = seen.size("out_hidden_size", default=4096)
    places = (seen.size("max_image_size", default=2048, least=patch) // patch) ** 2 + 1
    stored = (
        *convolution("patch_embedding", width, seen.size("num_channels", default=3), patch, patch),
        table("position_embedding.weight", places, width),
        *times(encoder_block(width, wide, out="o_proj"), seen.size("num_hidden_layers", default=27)),
        table("patch_merger.image_newline", 4 * width),
        table("patch_merger.image_marks", out, count=3),
        *convolution("patch_merger.proj_conv", 2 * width, width, merge, merge),
        *convolution("patch_merger.proj_out", 4 * width, 2 * width, 1, 1),
        *matrix("patch_merger.mlp", out, 4 * width),
        *layer_norm("patch_merger.before_rms", width, False),
        *layer_norm("patch_merger.after_rms", out, False),
    )
    return completed(fields, model, (Tower("vision", stored),))


# ---------------------------------------------------------------------- Aria, ERNIE 4.5 VL


def aria_text(fields: Fields, name: str | None, tied: bool) -> Model:
    """Aria's text layers: experts in all, a softmax over the chosen, shared experts beside them."""
    fields = with_defaults(
        fields,
        vocab_size=32000,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    hidden, heads, kv_heads, head_dim = attention_sizes(fields)
    bias = fields.flag("attention_bias")
    activation, wide = fields.text("hidden_act", default="silu"), fields.size("intermediate_size", default=4096)
    experts, chosen = expert_counts(fields, "moe_num_experts", chosen=2, experts=8)
    shared = fields.size("moe_num_shared_experts", default=2)
    always = GatedFeedForward(
        hidden,
        wide * shared,
        activation,
        fields.flag("mlp_bias"),
        prefix="mlp.shared_experts",
        component="shared_experts",
        suffix="_shexp",
    )
    stacks = Experts(hidden, wide, experts, chosen, activation, transposed=True)
    mixture = MixtureOfExperts(LateSoftmaxRouter(hidden, experts, chosen, "mlp.router"), stacks, always)
    attention = Attention(hidden, heads, kv_heads, head_dim, bias=bias, output_bias=bias)
    layers = (PreNormBlock(attention, mixture, two_norms(hidden)),) * fields.size("num_hidden_layers")
    embedding, head = ends(fields, hidden)
    model = finish(fields, name, embedding, layers, head, rotary=head_dim)
    return replace(model, head=plain_head(model.head, tied))


def aria(fields: Fields, name: str | None) -> Model:
    """Aria: its text model, Idefics 3's tower, and learned queries that attend to the patches."""
    model = aria_text(text_part(fields, "aria_text", fixed=True)[1], name, tied_outside(fields, False))
    seen = part(fields, "vision_config")
    width = seen.size("hidden_size", default=1152)
    mapped = fields.values.get("projector_patch_to_query_dict")
    queries = 256
    if mapped is not None:
        found = fields.inner("projector_patch_to_query_dict")
        queries = max((found.size(key) for key in found.values), default=0)
        if not queries:
            fields.refuse("projector_patch_to_query_dict", "must name at least one number of queries")
    stored = (
        table("query", queries, width),
        *(each for letter in "qkv" for each in matrix(f"cross_attn.{letter}_proj", width, width, False)),
        *matrix("cross_attn.multihead_attn.in_proj", 3 * width, width),
        *matrix("cross_attn.multihead_attn.out_proj", width, width),
        *matrix("cross_attn.linear", width, width),
        *layer_norm("cross_attn.layer_norm", width),
        *layer_norm("cross_attn.layer_norm_kv", width),
        *layer_norm("layer_norm", width),
        *matrix("feed_forward.linear_in", model.hidden, width, False),
        *matrix("feed_forward.linear_out", model.hidden, model.hidden, False),
    )
    named = seen.text("model_type", default="idefics3_vision")
    tower = idefics3(seen) if named == "aria_vision_model" else tower_of(seen, "idefics3_vision")
    return completed(fields, model, (tower, Tower("projector", stored)))


def ernie4_5_vl_moe(fields: Fields, name: str | None) -> Model:
    """ERNIE 4.5 VL: ERNIE 4.5's layers with a second set of experts for patches, which no token of text passes."""
    text = with_defaults(
        text_part(fields, "ernie4_5_moe", fixed=True)[1],
        vocab_size=103424,
        hidden_size=2560,
        intermediate_size=12288,
        num_hidden_layers=28,
        num_attention_heads=20,
        num_key_value_heads=4,
        max_position_embeddings=131072,
    )
    hidden, count = text.size("hidden_size"), text.size("num_hidden_layers")
    wides = sizes(text, "moe_intermediate_size", [1536, 512], most=2)
    experts = first(text, "moe_num_experts", 64)
    if len(wides) != 2:
        text.refuse("moe_intermediate_size", "must have two entries, for text and for patches")
    kinds = text.items("mlp_layer_types", length=count)
    sparse = [index > 0 for index in range(count)] if kinds is None else [each == "sparse" for each in kinds]
    dense = sum(1 for each in sparse if not each)
    if sparse != [index >= dense for index in range(count)]:
        text.refuse("mlp_layer_types", "must have its dense layers first")
    plan = {
        "moe_intermediate_size": wides[0],
        "moe_num_experts": experts,
        "moe_layer_start_index": dense,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
        "num_nextn_predict_layers": 0,
        "tie_word_embeddings": tied_outside(fields, True),
    }
    model = seen_in_three(ernie4_5_moe(Fields({**text.values, **plan}, text.path), name))
    idle = (
        *(replace(each, component="router") for each in matrix("vision_moe.gate", experts, hidden, False)),
        replace(table("vision_moe.e_score_correction_bias", 1, experts), component="router"),
        *(
            replace(table(f"vision_moe.experts.{one}", experts, *shape), component="experts", experts=experts)
            for one, shape in (("gate_up_proj", (2 * wides[1], hidden)), ("down_proj", (hidden, wides[1])))
        ),
    )
    seen = part(fields, "vision_config")
    width, patch = seen.size("hidden_size", default=1280), seen.size("patch_size", default=14)
    heads_of(seen, width, 16, "num_heads", "num_attention_heads")
    wide = seen.size("intermediate_size", default=5120)
    block = (
        *layer_norm("norm1", width),
        *layer_norm("norm2", width),
        *matrix("attn.qkv", 3 * width, width),
        *matrix("attn.proj", width, width),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
    )
    joined = width * seen.size("spatial_merge_size", default=2) ** 2
    over = joined * seen.size("temporal_merge_size", default=2)
    tower = (
        *matrix("patch_embed.proj", width, seen.size("in_channels", default=3) * patch**2, False),
        *times(block, seen.size("depth", "num_hidden_layers", default=32)),
        *layer_norm("ln", width),
    )
    resampler = (
        *(each for one in ("fc1", "fc2") for each in matrix(f"spatial_linear.{one}", joined, joined)),
        *layer_norm("spatial_linear.ln", joined),
        *matrix("temporal_linear.fc1", joined, over),
        *matrix("temporal_linear.fc2", joined, joined),
        *layer_norm("temporal_linear.ln", joined),
        *matrix("mlp", hidden, joined),
        *layer_norm("after_norm", hidden, False),
    )
    towers = [Tower("vision", tower), Tower("projector", resampler)]
    if any(sparse):
        towers.append(Tower("experts", times(idle, sum(sparse))))
    return completed(fields, model, tuple(towers))


def first(fields: Fields, name: str, default: int) -> int:
    """A figure, or the first of a list of equal ones."""
    value = fields.values.get(name)
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        fields = Fields({name: value[0]}, fields.path)
    return fields.size(name, default=default, most=100_000)


READERS: dict[str, Reader] = {
    "aria": aria,
    "chameleon": chameleon,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "granite4_vision": granite4_vision,
    "hunyuan_vl": hunyuan_vl,
    "janus": janus,
}
