"""BERT's kin: early norms, other positions, matrices before and after the layers, shared parameters."""

from __future__ import annotations

from dataclasses import replace

from ..layers.attention import Projections
from ..layers.blocks import Block
from ..layers.encoders import (
    BareHead,
    EncoderAttention,
    EncoderBlock,
    EncoderEmbedding,
    EncoderFeedForward,
    MaskedHead,
    NarrowEmbedding,
    ReachingAttention,
    dense,
)
from ..layers.ends import Head
from ..layers.norms import LayerNorm
from ..model import Model, Tower
from ..tensors import Tensor
from .encoders import BERT, ROBERTA, SIZES, Extra, Style, bare, bert_like, lin_attention
from .fields import Fields, with_defaults
from .llama import finish
from .table import Reader

EARLY = Style(
    early=True,
    normed=False,
    last_norm="encoder.ln",
    attention_norm="attention.ln",
    feed_norm="ln",
)


def table(path: str, rows: int, width: int) -> Tensor:
    """A table of positions of some kind."""
    return Tensor(f"{path}.weight", (rows, width), "embedding", "position")


def ernie(fields: Fields, name: str | None) -> Model:
    """ERNIE: BERT, with a table of tasks where `use_task_id` says so."""
    fields = with_defaults(fields, **SIZES)
    rows, hidden = fields.size("task_type_vocab_size", default=3), fields.size("hidden_size")
    asked = (table("task_type_embeddings", rows, hidden),) if fields.flag("use_task_id") else ()
    return bert_like(fields, name, extra=Extra(embedding=asked))


def layoutlm(fields: Fields, name: str | None) -> Model:
    """LayoutLM: BERT with tables of the places on a page. Their rows are left out of the activations."""
    fields = with_defaults(fields, **SIZES)
    rows, hidden = fields.size("max_2d_position_embeddings", default=1024), fields.size("hidden_size")
    places = tuple(table(f"{side}_position_embeddings", rows, hidden) for side in "xyhw")
    return bert_like(fields, name, replace(BERT, pooled=True), Extra(embedding=places))


