"""BART and its kin: encoder-decoders for translation, summaries, dialogue and speech.

A step of an encoder-decoder model has as many source tokens as target tokens: its figures are for both at that length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..layers.attention import Projections
from ..layers.blocks import Block
from ..layers.crossed import (
    CrossAttention,
    CrossBlock,
    DecoderStart,
    DroppedFeedForward,
    FramedEncoder,
    PlacedEmbedding,
    RoutedFeedForward,
    ShiftedHead,
)
from ..layers.ends import Head
from ..layers.norms import LayerNorm
from ..model import Model
from ..tape import TOKENS, Size, scaled
from ..tensors import Tensor
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader

NAMES = Projections("q_proj", "k_proj", "v_proj", "out_proj")
SIZES = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What sets a family apart.

    norm_first    whether each part is given the norm of its input
    ends_normed   whether both stacks end in a norm
    starts_normed whether both embeddings have a norm
    offset        rows of the learned positions beyond those of the configuration; None where they are computed
    made          whether the table of positions is no parameter
    each          whether every sequence looks its positions up for itself
    shifted       whether a row is added to the logits
    """

    norm_first: bool = False
    ends_normed: bool = False
    starts_normed: bool = True
    offset: int = 0
    made: bool = False
    each: bool = False
    shifted: bool = True
    norm_early: bool = False


BART = Kind(offset=2, each=True)
MBART = Kind(norm_first=True, ends_normed=True, offset=2, each=True)
M2M = Kind(norm_first=True, ends_normed=True, starts_normed=False, made=True, each=True, shifted=False)
PEGASUS = Kind(norm_first=True, ends_normed=True, starts_normed=False)
MARIAN = Kind(starts_normed=False)
SMALL = Kind(norm_early=True)


@dataclass(frozen=True, slots=True)
class Side:
    """An encoder or a decoder: its layer and how many it has."""

    block: CrossBlock
    count: int


def side(
    fields: Fields,
    kind: Kind,
    decoder: bool,
    *,
    bias: bool = True,
    unbiased: tuple[str, ...] = (),
    source: int = 0,
    names: Projections = NAMES,
    prefix: str = "self_attn",
) -> Side:
    """The layers of one side."""
    word = "decoder" if decoder else "encoder"
    hidden, heads = fields.size("d_model"), fields.size(f"{word}_attention_heads")
    own = CrossAttention(
        hidden,
        heads,
        heads,
        fields.divides(hidden, heads, ("d_model", f"{word}_attention_heads")),
        bias=bias,
        output_bias=bias,
        names=names,
        prefix=prefix,
        rotary_dim=0,
        causal=decoder,
        dropout=fields.number("attention_dropout", default=0.0),
        unbiased=unbiased,
    )
    across = None
    norms = [LayerNorm(hidden, "self_attn_layer_norm")]
    if decoder:
        across = replace(own, names=NAMES, prefix="encoder_attn", causal=False, across=True, source=source)
        norms.append(LayerNorm(hidden, "encoder_attn_layer_norm"))
    norms.append(LayerNorm(hidden, "final_layer_norm"))
    inner = DroppedFeedForward(
        hidden,
        fields.size(f"{word}_ffn_dim"),
        fields.text("activation_function", default="gelu"),
        up="fc1",
        down="fc2",
        prefix="",
        inner=fields.number("activation_dropout", default=0.0),
    )
    dropout = fields.number("dropout", default=0.1)
    block = CrossBlock(own, inner, tuple(norms), across, not decoder, dropout, kind.norm_first)
    return Side(block, fields.size(f"{word}_layers", "num_hidden_layers", most=10_000))


def start(fields: Fields, kind: Kind, word: str, positions: int, vocabulary: int, shared: bool) -> PlacedEmbedding:
    """The embedding of one side."""
    hidden = fields.size("d_model")
    return PlacedEmbedding(
        vocabulary,
        hidden,
        "shared" if shared else f"{word}.embed_tokens",
        positions=positions + kind.offset,
        position_name=f"{word}.embed_positions",
        positions_each=kind.each,
        norm=LayerNorm(hidden, f"{word}.layernorm_embedding") if kind.starts_normed else None,
        scaled=True,
        dropout=fields.number("dropout", default=0.1),
        made=kind.made,
        norm_early=kind.norm_early and word == "decoder",
        borrowed=shared and word == "decoder",
    )


