"""Qwen2.5-Omni and Qwen3-Omni as a whole: the part that thinks, and the parts that speak, which a text-only step holds
and does not run."""

from __future__ import annotations

from dataclasses import replace

from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .fields import Fields
from .linear_attention import completed
from .pictures import gated
from .sounds import qwen2_5_omni_thinker, qwen3_omni_moe_thinker
from .table import Reader


def convolution(name: str, out: int, into: int, *kernel: int, count: int = 1) -> tuple[Tensor, ...]:
    """A convolution with a bias."""
    return table(f"{name}.weight", out, into, *kernel, count=count), table(f"{name}.bias", out, count=count)


def sizes(fields: Fields, name: str, default: list[int], most: int = 64) -> list[int]:
    """A list of sizes."""
    values = fields.items(name)
    if values is None:
        return default
    if not 0 < len(values) <= most:
        fields.refuse(name, f"must have from 1 to {most} entries")
    each = Fields({str(index): value for index, value in enumerate(values)}, f"{fields.path}.{name}")
    return [each.size(str(index)) for index in range(len(values))]


def talking_attention(
    fields: Fields,
    width: int,
    defaults: tuple[int, int, int],
    biases: tuple[bool, bool] = (False, False),
    normed: bool = False,
) -> tuple[Tensor, ...]:
    """Grouped heads of a speaking part; `defaults`: heads, key-value heads, width of a head (0: what is left)."""
    heads = fields.size("num_attention_heads", default=defaults[0])
    kv_heads = fields.size("num_key_value_heads", default=defaults[1])
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    head = fields.size("head_dim", default=defaults[2] or max(width // heads, 1))
    return (
        *matrix("self_attn.q_proj", heads * head, width, biases[0]),
        *matrix("self_attn.k_proj", kv_heads * head, width, biases[0]),
        *matrix("self_attn.v_proj", kv_heads * head, width, biases[0]),
        *matrix("self_attn.o_proj", width, heads * head, biases[1]),
        *(each for name in ("q_norm", "k_norm") if normed for each in layer_norm(f"self_attn.{name}", head, False)),
    )


def two_norms(width: int) -> tuple[Tensor, ...]:
    """The norms of a layer."""
    return (*layer_norm("input_layernorm", width, False), *layer_norm("post_attention_layernorm", width, False))


# ---------------------------------------------------------------------- Qwen2.5-Omni


def omni_talker(fields: Fields) -> tuple[Tensor, ...]:
    """Qwen 2's layers over tokens of sound."""
    width = fields.size("hidden_size", default=3584)
    embedded = fields.size("embedding_size", default=3584)
    vocabulary = fields.size("vocab_size", default=8448)
    layer = (
        *talking_attention(fields, width, (28, 4, 128), (True, False)),
        *gated("mlp", width, fields.size("intermediate_size", default=18944), width),
        *two_norms(width),
    )
    return (
        *matrix("talker.thinker_to_talker_proj", width, embedded),
        table("talker.model.embed_tokens.weight", vocabulary, embedded),
        *times(layer, fields.size("num_hidden_layers", default=28)),
        *layer_norm("talker.model.norm", width, False),
        *matrix("talker.codec_head", vocabulary, width, False),
    )


def speaker_encoder(fields: Fields) -> tuple[Tensor, ...]:
    """A voice's embedding: delayed convolutions in steps (ECAPA-TDNN), statistics over time, a matrix."""
    channels = sizes(fields, "enc_channels", [256, 256, 256, 256, 768])
    kernels = sizes(fields, "enc_kernel_sizes", [5, 3, 3, 3, 1])
    if len(channels) != len(kernels) or len(channels) < 2:
        fields.refuse("enc_channels", "must be as many as enc_kernel_sizes, and at least 2")
    scale, squeezed = fields.size("enc_res2net_scale", default=2, most=1024), fields.size("enc_se_channels", default=64)
    made = [*convolution("blocks.0.conv", channels[0], fields.size("mel_dim", default=80), kernels[0])]
    for into, out, kernel in zip(channels[:-2], channels[1:-1], kernels[1:-1], strict=True):
        part = fields.divides(out, scale, ("enc_channels", "enc_res2net_scale"))
        made += convolution("tdnn1.conv", out, into, 1)
        made += convolution("res2net_block.conv", part, part, kernel, count=scale - 1) if scale > 1 else ()
        made += convolution("tdnn2.conv", out, out, 1)
        made += convolution("se_block.conv1", squeezed, out, 1)
        made += convolution("se_block.conv2", out, squeezed, 1)
    last, attended = channels[-1], fields.size("enc_attention_channels", default=64)
    return (
        *made,
        *convolution("mfa.conv", last, last, kernels[-1]),
        *convolution("asp.tdnn.conv", attended, 3 * last, 1),
        *convolution("asp.conv", last, attended, 1),
        *convolution("fc", fields.size("enc_dim", default=128), 2 * last, 1),
    )


def omni_transformer(fields: Fields) -> tuple[Tensor, ...]:
    """From tokens of sound to its spectrum: a diffusion transformer."""
    width = fields.size("hidden_size", default=1024)
    heads, head = fields.size("num_attention_heads", default=16), fields.size("head_dim", default=64)
    wide = width * fields.size("ff_mult", default=2)
    mel, embedded = fields.size("mel_dim", default=80), fields.size("emb_dim", default=512)
    into = mel + fields.size("enc_dim", default=128) + fields.size("enc_emb_dim", default=192) + embedded
    layer = (
        *matrix("attn_norm.linear", 6 * width, width),
        *(each for name in "qkv" for each in matrix(f"attn.to_{name}", heads * head, width)),
        *matrix("attn.to_out.0", width, heads * head),
        *matrix("ff.ff.0", wide, width),
        *matrix("ff.ff.3", width, wide),
    )
    return (
        *matrix("time_embed.time_mlp.0", width, 256),  # as many sines and cosines tell the time
        *matrix("time_embed.time_mlp.2", width, width),
        table("text_embed.codec_embed.weight", fields.size("num_embeds", default=8193) + 1, embedded),
        *matrix("input_embed.proj", width, into),
        *speaker_encoder(fields),
        *times(layer, fields.size("num_hidden_layers", default=22)),
        *matrix("norm_out.linear", 2 * width, width),
        *matrix("proj_out", mel, width),
    )


def omni_vocoder(fields: Fields) -> tuple[Tensor, ...]:
    """From the spectrum to the waveform (BigVGAN): each step halves the channels and draws out time; three blocks of
    convolutions in each."""
    channels = fields.size("upsample_initial_channel", default=1536)
    rates = sizes(fields, "upsample_rates", [5, 3, 2, 2, 2, 2])
    steps = sizes(fields, "upsample_kernel_sizes", [11, 7, 4, 4, 4, 4])
    kernels = sizes(fields, "resblock_kernel_sizes", [3, 7, 11])
    if len(rates) != len(steps) or channels >> len(rates) < 1:
        fields.refuse("upsample_rates", "must be as many as upsample_kernel_sizes, and halve the channels so often")
    made = [*convolution("conv_pre", channels, fields.size("mel_dim", default=80), 7)]
    for step in steps:
        made += (table("ups.weight", channels, channels // 2, step), table("ups.bias", channels // 2))
        channels //= 2
        for kernel in kernels:
            made += convolution("resblocks.convs", channels, channels, kernel, count=6)
            made += (table("resblocks.activations", channels, count=12),)
    return (*made, table("activation_post", channels, count=2), table("conv_post.weight", 1, channels, 7))


def thinking(fields: Fields) -> Fields:
    """The configuration of the part that thinks, completed by what stands beside it."""
    inner = fields.inner("thinker_config")
    beside = ("torch_dtype", "dtype", "quantization_config")
    given = {name: fields.values[name] for name in beside if fields.has(name) and not inner.has(name)}
    return Fields({**inner.values, **given}, inner.path)


def qwen2_5_omni(fields: Fields, name: str | None) -> Model:
    """Qwen2.5-Omni: thinker, talker, and what makes sound of the talker's tokens."""
    model = qwen2_5_omni_thinker(thinking(fields), name)
    speaking: tuple[Tensor, ...] = ()
    if fields.flag("enable_audio_output", default=True):
        sound = fields.inner("token2wav_config")
        speaking = (
            *omni_talker(fields.inner("talker_config")),
            *omni_transformer(sound.inner("dit_config")),
            *omni_vocoder(sound.inner("bigvgan_config")),
        )
    return completed(fields, model, (*model.towers, Tower("speech", speaking)))


# ---------------------------------------------------------------------- Qwen3-Omni


def omni3_talker(fields: Fields) -> tuple[Tensor, ...]:
    """Qwen 3's layers with experts and a shared one over tokens of sound, and a small model that predicts the further
    tokens of a moment."""
    text, small = fields.inner("text_config"), fields.inner("code_predictor_config")
    width, vocabulary = text.size("hidden_size", default=1024), text.size("vocab_size", default=3072)
    wide, thought = text.size("intermediate_size", default=2048), fields.size("thinker_hidden_size", default=2048)
    experts = text.size("num_experts", "num_local_experts", default=128, most=100_000)
    chosen = text.size("num_experts_per_tok", default=8, most=experts)
    each = text.size("moe_intermediate_size", default=384)
    bias = text.flag("attention_bias")

    def stacked(name: str, *shape: int) -> Tensor:
        return replace(table(name, experts, *shape), experts=experts, chosen=chosen)

    layer = (
        *talking_attention(text, width, (16, 2, 0), (bias, bias), normed=True),
        *matrix("mlp.gate", experts, width, False),
        stacked("mlp.experts.gate_up_proj", 2 * each, width),
        stacked("mlp.experts.down_proj", width, each),
        *gated("mlp.shared_expert", width, text.size("shared_expert_intermediate_size"), width),
        *matrix("mlp.shared_expert_gate", 1, width, False),
        *two_norms(width),
    )
    resized = (*matrix("projection.linear_fc1", wide, thought), *matrix("projection.linear_fc2", width, wide))
    narrow, codes = small.size("hidden_size", default=1024), small.size("vocab_size", default=2048)
    bias = small.flag("attention_bias")
    predicting = (
        *talking_attention(small, narrow, (16, 8, 128), (bias, bias), normed=True),
        *gated("mlp", narrow, small.size("intermediate_size", default=3072), narrow),
        *two_norms(narrow),
    )
    groups = small.size("num_code_groups", default=32, least=2) - 1
    return (
        *times(layer, text.size("num_hidden_layers", default=20)),
        *layer_norm("talker.model.norm", width, False),
        table("talker.model.codec_embedding.weight", vocabulary, width),
        *times(resized, 2),
        *matrix("talker.codec_head", vocabulary, width, False),
        *times(predicting, small.size("num_hidden_layers", default=5)),
        *layer_norm("code_predictor.model.norm", narrow, False),
        table("code_predictor.model.codec_embedding.weight", codes, narrow, count=groups),
        *matrix("code_predictor.lm_head", codes, narrow, False, count=groups),
    )


def omni3_sound(fields: Fields) -> tuple[Tensor, ...]:
    """From tokens to the waveform: a small transformer, then convolutions that draw out time and halve the channels."""
    width = fields.size("hidden_size", default=1024)
    bias = fields.flag("attention_bias")
    layer = (
        *talking_attention(fields, width, (16, 16, 0), (bias, bias)),
        *gated("mlp", width, fields.size("intermediate_size", default=3072), width),
        *two_norms(width),
        table("layer_scale", width, count=2),
    )
    rows = fields.size("codebook_size", default=2048) * fields.size("num_quantizers", default=16)
    made = [
        *times(layer, fields.size("num_hidden_layers", default=8)),
        *layer_norm("pre_transformer.norm", width, False),
        table("code_embedding.weight", rows, width),
    ]
    for factor in sizes(fields, "upsampling_ratios", [2, 2]):
        made += convolution("upsample.conv", width, width, factor)
        made += (table("upsample.gamma", width), *convolution("upsample.dwconv.conv", width, 1, 7))
        made += layer_norm("upsample.norm", width)
        made += (*matrix("upsample.pwconv1", 4 * width, width), *matrix("upsample.pwconv2", width, 4 * width))
    channels, rates = fields.size("decoder_dim", default=1536), sizes(fields, "upsample_rates", [8, 5, 4, 3])
    if channels >> len(rates) < 1:
        fields.refuse("upsample_rates", "must halve the channels no more often than they can be")
    made += convolution("decoder.conv", channels, width, 7)
    for rate in rates:
        half = channels // 2
        made += (table("decoder.snake", channels, count=2), table("decoder.up.weight", channels, half, 2 * rate))
        made += (table("decoder.up.bias", half), table("decoder.residual.snake", half, count=12))
        made += convolution("decoder.residual.conv1", half, half, 7, count=3)
        made += convolution("decoder.residual.conv2", half, half, 1, count=3)
        channels = half
    return (*made, table("decoder.snake", channels, count=2), *convolution("decoder.conv", 1, channels, 7))


def qwen3_omni_moe(fields: Fields, name: str | None) -> Model:
    """Qwen3-Omni: thinker, talker, and what makes sound of the talker's tokens."""
    model = qwen3_omni_moe_thinker(thinking(fields), name)
    speaking: tuple[Tensor, ...] = ()
    if fields.flag("enable_audio_output", default=True):
        speaking = (*omni3_talker(fields.inner("talker_config")), *omni3_sound(fields.inner("code2wav_config")))
    return completed(fields, model, (*model.towers, Tower("speech", speaking)))


READERS: dict[str, Reader] = {"qwen2_5_omni": qwen2_5_omni, "qwen3_omni_moe": qwen3_omni_moe}
