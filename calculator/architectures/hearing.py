"""Further families that hear: Music Flamingo, GLM-ASR, Qwen3-ASR, Granite Speech, VibeVoice-ASR, Voxtral Realtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..layers.conditioned import TimedBlock
from ..layers.towers import layer_norm, matrix, table, times
from ..model import Model, Tower
from ..tensors import Tensor
from .bridges import querying
from .fields import Fields, with_defaults
from .linear_attention import completed
from .llama import llama_like
from .sounds import COUNT, HEADS, WIDE, WIDTH, audioflamingo3, heard_block
from .speech import convolution, sizes
from .table import Reader
from .texts import part, read_text, text_part, tied_outside

# ---------------------------------------------------------------------- GLM-ASR, Qwen3-ASR


def glmasr_tower(fields: Fields) -> Tower:
    """GLM-ASR's: Whisper's encoder with rotary positions."""
    width, wide = fields.size("hidden_size", default=1280), fields.size("intermediate_size", default=5120)
    heads = fields.size("num_attention_heads", default=20)
    head = fields.size("head_dim", default=max(width // heads, 1))
    kv_heads = fields.size("num_key_value_heads", default=heads)
    fields.divides(heads, kv_heads, ("num_attention_heads", "num_key_value_heads"))
    block = (
        *matrix("self_attn.q_proj", heads * head, width),
        *matrix("self_attn.k_proj", kv_heads * head, width, False),
        *matrix("self_attn.v_proj", kv_heads * head, width),
        *matrix("self_attn.o_proj", width, heads * head),
        *matrix("mlp.fc1", wide, width),
        *matrix("mlp.fc2", width, wide),
        *layer_norm("input_layernorm", width),
        *layer_norm("post_attention_layernorm", width),
    )
    return Tower(
        "audio",
        (
            *convolution("conv1", width, fields.size("num_mel_bins", default=128), 3),
            *convolution("conv2", width, width, 3),
            *times(block, fields.size("num_hidden_layers", default=32)),
            *layer_norm("norm", width),
        ),
    )


def glmasr(fields: Fields, name: str | None) -> Model:
    """GLM-ASR: Llama's layers completed by GLM-ASR's own figures, an encoder of sound, two matrices between."""
    own = {
        "model_type": "llama",
        "vocab_size": 59264,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
    }
    given = {**own, **fields.inner("text_config").values}
    kind, text = text_part(Fields({**fields.values, "text_config": given}, fields.path), "llama")
    model = read_text(kind, text, name, tied_outside(fields, True))
    heard = part(fields, "audio_config")
    projector = (
        *matrix("multi_modal_projector.linear_1", 2 * model.hidden, heard.size("intermediate_size", default=5120)),
        *matrix("multi_modal_projector.linear_2", model.hidden, 2 * model.hidden),
    )
    return completed(fields, model, (glmasr_tower(heard), Tower("projector", projector)))


def qwen3_asr(fields: Fields, name: str | None) -> Model:
    """Qwen3-ASR: Qwen 3 and Qwen3-Omni's encoder of sound, two matrices between."""
    absent = {
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 65536,
    }
    kind, text = text_part(fields, "qwen3", absent)
    model = read_text(kind, text, name, tied_outside(fields, True))
    heard = part(fields, "audio_config")
    width, wide = heard.size(*WIDTH, default=1024), heard.size(*WIDE, default=4096)
    heard.divides(width, heard.size(*HEADS, default=16), (WIDTH[0], HEADS[0]))
    channels, pitches = heard.size("downsample_hidden_size", default=480), heard.size("num_mel_bins", default=128)
    for _ in range(3):
        pitches = (pitches + 1) // 2
    tower = (
        *convolution("conv2d1", channels, 1, 3, 3),
        *convolution("conv2d2", channels, channels, 3, 3, count=2),
        *matrix("conv_out", width, channels * pitches, False),
        *times(heard_block(width, wide, True), heard.size(*COUNT, default=24)),
        *layer_norm("ln_post", width),
    )
    projector = (
        *matrix("multi_modal_projector.linear_1", width, width),
        *matrix("multi_modal_projector.linear_2", heard.size("output_dim", default=3584), width),
    )
    return completed(fields, model, (Tower("audio", tower), Tower("projector", projector)))