def joined(
    fields: Fields,
    name: str | None,
    kind: Kind,
    encoder: tuple[Block, ...],
    decoder: tuple[Block, ...],
    positions: tuple[int, int],
    *,
    stored: tuple[Tensor, ...] = (),
    vocabularies: tuple[int, int] | None = None,
    shared: bool = True,
    tied: bool | None = None,
) -> Model:
    """Both sides, what stands between them, and the head."""
    hidden = fields.size("d_model")
    source, target = vocabularies or (fields.size("vocab_size"),) * 2
    ends = [LayerNorm(hidden, f"{word}.layer_norm") for word in ("encoder", "decoder")] if kind.ends_normed else []
    first = start(fields, kind, "encoder", positions[0], source, shared)
    second = start(fields, kind, "decoder", positions[1], target, shared)
    between = DecoderStart(None, None, tuple(ends[:1]), second, stored)
    head = ShiftedHead if kind.shifted else Head
    tied = fields.flag("tie_word_embeddings", default=True) if tied is None else tied
    buffers = 2 * hidden * sum(positions) if kind.made else 0  # tables of positions, in 16 bits
    return finish(
        fields,
        name,
        first,
        (*encoder, between, *decoder),
        head(target, hidden, tied, ends[1] if ends else None, narrow_loss=True),
        max_context=max(positions),
        beside=(("encoded", scaled(TOKENS, hidden), None),),
        buffers=buffers,
    )


def stacked(both: tuple[Side, Side]) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """The layers of both sides."""
    first, second = both
    return (first.block,) * first.count, ended(second)


def ended(decoder: Side) -> tuple[Block, ...]:
    """A decoder's layers, of which the last is the first to make a gradient of the encoder's states."""
    assert decoder.block.across is not None
    last = replace(decoder.block, across=replace(decoder.block.across, last=True))
    return (*(decoder.block,) * (decoder.count - 1), last)


def bart_like(fields: Fields, name: str | None, kind: Kind, **defaults: object) -> Model:
    """An encoder and a decoder over one table."""
    fields = with_defaults(fields, **{**SIZES, **defaults})
    encoder, decoder = stacked((side(fields, kind, False), side(fields, kind, True)))
    return joined(fields, name, kind, encoder, decoder, (fields.size("max_position_embeddings"),) * 2)


def bart(fields: Fields, name: str | None) -> Model:
    """BART: norms after every part, learned positions with two rows to spare."""
    return bart_like(fields, name, BART)


def mbart(fields: Fields, name: str | None) -> Model:
    """mBART: norms before every part, and one at the end of both stacks."""
    return bart_like(fields, name, MBART)


