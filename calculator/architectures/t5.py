"""T5 and its kin: an encoder and a decoder whose scores get a learned bias by distance.

A step of an encoder-decoder model has as many source tokens as target tokens: its figures are for both at that length.
"""

from __future__ import annotations

from ..layers.attention import Projections
from ..layers.blocks import Block
from ..layers.crossed import RoutedFeedForward
from ..layers.ends import Embedding
from ..layers.t5 import (
    Crossing,
    T5Attention,
    T5Block,
    T5FeedForward,
    T5GatedFeedForward,
    T5Head,
    T5Norm,
)
from ..model import Model
from ..tape import TOKENS, scaled
from ..tensors import Tensor
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader

SIZES = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
MULTILINGUAL = {
    **SIZES,
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}


def t5(fields: Fields, name: str | None) -> Model:
    """T5, T5 1.1 and FLAN-T5: an encoder and a decoder over one table; where the head is the table too, what goes into
    it is scaled."""
    return t5_like(with_defaults(fields, **SIZES), name)


def mt5(fields: Fields, name: str | None) -> Model:
    """mT5: T5 1.1 over many languages; nothing is scaled before the head."""
    return t5_like(with_defaults(fields, **MULTILINGUAL), name, scaling=False)


def umt5(fields: Fields, name: str | None) -> Model:
    """UMT5: mT5 with a table of biases in every layer, which looks them up for itself."""
    return t5_like(with_defaults(fields, **MULTILINGUAL), name, each=True)


def longt5(fields: Fields, name: str | None) -> Model:
    """LongT5: T5 with an encoder of local attention, perhaps with sums of blocks that every token sees. Its encoder's
    activations are answered as those of full attention."""
    fields = with_defaults(fields, **SIZES)
    kind = fields.text("encoder_attention_type", default="local")
    if kind not in ("local", "transient-global"):
        fields.refuse("encoder_attention_type", "must be local or transient-global")
    names = {"local": "LocalSelfAttention", "transient-global": "TransientGlobalSelfAttention"}
    return t5_like(fields, name, encoder=names[kind], summed=kind == "transient-global")


def switch_transformers(fields: Fields, name: str | None) -> Model:
    """Switch Transformers: T5 with one of many experts for each token in some layers. The experts are answered as one
    feed-forward layer over all tokens, which is what they take together."""
    fields = with_defaults(fields, **{**SIZES, "d_model": 768, "num_layers": 12, "num_heads": 12})
    fields = with_defaults(fields, num_decoder_layers=12)
    hidden, experts = fields.size("d_model"), fields.size("num_experts", default=8, most=10**5)
    routed = RoutedFeedForward(
        hidden,
        fields.size("d_ff"),
        fields.text("dense_act_fn", default="relu"),
        False,
        up="wi",
        down="wo",
        prefix="layer.mlp",
        inner=fields.number("dropout_rate", default=0.1),
        experts=experts,
        chosen=1,
        router_bias=fields.flag("router_bias"),
    )
    sparse: dict[str, int] = {}
    for word, layers in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        count = fields.size(layers, most=10_000)
        wanted = fields.size(f"num_sparse_{word}_layers", default=3, least=0)
        sparse[word] = count // wanted if wanted else count
    return t5_like(fields, name, prefix="layer.mlp", routed=routed, sparse=(sparse["encoder"], sparse["decoder"]))