def megatron_bert(fields: Fields, name: str | None) -> Model:
    """Megatron-BERT: norms before the parts, none on the embedding."""
    defaults = {"vocab_size": 29056, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    return bert_like(with_defaults(fields, **{**SIZES, **defaults, "intermediate_size": 4096}), name, EARLY, sdpa=False)


def xlm_roberta_xl(fields: Fields, name: str | None) -> Model:
    """XLM-RoBERTa XL and XXL: norms before the parts, none on the embedding."""
    style = replace(
        ROBERTA,
        early=True,
        fed_dropout=False,
        normed=False,
        last_norm="encoder.LayerNorm",
        attention_norm="attention.self_attn_layer_norm",
        feed_norm="LayerNorm",
    )
    defaults = {
        "vocab_size": 250880,
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 10240,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    }
    return bert_like(with_defaults(fields, **defaults), name, style)


def roberta_prelayernorm(fields: Fields, name: str | None) -> Model:
    """RoBERTa with norms before the parts and one more after the embedding."""
    style = replace(
        ROBERTA,
        early=True,
        inside=True,
        last_norm="LayerNorm",
        attention_norm="attention.LayerNorm",
        feed_norm="intermediate.LayerNorm",
    )
    return bert_like(with_defaults(fields, **{**SIZES, "vocab_size": 50265}), name, style)


def esm(fields: Fields, name: str | None) -> Model:
    """ESM-1b and ESM-2, over proteins: norms before the parts, positions learned or rotary, and a head for contacts
    beside the one over the vocabulary."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": None, "max_position_embeddings": 1026})
    if fields.flag("is_folding_model"):
        fields.refuse("is_folding_model", "must be false: the folding model has parts this service does not know")
    style = replace(
        ROBERTA,
        early=True,
        normed=fields.flag("emb_layer_norm_before"),
        last_norm="encoder.emb_layer_norm_after",
        attention_norm="attention.LayerNorm",
        feed_norm="LayerNorm",
    )
    fields = Fields({**fields.values, "type_vocab_size": 0, "hidden_act": "gelu_python"}, fields.path)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    rotary = fields.text("position_embedding_type", default="absolute") == "rotary"
    attention = EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=style.names,
        prefix="attention",
        rotary_dim=head_dim if rotary else 0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        widened=True,
    )
    contacts = (
        Tensor("contact_head.regression.weight", (1, fields.size("num_hidden_layers") * heads), "other", "other"),
        Tensor("contact_head.regression.bias", (1,), "other", "bias"),
    )
    extra = Extra(model=contacts)
    positions = not rotary
    return bert_like(
        fields,
        name,
        style,
        extra,
        mixer=attention,
        counted_positions=positions,
        rotary=head_dim if rotary else 0,
    )


def electra(fields: Fields, name: str | None) -> Model:
    """ELECTRA with its generator's head: narrow tables, brought to the width of the layers."""
    narrow = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
    fields = with_defaults(fields, **{**SIZES, **narrow})
    style = Style("generator_predictions.dense", "generator_predictions.LayerNorm", bare_pooled=False)
    return bert_like(fields, name, style, embedded=fields.size("embedding_size", default=128))


def convbert(fields: Fields, name: str | None) -> Model:
    """ConvBERT: half of the heads (by `head_ratio`) give way to convolutions whose kernels follow from the tokens.
    Its activations are answered as those of attention with all heads."""
    fields = with_defaults(fields, **SIZES)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    ratio, kernel = fields.size("head_ratio", default=2), fields.size("conv_kernel_size", default=9, most=10**4)
    if fields.size("num_groups", default=1) != 1:
        fields.refuse("num_groups", "must be 1: grouped matrices are not known here")
    if fields.size("num_attention_heads") > ratio:
        kept = fields.divides(heads, ratio, ("num_attention_heads", "head_ratio"))
    else:
        kept, heads = 1, 1
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    all_heads, wide = kept * head_dim, fields.size("intermediate_size")
    path = "attention.self"
    stated = (
        *(
            each
            for part in ("query", "key", "value")
            for each in dense(f"{path}.{part}", all_heads, hidden, "attention")
        ),
        Tensor(f"{path}.key_conv_attn_layer.depthwise.weight", (hidden, 1, kernel), "attention", "other"),
        Tensor(f"{path}.key_conv_attn_layer.pointwise.weight", (all_heads, hidden, 1), "attention", "other"),
        Tensor(f"{path}.key_conv_attn_layer.bias", (all_heads, 1), "attention", "bias"),
        *dense(f"{path}.conv_kernel_layer", kept * kernel, all_heads, "attention"),
        *dense(f"{path}.conv_out_layer", all_heads, hidden, "attention"),
        *dense("attention.output.dense", hidden, hidden, "attention", "attn_output"),
        *LayerNorm(hidden, "attention.output.LayerNorm").tensors(),
        *dense("intermediate.dense", wide, hidden, "mlp_dense", "ffn_up"),
        *dense("output.dense", hidden, wide, "mlp_dense", "ffn_down"),
        *LayerNorm(hidden, "output.LayerNorm").tensors(),
    )
    style = Style("generator_predictions.dense", "generator_predictions.LayerNorm", bare_pooled=False)
    embedded = fields.size("embedding_size", default=768)
    return bert_like(fields, name, style, embedded=embedded, sdpa=False, hands_back=False, stated=stated)


def rembert(fields: Fields, name: str | None) -> Model:
    """RemBERT: narrow tables before the layers, a wide and separate one after them."""
    defaults = {"vocab_size": 250300, "hidden_size": 1152, "num_hidden_layers": 32, "num_attention_heads": 18}
    more = {"intermediate_size": 4608, "tie_word_embeddings": False}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields = with_defaults(fields, **{**SIZES, **defaults, **more, **dropouts})
    return bert_like(
        fields,
        name,
        Style("cls.predictions.dense", "cls.predictions.LayerNorm"),
        embedded=fields.size("input_embedding_size", default=256),
        inner=fields.size("output_embedding_size", default=1664),
        projection="encoder.embedding_hidden_mapping_in",
        sdpa=False,
    )


def roformer(fields: Fields, name: str | None) -> Model:
    """RoFormer: rotary positions, whose table of sines transformers keeps as a parameter."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 50000, "max_position_embeddings": 1536})
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    head_dim = fields.divides(hidden, heads, ("hidden_size", "num_attention_heads"))
    sines = (table("encoder.embed_positions", fields.size("max_position_embeddings"), head_dim),)
    attention = EncoderAttention(
        hidden,
        heads,
        heads,
        head_dim,
        bias=True,
        output_bias=True,
        names=BERT.names,
        prefix="attention",
        rotary_dim=head_dim,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        lasting=True,
    )
    return bert_like(
        fields,
        name,
        Style(bare_pooled=False),
        Extra(embedding=sines),
        mixer=attention,
        embedded=fields.size("embedding_size", default=hidden),
        counted_positions=False,
        sdpa=False,
        rotary=head_dim,
    )


def nystromformer(fields: Fields, name: str | None) -> Model:
    """Nyströmformer: attention by way of landmarks, and a convolution over the values. Its activations are answered as
    those of full attention without scores."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 30000, "max_position_embeddings": 510})
    heads, kernel = fields.size("num_attention_heads"), fields.size("conv_kernel_size", default=65, least=0, most=10**4)
    positions = fields.size("max_position_embeddings") + 2
    fields = Fields({**fields.values, "max_position_embeddings": positions}, fields.path)
    stored = (Tensor("attention.self.conv.weight", (heads, 1, kernel, 1), "attention", "other"),) if kernel else ()
    return bert_like(fields, name, Style(bare_pooled=False), Extra(attention=stored), sdpa=False, hands_back=False)


def longformer(fields: Fields, name: str | None) -> Model:
    """Longformer: every token attends to a window around it; a few global tokens have matrices of their own, whose
    activations are left out."""
    fields = with_defaults(fields, **SIZES)
    hidden = fields.size("hidden_size")
    stored = [
        each
        for part in ("query", "key", "value")
        for each in dense(f"attention.self.{part}_global", hidden, hidden, "attention")
    ]
    window = fields.values.get("attention_window")
    if isinstance(window, list):
        window = max((each for each in window if isinstance(each, int)), default=None)
        fields = Fields({**fields.values, "attention_window": window}, fields.path)
    reach = fields.size("attention_window", default=512, least=2, most=10**6) + 1
    return bert_like(fields, name, ROBERTA, mixer=reaching(fields, ROBERTA, reach, stored=tuple(stored)), sdpa=False)


def big_bird(fields: Fields, name: str | None) -> Model:
    """BigBird: every block of tokens attends to its neighbours, to the two at the ends, and to some at random."""
    fields = with_defaults(fields, **{**SIZES, "vocab_size": 50358, "max_position_embeddings": 4096})
    fields = with_defaults(fields, hidden_act="gelu_new")
    block, drawn = fields.size("block_size", default=64, most=10**6), fields.size("num_random_blocks", default=3)
    mixer = reaching(fields, BERT, (5 + drawn) * block, bias=fields.flag("use_bias", default=True))
    if fields.text("attention_type", default="block_sparse") != "block_sparse":
        mixer = None
    bias = fields.flag("use_bias", default=True)
    return bert_like(fields, name, replace(BERT, pooled=True), mixer=mixer, bias=bias, sdpa=False, hands_back=False)


def reaching(
    fields: Fields, style: Style, reach: int, *, bias: bool = True, stored: tuple[Tensor, ...] = ()
) -> ReachingAttention | None:
    """Attention to so many tokens."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    return ReachingAttention(
        hidden,
        heads,
        heads,
        fields.divides(hidden, heads, ("hidden_size", "num_attention_heads")),
        bias=bias,
        output_bias=True,
        names=style.names,
        prefix="attention",
        rotary_dim=0,
        causal=False,
        dropout=fields.number("attention_probs_dropout_prob", default=0.1),
        stored=stored,
        reach=reach,
    )


def mpnet(fields: Fields, name: str | None) -> Model:
    """MPNet: BERT without token types, with biases by distance that all layers share; transformers runs it eager."""
    fields = Fields({**SIZES, "vocab_size": 30527, **fields.values, "type_vocab_size": 0}, fields.path)
    rows, heads = fields.size("relative_attention_num_buckets", default=32), fields.size("num_attention_heads")
    bias = Tensor("encoder.relative_attention_bias.weight", (rows, heads), "attention", "position")
    style = replace(
        ROBERTA, names=Projections("attn.q", "attn.k", "attn.v", "attn.o"), attention_norm="attention.LayerNorm"
    )
    return bert_like(fields, name, style, Extra(model=(bias,)), sdpa=False)


def fnet(fields: Fields, name: str | None) -> Model:
    """FNet: Fourier transforms instead of attention. Its activations are answered as those of attention without
    scores, which takes more."""
    defaults = {"vocab_size": 32000, "type_vocab_size": 4, "hidden_act": "gelu_new", "num_attention_heads": 1}
    fields = with_defaults(fields, **{**SIZES, **defaults})
    hidden, wide = fields.size("hidden_size"), fields.size("intermediate_size")
    extra = Extra(embedding=dense("projection", hidden, hidden, "other"))
    stated = (
        *LayerNorm(hidden, "fourier.output.LayerNorm").tensors(),
        *dense("intermediate.dense", wide, hidden, "mlp_dense", "ffn_up"),
        *dense("output.dense", hidden, wide, "mlp_dense", "ffn_down"),
        *LayerNorm(hidden, "output.LayerNorm").tensors(),
    )
    return bert_like(fields, name, replace(BERT, pooled=True), extra, stated=stated, sdpa=False)


def squeezebert(fields: Fields, name: str | None) -> Model:
    """SqueezeBERT: BERT whose matrices are grouped convolutions of width 1. Its activations are answered as BERT's."""
    fields = with_defaults(fields, **SIZES)
    hidden, wide = fields.size("hidden_size"), fields.size("intermediate_size")

    def grouped(path: str, out: int, into: int, key: str, default: int, component: str) -> tuple[Tensor, Tensor]:
        groups = fields.size(key, default=default)
        part = fields.divides(into, groups, ("hidden_size", key))
        return (
            Tensor(f"{path}.weight", (out, part, 1), component, "other"),
            Tensor(f"{path}.bias", (out,), component, "bias"),
        )

    held = [
        each
        for part in ("query", "key", "value")
        for each in grouped(f"attention.{part}", hidden, hidden, f"{part[0]}_groups", 4, "attention")
    ]
    held += grouped("post_attention.conv1d", hidden, hidden, "post_attention_groups", 1, "attention")
    held += grouped("intermediate.conv1d", wide, hidden, "intermediate_groups", 4, "mlp_dense")
    held += grouped("output.conv1d", hidden, wide, "output_groups", 4, "mlp_dense")
    for path in ("post_attention.layernorm", "output.layernorm"):
        held += LayerNorm(hidden, path).tensors()
    return bert_like(fields, name, replace(BERT, pooled=True), stated=tuple(held), sdpa=False)


def xmod(fields: Fields, name: str | None) -> Model:
    """X-MOD: XLM-RoBERTa with a small adapter for each language in every layer. A token passes through one of them,
    which is left out of the activations."""
    fields = with_defaults(fields, **SIZES)
    hidden = fields.size("hidden_size")
    narrow = hidden // fields.size("adapter_reduction_factor", default=2)
    languages = fields.items("languages") or ["en_XX"]
    if len(languages) > 1_000 or narrow < 1:
        fields.refuse("languages", "must be at most 1,000, and adapters at least one wide")
    held: list[Tensor] = []
    for each in dense("output.adapter_modules.dense1", narrow, hidden, "other"):
        held.append(replace(each, count=len(languages), experts=len(languages), chosen=1))
    for each in dense("output.adapter_modules.dense2", hidden, narrow, "other"):
        held.append(replace(each, count=len(languages), experts=len(languages), chosen=1))
    if fields.flag("adapter_layer_norm"):
        held += LayerNorm(hidden, "output.adapter_layer_norm").tensors()
    return bert_like(fields, name, ROBERTA, Extra(layer=tuple(held)))


def albert(fields: Fields, name: str | None) -> Model:
    """ALBERT: groups of layers that share their parameters, narrow tables brought to the width of the layers."""
    defaults = {
        "vocab_size": 30000,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    fields = with_defaults(fields, **{**SIZES, **defaults})
    style = Style(
        "predictions.dense",
        "predictions.LayerNorm",
        attention_norm="attention.LayerNorm",
        feed_norm="full_layer_layer_norm",
        names=Projections("query", "key", "value", "dense"),
    )
    embedded = fields.size("embedding_size", default=128)
    made = bert_like(
        fields,
        name,
        style,
        embedded=embedded,
        inner=embedded,
        projection="encoder.embedding_hidden_mapping_in",
    )
    own = made.layers[0]
    assert isinstance(own, EncoderBlock)
    count, groups = len(made.layers), fields.size("num_hidden_groups", default=1)
    inside = fields.size("inner_group_num", default=1, most=100)
    borrowed = replace(own, owner=False)
    layers: list[Block] = []
    seen: set[int] = set()
    for index in range(count):
        group = index * groups // count
        layers += [borrowed if group in seen else own] * inside
        seen.add(group)
    spare = (groups - len(seen)) * inside  # groups beyond the layers are there, but idle
    idle = tuple(replace(each, count=spare) for each in own.tensors()) if spare > 0 else ()
    towers = (Tower("idle groups", idle),) if idle else ()
    return replace(made, layers=tuple(layers), towers=towers)


def mobilebert(fields: Fields, name: str | None) -> Model:
    """MobileBERT: layers between two bottlenecks, several small feed-forward layers in each. Its activations are
    answered as those of BERT's layers of its outer width."""
    defaults = {"hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 4, "intermediate_size": 512}
    dropouts = {"hidden_dropout_prob": 0.0, "hidden_act": "relu"}
    fields = with_defaults(fields, **{**SIZES, **defaults, **dropouts})
    outer, wide = fields.size("hidden_size"), fields.size("intermediate_size")
    tight = fields.flag("use_bottleneck", default=True)
    inner = fields.size("intra_bottleneck_size", default=128) if tight else outer
    attending = fields.flag("use_bottleneck_attention")
    shared = fields.flag("key_query_shared_bottleneck", default=True)

    def normed(path: str, out: int, into: int, component: str, role: str = "other") -> tuple[Tensor, ...]:
        norm = path.rsplit(".", 1)[0] + ".LayerNorm"
        return (*dense(path, out, into, component, role), *LayerNorm(out, norm).tensors())

    held = [
        *dense("attention.self.query", inner, inner, "attention", "attn_q"),
        *dense("attention.self.key", inner, inner, "attention", "attn_k"),
        *dense("attention.self.value", inner, inner if attending else outer, "attention", "attn_v"),
        *normed("attention.output.dense", inner, inner, "attention", "attn_output"),
        *dense("intermediate.dense", wide, inner, "mlp_dense", "ffn_up"),
        *normed("output.dense", inner, wide, "mlp_dense", "ffn_down"),
    ]
    if tight:
        held += normed("output.bottleneck.dense", outer, inner, "other")
        held += normed("bottleneck.input.dense", inner, outer, "other")
        if shared:
            held += normed("bottleneck.attention.dense", inner, outer, "other")
    for index in range(fields.size("num_feedforward_networks", default=4, most=1_000) - 1):
        held += dense(f"ffn.{index}.intermediate.dense", wide, inner, "mlp_dense", "ffn_up")
        held += normed(f"ffn.{index}.output.dense", inner, wide, "mlp_dense", "ffn_down")
    made = bert_like(fields, name, stated=tuple(held))
    narrow_table = fields.size("embedding_size", default=128)
    times = 3 if fields.flag("trigram_input", default=True) else 1
    rest = outer - narrow_table
    embedding = NarrowEmbedding(
        made.embedding.vocabulary,
        narrow_table,
        name="word_embeddings",
        positions=made.embedding.positions,
        position_name="position_embeddings",
        types=made.embedding.types,
        norm=LayerNorm(outer, "embeddings.LayerNorm"),
        dropout=made.embedding.dropout,
        projected=outer,
        projection="embedding_transformation",
        times=times,
    )
    head = made.head
    if isinstance(head, MaskedHead) and rest > 0:
        wider = Tensor("cls.predictions.dense.weight", (rest, made.embedding.vocabulary), "lm_head", "other")
        head = replace(head, stored=(*head.stored, wider))
    return replace(made, embedding=embedding, head=head)


def xlm(fields: Fields, name: str | None) -> Model:
    """XLM and FlauBERT: BERT's layers under other names, a table of languages where there are several; the head is the
    table with a bias."""
    fields = with_defaults(fields, vocab_size=30145, emb_dim=2048, n_layers=12, n_heads=16, max_position_embeddings=512)
    if fields.flag("asm"):
        fields.refuse("asm", "must be false: an adaptive softmax is not known here")
    hidden, heads = fields.size("emb_dim", "hidden_size"), fields.size("n_heads", most=4_096)
    head_dim = fields.divides(hidden, heads, ("emb_dim", "n_heads"))
    dropout = fields.number("dropout", default=0.1)
    attention = lin_attention(fields, hidden, heads, head_dim)
    activation = "gelu" if fields.flag("gelu_activation", default=True) else "relu"
    feed_forward = EncoderFeedForward(hidden, 4 * hidden, activation, up="lin1", down="lin2", prefix="ffn")
    norms = (LayerNorm(hidden, "layer_norm1"), LayerNorm(hidden, "layer_norm2"))
    block = EncoderBlock(attention, feed_forward, norms, dropout)
    languages = fields.size("n_langs", default=1)
    spoken = (table("lang_embeddings", languages, hidden),)
    several = languages > 1 and fields.flag("use_lang_emb", default=True)
    vocabulary, positions = fields.size("vocab_size"), fields.size("max_position_embeddings")
    tied = fields.flag("tie_word_embeddings", default=True)
    head = BareHead if bare(fields) else Head
    return finish(
        fields,
        name,
        EncoderEmbedding(
            vocabulary,
            hidden,
            name="embeddings",
            positions=positions,
            position_name="position_embeddings",
            norm=LayerNorm(hidden, "layer_norm_emb"),
            dropout=dropout,
            stored=spoken if several else (),
        ),
        (block,) * fields.size("n_layers", most=10_000),
        head(vocabulary, hidden, tied, None, "pred_layer.proj", bias=head is Head, narrow_loss=True),
        max_context=positions,
        unmasked=True,
        sdpa=False,
    )


READERS: dict[str, Reader] = {
    "albert": albert,
    "big_bird": big_bird,
    "convbert": convbert,
    "electra": electra,
    "ernie": ernie,
    "esm": esm,
    "flaubert": xlm,
    "fnet": fnet,
    "layoutlm": layoutlm,
    "longformer": longformer,
    "megatron-bert": megatron_bert,
    "mobilebert": mobilebert,
    "mpnet": mpnet,
    "nystromformer": nystromformer,
    "rembert": rembert,
    "roberta-prelayernorm": roberta_prelayernorm,
    "roformer": roformer,
    "squeezebert": squeezebert,
    "xlm": xlm,
    "xlm-roberta-xl": xlm_roberta_xl,
    "xmod": xmod,
}
