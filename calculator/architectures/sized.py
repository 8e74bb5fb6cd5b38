"""A model from explicit sizes alone: a plain decoder whose weights are exactly the parameters that were said."""

from __future__ import annotations

from functools import lru_cache

from ..errors import InvalidSetup
from ..layers.attention import Attention
from ..layers.blocks import PreNormBlock
from ..layers.ends import Embedding, Head
from ..layers.feed_forward import GatedFeedForward
from ..layers.norms import RMSNorm
from ..model import Model

DEFAULT_VOCABULARY = 32_000
LEAST_INTERMEDIATE = 1


@lru_cache(maxsize=1024)
def sized_model(
    parameters: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int = DEFAULT_VOCABULARY,
) -> Model:
    """A Llama-like decoder that stands for `parameters` parameters; an absent width of the feed-forward layer is solved
    from them (see `solved_intermediate`).

    Raises InvalidSetup where heads do not divide.
    """
    kv_heads = num_key_value_heads or num_attention_heads
    if num_attention_heads % kv_heads:
        raise InvalidSetup(
            f"num_attention_heads ({num_attention_heads}) must be a multiple of num_key_value_heads ({kv_heads})",
            "num_key_value_heads",
        )
    if head_dim is None:
        if hidden_size % num_attention_heads:
            raise InvalidSetup(
                f"hidden_size ({hidden_size}) must be a multiple of num_attention_heads ({num_attention_heads}), "
                "or say head_dim",
                "hidden_size",
            )
        head_dim = hidden_size // num_attention_heads
    attention = Attention(hidden_size, num_attention_heads, kv_heads, head_dim)
    wide = intermediate_size or solved_intermediate(parameters, attention, hidden_size, num_hidden_layers, vocab_size)
    norms = (RMSNorm(hidden_size, "input_layernorm"), RMSNorm(hidden_size, "post_attention_layernorm"))
    block = PreNormBlock(attention, GatedFeedForward(hidden_size, wide), norms)
    return Model(
        name=None,
        model_type="sized",
        embedding=Embedding(vocab_size, hidden_size),
        layers=(block,) * num_hidden_layers,
        head=Head(vocab_size, hidden_size, False, RMSNorm(hidden_size, "norm")),
        tables=(("cos", head_dim), ("sin", head_dim)),
        config={
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "intermediate_size": wide,
            "vocab_size": vocab_size,
        },
        stated=parameters,
    )


def solved_intermediate(parameters: int, attention: Attention, hidden: int, layers: int, vocabulary: int) -> int:
    """The width f for which embedding, head, attention, norms and three h × f matrices a layer add up to `parameters`.

    (parameters - 2·V·h - L·(attention + 2h) - h) / (3·h·L), at least 1.
    """
    rest = parameters - 2 * vocabulary * hidden - hidden
    rest -= layers * (sum(tensor.elements for tensor in attention.tensors()) + 2 * hidden)
    return max(LEAST_INTERMEDIATE, round(rest / (3 * hidden * layers)))