# ---------------------------------------------------------------------- Granite Speech


def granite_speech_tower(fields: Fields) -> Tower:
    """Granite Speech's conformer: attention with relative positions and a convolution between two feed-forward
    layers; what is heard so far is said as letters halfway and added."""
    width = fields.size("hidden_dim", "hidden_size", default=1024)
    heads = fields.size("num_heads", "num_attention_heads", default=8, most=4096)
    head = fields.size("dim_head", default=max(width // heads, 1))
    wide = width * fields.size("feedforward_mult", default=4)
    between = width * fields.size("conv_expansion_factor", default=2)
    out = fields.size("output_dim", default=42)
    half = (
        *layer_norm("ff.pre_norm", width),
        *matrix("ff.up_proj", wide, width),
        *matrix("ff.down_proj", width, wide),
    )
    block = (
        *times(half, 2),
        *layer_norm("attn.pre_norm", width),
        *matrix("attn.to_q", heads * head, width, False),
        *matrix("attn.to_kv", 2 * heads * head, width, False),
        *matrix("attn.to_out", width, heads * head),
        table("attn.rel_pos_emb.weight", 2 * fields.size("max_pos_emb", default=512) + 1, head),
        *layer_norm("conv.norm", width),
        *convolution("conv.up_conv", 2 * between, width, 1),
        table("conv.depth_conv.conv.weight", between, 1, fields.size("conv_kernel_size", default=15)),
        *layer_norm("conv.batch_norm", between),
        *convolution("conv.down_conv", width, between, 1),
        *layer_norm("post_norm", width),
    )
    return Tower(
        "audio",
        (
            *matrix("input_linear", width, fields.size("input_dim", "num_mel_bins", default=160)),
            *times(block, fields.size("num_layers", "num_hidden_layers", default=10, most=10_000)),
            *matrix("out", out, width),
            *matrix("out_mid", width, out),
        ),
    )


def granite_speech(fields: Fields, name: str | None) -> Model:
    """Granite Speech: Granite and a conformer, a Q-Former over windows between. The adapter that a checkpoint brings
    for speech stands in a file of its own and is not counted."""
    kind, text = text_part(fields, "granite")
    model = read_text(kind, text, name, tied_outside(fields, True))
    asking = part(fields, "projector_config")
    if asking.text("model_type", default="blip_2_qformer") != "blip_2_qformer":
        asking.refuse("model_type", "must be blip_2_qformer")
    width, seen = asking.size("hidden_size", default=768), asking.size("encoder_hidden_size", default=1408)
    step = fields.size("downsample_rate", default=5)
    queries = fields.size("window_size", default=15, least=step) // step
    projector = (
        table("projector.query", 1, queries, width),
        *layer_norm("projector.qformer.layernorm", width),
        *querying(asking, seen, asking.flag("use_qformer_text_input")),
        *matrix("projector.linear", model.hidden, width),
    )
    tower = granite_speech_tower(part(fields, "encoder_config"))
    return completed(fields, model, (tower, Tower("projector", projector)))


# ---------------------------------------------------------------------- Voxtral Realtime

REALTIME: dict[str, Any] = {  # of its text part
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "head_dim": 128,
    "sliding_window": 8192,
}


def voxtral_realtime(fields: Fields, name: str | None) -> Model:
    """Voxtral Realtime: Llama's layers in a window, each told how far sound is ahead; an encoder with rotary positions
    and gated feed-forward layers, of whose states some neighbours are joined."""
    text = with_defaults(text_part(fields, "voxtral_realtime_text", fixed=True)[1], **REALTIME)
    plan = {"attention_bias": False, "mlp_bias": False, "layer_types": None}
    tied = tied_outside(fields, True)
    window = text.optional("sliding_window")
    plain = llama_like(Fields({**text.values, **plan, "tie_word_embeddings": tied}, text.path), name, window=window)
    layer = plain.layers[0]
    timed = TimedBlock(layer.mixer, layer.feed_forward, layer.norms, plain.hidden)
    model = replace(plain, layers=(timed,) * len(plain.layers))
    heard = part(fields, "audio_config")
    width = heard.size(*reversed(WIDTH), default=1280)
    heads, head = heard.size(*reversed(HEADS), default=32), heard.size("head_dim", default=64)
    wide = heard.size(*reversed(WIDE), default=5120)
    block = (
        *matrix("self_attn.q_proj", heads * head, width),
        *matrix("self_attn.k_proj", heads * head, width, False),
        *matrix("self_attn.v_proj", heads * head, width),
        *matrix("self_attn.o_proj", width, heads * head),
        *layer_norm("self_attn_layer_norm", width, False),
        *layer_norm("final_layer_norm", width, False),
        *matrix("mlp.gate_proj", wide, width, False),
        *matrix("mlp.up_proj", wide, width, False),
        *matrix("mlp.down_proj", width, wide),
    )
    tower = (
        *convolution("embedder.conv1", width, heard.size("num_mel_bins", default=128), 3),
        *convolution("embedder.conv2", width, width, 3),
        *times(block, heard.size(*reversed(COUNT), default=32)),
        *layer_norm("norm", width, False),
    )
    joined = width * fields.size("downsample_factor", default=4)
    projector = (
        *matrix("multi_modal_projector.linear_1", model.hidden, joined, False),
        *matrix("multi_modal_projector.linear_2", model.hidden, model.hidden, False),
    )
    return completed(fields, model, (Tower("audio", tower), Tower("projector", projector)))


# ---------------------------------------------------------------------- VibeVoice


def vibevoice_encoder(fields: Fields, out: int) -> Tower:
    """VibeVoice's encoder of sound: stages of convolutions, each twice as wide and slower than the last; `out`: what
    it gives where nothing is said."""
    width, kernel = fields.size("num_filters", default=32), fields.size("kernel_size", default=7)
    depths = sizes(fields, "depths", [3, 3, 3, 3, 3, 3, 8])
    steps = sizes(fields, "downsampling_ratios", [2, 2, 4, 5, 5, 8], most=32)
    if len(depths) <= len(steps):
        fields.refuse("depths", "must have one entry more than downsampling_ratios")
    grown = fields.size("ffn_expansion", default=4)
    made: list[Tensor] = []
    for index, depth in enumerate(depths[: len(steps) + 1]):
        if index:
            made += convolution("conv", 2 * width, width, 2 * steps[index - 1])
            width *= 2
        else:
            made += convolution("stem.conv", width, fields.size("channels", default=1), kernel)
        block = (
            *layer_norm("norm", width, False, count=2),
            table("gamma", width, count=2),
            *matrix("ffn.linear1", grown * width, width),
            *matrix("ffn.linear2", width, grown * width),
            *convolution("mixer.conv", width, 1, kernel),
        )
        made += times(block, depth)
    made += convolution("head.conv", fields.size("hidden_size", default=out), width, kernel)
    return Tower("audio", tuple(made))


def vibevoice_asr(fields: Fields, name: str | None) -> Model:
    """VibeVoice-ASR: Qwen 2 and two encoders, of how something sounds and of what it means."""
    kind, text = text_part(fields, "qwen2")
    model = read_text(kind, text, name, False)  # its class ties nothing
    towers: list[Tower] = []
    projector: list[Tensor] = []
    for each, absent in (("acoustic", 64), ("semantic", 128)):
        heard = part(fields, f"{each}_tokenizer_encoder_config")
        width = heard.size("hidden_size", default=absent if not heard.values else 64)
        towers.append(replace(vibevoice_encoder(heard, width), name=each))
        projector += matrix(f"multi_modal_projector.{each}_linear_1", model.hidden, width)
        projector += layer_norm(f"multi_modal_projector.{each}_norm", model.hidden, False)
        projector += matrix(f"multi_modal_projector.{each}_linear_2", model.hidden, model.hidden)
    return completed(fields, model, (*towers, Tower("projector", tuple(projector))))


READERS: dict[str, Reader] = {
    "glmasr": glmasr,
    "granite_speech": granite_speech,
    "granite_speech_plus": granite_speech,
    "musicflamingo": audioflamingo3,
    "qwen3_asr": qwen3_asr,
    "vibevoice_asr": vibevoice_asr,
    "voxtral_realtime": voxtral_realtime,
}