def t5_like(
    fields: Fields,
    name: str | None,
    *,
    scaling: bool = True,
    each: bool = False,
    encoder: str = "SelfAttention",
    summed: bool = False,
    prefix: str = "layer.DenseReluDense",
    routed: RoutedFeedForward | None = None,
    sparse: tuple[int, int] = (0, 0),
) -> Model:
    """What all have in common.

    scaling  whether a model whose head is its table scales what goes into it
    each     whether every layer has a table of biases
    encoder  name of the encoder's attention
    summed   whether it has a norm and a table of biases for sums of blocks
    routed   the experts of every `sparse`th layer of the encoder and of the decoder
    """
    hidden, head_dim, heads = fields.size("d_model"), fields.size("d_kv"), fields.size("num_heads", most=4_096)
    wide, dropout = fields.size("d_ff"), fields.number("dropout_rate", default=0.1)
    buckets = fields.size("relative_attention_num_buckets", default=32)
    count = fields.size("num_layers", most=10_000)
    kind = fields.text("feed_forward_proj", default="relu") if routed is None else routed.activation
    activation = "gelu_new" if kind == "gated-gelu" else kind.rsplit("-", 1)[-1]
    inner: T5FeedForward | T5GatedFeedForward
    if kind.startswith("gated"):
        inner = T5GatedFeedForward(
            hidden, wide, activation, gate="wi_0", up="wi_1", down="wo", prefix=prefix, dropout=dropout
        )
    else:
        inner = T5FeedForward(hidden, wide, activation, False, up="wi", down="wo", prefix=prefix, dropout=dropout)

    def attention(decoder: bool, first: bool, last: bool, across: bool = False) -> T5Attention:
        path = f"layer.{'EncDecAttention' if across else 'SelfAttention' if decoder else encoder}"
        stored: list[Tensor] = []
        if summed and not decoder:
            stored.append(Tensor(f"{path}.global_input_layer_norm.weight", (hidden,), "norm", "norm"))
            if first:
                table = f"{path}.global_relative_attention_bias.weight"
                stored.append(Tensor(table, (buckets, heads), "attention", "position"))
        return T5Attention(
            hidden,
            heads,
            heads,
            head_dim,
            names=Projections("q", "k", "v", "o"),
            prefix=path,
            rotary_dim=0,
            causal=decoder and not across,
            dropout=dropout,
            buckets=buckets if (first or each) and not across else 0,
            across=across,
            first=first,
            last=last,
            each=each,
            table="cross_bias" if across else "bias",
            stored=tuple(stored),
        )

    norms = tuple(T5Norm(hidden, f"layer.{index}.layer_norm") for index in range(3))

    def side(layers: int, decoder: bool) -> list[Block]:
        kept = norms if decoder else norms[:2]
        step = sparse[decoder]
        keys = [(index == 0, index == layers - 1, _sparse(index, step)) for index in range(layers)]
        made: dict[tuple[bool, bool, bool], Block] = {}
        for first, last, picks in set(keys):
            across = attention(True, first, last, True) if decoder else None
            fed = routed if picks and routed is not None else inner
            own = attention(decoder, first, last)
            made[first, last, picks] = T5Block(own, fed, kept, across, not decoder, dropout)
        return [made[key] for key in keys]

    vocabulary = fields.size("vocab_size")
    crossing = Crossing(None, None, (T5Norm(hidden, "encoder.final_layer_norm"),), vocabulary, hidden, dropout)
    decoders = fields.size("num_decoder_layers", default=count, most=10_000)
    tied = fields.values.get("tie_word_embeddings") is not False
    return finish(
        fields,
        name,
        Embedding(vocabulary, hidden, "shared", dropout=dropout),
        (*side(count, False), crossing, *side(decoders, True)),
        T5Head(
            vocabulary,
            hidden,
            tied,
            T5Norm(hidden, "decoder.final_layer_norm"),
            narrow_loss=True,
            dropout=dropout,
            factor=tied and scaling,
        ),
        max_context=fields.optional("n_positions"),
        biases=() if each else (("bias", heads, False), ("cross_bias", heads, True)),
        beside=(("encoded", scaled(TOKENS, hidden), None),),
    )


def _sparse(index: int, step: int) -> bool:
    """Whether a layer has experts: the second of every `step`, as transformers' SwitchTransformersStack counts."""
    return step == 1 or (step > 1 and index % step == 1)


READERS: dict[str, Reader] = {
    "longt5": longt5,
    "mt5": mt5,
    "switch_transformers": switch_transformers,
    "t5": t5,
    "umt5": umt5,
}