def plbart(fields: Fields, name: str | None) -> Model:
    """PLBART: BART's layers over code."""
    sizes = {"encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    return bart_like(fields, name, BART, vocab_size=50005, d_model=768, attention_dropout=0.1, **sizes, **heads)


def mvp(fields: Fields, name: str | None) -> Model:
    """MVP: BART, with learned prompts in front of keys and values where `use_prompt` says so. The prompts count, but
    the positions they add to attention do not."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 50267})
    hidden, stored = fields.size("d_model"), []
    if fields.flag("use_prompt"):
        rows, wide = fields.size("prompt_length", default=100), fields.size("prompt_mid_dim", default=800)
        for path, word in (
            ("encoder.self_attn_prompt", "encoder"),
            ("decoder.self_attn_prompt", "decoder"),
            ("decoder.cross_attn_prompt", "decoder"),
        ):
            out = 2 * fields.size(f"{word}_layers", most=10_000) * hidden
            stored += [
                Tensor(f"{path}.prompt_embedding.weight", (rows, hidden), "other", "other"),
                *dense(f"{path}.prompt_trans.0", wide, hidden, "other"),
                *dense(f"{path}.prompt_trans.2", out, wide, "other"),
            ]
    encoder, decoder = stacked((side(fields, BART, False), side(fields, BART, True)))
    positions = (fields.size("max_position_embeddings"),) * 2
    return joined(fields, name, BART, encoder, decoder, positions, stored=tuple(stored))


def dense(path: str, out: int, into: int, component: str) -> tuple[Tensor, Tensor]:
    """A matrix and its bias."""
    return (
        Tensor(f"{path}.weight", (out, into), component, "other", True),
        Tensor(f"{path}.bias", (out,), component, "bias"),
    )


def m2m_100(fields: Fields, name: str | None) -> Model:
    """M2M-100 and NLLB-200: norms before every part, positions computed."""
    return bart_like(
        fields, name, M2M, vocab_size=128112, activation_function="relu", attention_dropout=0.1, scale_embedding=True
    )


def pegasus(fields: Fields, name: str | None) -> Model:
    """PEGASUS: norms before every part; its computed positions are a parameter in transformers."""
    return bart_like(fields, name, PEGASUS)


def blenderbot(fields: Fields, name: str | None) -> Model:
    """Blenderbot: norms before every part, few encoder and many decoder layers."""
    sizes = {"vocab_size": 8008, "max_position_embeddings": 128, "encoder_layers": 2, "decoder_layers": 24}
    wide = {"encoder_ffn_dim": 10240, "decoder_ffn_dim": 10240, "d_model": 2560}
    heads = {"encoder_attention_heads": 32, "decoder_attention_heads": 32}
    return bart_like(fields, name, PEGASUS, **sizes, **wide, **heads)


def blenderbot_small(fields: Fields, name: str | None) -> Model:
    """Blenderbot Small: norms after every part; the decoder norms its rows before their positions."""
    sizes = {"max_position_embeddings": 512, "encoder_layers": 8, "decoder_layers": 8, "d_model": 512}
    return bart_like(fields, name, SMALL, encoder_ffn_dim=2048, decoder_ffn_dim=2048, **sizes)


def marian(fields: Fields, name: str | None) -> Model:
    """Marian (Opus-MT): BART's layers, no norm on the embeddings; two tables where the languages share none."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 58101})
    shared = fields.flag("share_encoder_decoder_embeddings", default=True)
    source = fields.size("vocab_size")
    target = source if shared else fields.size("decoder_vocab_size", "vocab_size", most=10**7)
    encoder, decoder = stacked((side(fields, MARIAN, False), side(fields, MARIAN, True)))
    positions = (fields.size("max_position_embeddings"),) * 2
    return joined(fields, name, MARIAN, encoder, decoder, positions, vocabularies=(source, target), shared=shared)


def fsmt(fields: Fields, name: str | None) -> Model:
    """FSMT (the fairseq models of WMT 19): Marian's layers with two vocabularies; positions are parameters."""
    kind = replace(MARIAN, offset=2, each=True, shifted=False)
    fields = with_defaults(fields, **{**SIZES, "activation_function": "relu"})
    sizes = [fields.size(f"{word}_vocab_size", default=42024, most=10**7) for word in ("src", "tgt")]
    encoder, decoder = stacked((side(fields, kind, False), side(fields, kind, True)))
    positions = (fields.size("max_position_embeddings"),) * 2
    tied = fields.flag("tie_word_embeddings")
    both = (sizes[0], sizes[1])
    shared = tied and both[0] == both[1]
    return joined(fields, name, kind, encoder, decoder, positions, vocabularies=both, shared=shared, tied=tied)


def led(fields: Fields, name: str | None) -> Model:
    """LED: BART with an encoder of windows and a few global tokens, which have matrices of their own. Its encoder's
    activations are answered as those of full attention without scores."""
    fields = with_defaults(fields, **SIZES)
    first = side(
        fields,
        SMALL,
        False,
        names=Projections("longformer_self_attn.query", "longformer_self_attn.key", "longformer_self_attn.value"),
    )
    hidden = fields.size("d_model")
    path = "self_attn.longformer_self_attn"
    stored = [
        each
        for part in ("query", "key", "value")
        for each in dense(f"{path}.{part}_global", hidden, hidden, "attention")
    ]
    mixer = first.block.mixer
    assert isinstance(mixer, CrossAttention)
    own = replace(mixer, names=replace(mixer.names, output="output"), stored=tuple(stored))
    first = replace(first, block=replace(first.block, mixer=own))
    encoder, decoder = stacked((first, side(fields, SMALL, True)))
    positions = (
        fields.size("max_encoder_position_embeddings", default=16384),
        fields.size("max_decoder_position_embeddings", default=1024),
    )
    return joined(fields, name, Kind(), encoder, decoder, positions)


def pegasus_x(fields: Fields, name: str | None) -> Model:
    """PEGASUS-X: an encoder of blocks with global tokens, each layer with a norm for them. Its encoder's activations
    are answered as those of full attention without scores."""
    defaults = {"vocab_size": 96103, "max_position_embeddings": 16384, "encoder_layers": 16, "decoder_layers": 16}
    fields = with_defaults(fields, **{**SIZES, **defaults})
    kind = replace(PEGASUS, made=True, shifted=False)
    hidden = fields.size("d_model")
    first, second = side(fields, kind, False, bias=False), side(fields, kind, True, bias=False)
    norm = LayerNorm(hidden, "global_self_attn_layer_norm").tensors()
    first = replace(first, block=replace(first.block, stored=norm))
    rows = fields.size("num_global_tokens", default=32)
    table = Tensor("encoder.embed_global.weight", (rows, hidden), "embedding", "position")
    encoder, decoder = stacked((first, second))
    positions = (fields.size("max_position_embeddings"),) * 2
    return joined(fields, name, kind, encoder, decoder, positions, stored=(table,))


def bigbird_pegasus(fields: Fields, name: str | None) -> Model:
    """BigBird-PEGASUS: an encoder of sparse blocks, norms before every part, no biases in attention. Its encoder's
    activations are answered as those of full attention without scores."""
    defaults = {"vocab_size": 96103, "max_position_embeddings": 4096, "encoder_layers": 16, "decoder_layers": 16}
    fields = with_defaults(fields, **{**SIZES, **defaults, "activation_function": "gelu_new"})
    kind = replace(PEGASUS, each=True)
    bias = fields.flag("use_bias")
    names = Projections("self.query", "self.key", "self.value", "output")
    first, second = side(fields, kind, False, bias=bias, names=names), side(fields, kind, True, bias=bias)
    encoder, decoder = stacked((first, second))
    positions = (fields.size("max_position_embeddings"),) * 2
    made = joined(fields, name, kind, encoder, decoder, positions)
    return made


def nllb_moe(fields: Fields, name: str | None) -> Model:
    """NLLB-MoE: M2M-100 with two of many experts for each token in every fourth layer. The experts are answered as one
    feed-forward layer over all tokens as often as a token has experts."""
    extra = {"vocab_size": 128112, "activation_function": "relu", "attention_dropout": 0.1}
    fields = with_defaults(fields, **{**SIZES, **extra})
    experts = fields.size("num_experts", default=128, least=2, most=10**5)
    both = []
    for word in ("encoder", "decoder"):
        made = side(fields, M2M, word == "decoder")
        inner = made.block.feed_forward
        assert isinstance(inner, DroppedFeedForward)
        dense = replace(inner, prefix="ffn")
        routed = RoutedFeedForward(
            inner.hidden,
            inner.intermediate,
            inner.activation,
            up="fc1",
            down="fc2",
            prefix="ffn",
            inner=inner.inner,
            experts=experts,
            chosen=2,
            router_bias=fields.flag("router_bias"),
        )
        step = fields.size(f"{word}_sparse_step", default=4, least=0)
        blocks = [replace(made.block, feed_forward=each) for each in (dense, routed)]
        layers = [blocks[bool(step) and (index + 1) % step == 0] for index in range(made.count)]
        if word == "decoder":
            across = layers[-1].across
            assert across is not None
            layers[-1] = replace(layers[-1], across=replace(across, last=True))
        both.append(tuple(layers))
    positions = (fields.size("max_position_embeddings"),) * 2
    return joined(fields, name, M2M, both[0], both[1], positions)


# ---------------------------------------------------------------------- speech


def whisper(fields: Fields, name: str | None) -> Model:
    """Whisper: the encoder has 1,500 positions for 30 seconds of sound, whatever the text; its last position table is
    computed but stored. Keys have no bias."""
    fields = with_defaults(
        fields,
        vocab_size=51865,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        dropout=0.0,
    )
    kind = replace(PEGASUS, each=True, shifted=False)
    hidden, channels = fields.size("d_model"), fields.size("num_mel_bins", default=80)
    frames = fields.size("max_source_positions", default=1500, most=10**6)
    texts = fields.size("max_target_positions", default=448)
    first = side(fields, kind, False, unbiased=("k_proj",))
    second = side(fields, kind, True, unbiased=("k_proj",), source=frames)
    stored = (
        Tensor("encoder.conv1.weight", (hidden, channels, 3), "other", "other"),
        Tensor("encoder.conv1.bias", (hidden,), "other", "bias"),
        Tensor("encoder.conv2.weight", (hidden, hidden, 3), "other", "other"),
        Tensor("encoder.conv2.bias", (hidden,), "other", "bias"),
        Tensor("encoder.embed_positions.weight", (frames, hidden), "embedding", "position"),
    )
    norm = LayerNorm(hidden, "encoder.layer_norm")
    encoder = FramedEncoder(None, None, (norm,), first.block, first.count, channels, frames, hidden, stored)
    embedding = replace(start(fields, kind, "decoder", texts, fields.size("vocab_size"), False), scaled=False)
    states: Size = (0, frames * hidden, 0, 0, 0, 0)
    tied = fields.flag("tie_word_embeddings", default=True)
    return finish(
        fields,
        name,
        embedding,
        (encoder, *ended(second)),
        Head(embedding.vocabulary, hidden, tied, LayerNorm(hidden, "decoder.layer_norm"), "proj_out", narrow_loss=True),
        max_context=texts,
        beside=(("encoded", states, None),),
    )


def speech_to_text(fields: Fields, name: str | None) -> Model:
    """Speech2Text: convolutions that shorten the sound, M2M-100's layers. The sound is answered as being as long, once
    shortened, as the text; what the convolutions keep is left out."""
    fields = with_defaults(
        fields,
        **{
            **SIZES,
            "vocab_size": 10000,
            "d_model": 256,
            "decoder_layers": 6,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "activation_function": "relu",
        },
    )
    count = fields.size("num_conv_layers", default=2, most=100)
    kernels = fields.items("conv_kernel_sizes", length=count) or [5] * count
    wide, into = fields.size("conv_channels", default=1024), fields.size("input_feat_per_channel", default=80)
    hidden = fields.size("d_model")
    into *= fields.size("input_channels", default=1)
    stored: list[Tensor] = []
    for index, kernel in enumerate(kernels):
        if isinstance(kernel, bool) or not isinstance(kernel, int) or not 1 <= kernel <= 10**4:
            fields.refuse("conv_kernel_sizes", "must hold whole numbers of at least 1")
        out = wide if index < count - 1 else 2 * hidden
        read = into if index == 0 else wide // 2
        path = f"encoder.conv.conv_layers.{index}"
        stored.append(Tensor(f"{path}.weight", (out, read, kernel), "other", "other"))
        stored.append(Tensor(f"{path}.bias", (out,), "other", "bias"))
    encoder, decoder = stacked((side(fields, M2M, False), side(fields, M2M, True)))
    positions = (
        fields.size("max_source_positions", default=6000),
        fields.size("max_target_positions", default=1024),
    )
    return joined(fields, name, M2M, encoder, decoder, positions, stored=tuple(stored))


READERS: dict[str, Reader] = {
    "bart": bart,
    "bigbird_pegasus": bigbird_pegasus,
    "blenderbot": blenderbot,
    "blenderbot-small": blenderbot_small,
    "fsmt": fsmt,
    "led": led,
    "m2m_100": m2m_100,
    "marian": marian,
    "mbart": mbart,
    "mvp": mvp,
    "nllb-moe": nllb_moe,
    "pegasus": pegasus,
    "pegasus_x": pegasus_x,
    "plbart": plbart,
    "speech_to_text": speech_to_text,
    "whisper": whisper,
}
