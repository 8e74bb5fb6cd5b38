"""config.json → layers: one reader a family, one table of readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import InvalidConfig, UnknownName, nearest
from ..model import Model
from .bridges import READERS as BRIDGES
from .distant_encoders import READERS as DISTANT_ENCODERS
from .early import READERS as EARLY
from .encoder_decoders import READERS as ENCODER_DECODERS
from .encoder_kin import READERS as ENCODER_KIN
from .encoders import READERS as ENCODERS
from .experts import READERS as EXPERTS
from .fields import Fields
from .gemma import READERS as GEMMA
from .gemma4 import READERS as GEMMA4
from .glm import READERS as GLM
from .gpt import READERS as GPT
from .kin import READERS as KIN
from .latent import READERS as LATENT
from .later import READERS as LATER
from .linear_attention import READERS as LINEAR_ATTENTION
from .llama import READERS as LLAMA
from .older import READERS as OLDER
from .olmo import READERS as OLMO
from .others import READERS as OTHERS
from .phi import READERS as PHI
from .pictures import READERS as PICTURES
from .recent import READERS as RECENT
from .rotary_encoders import READERS as ROTARY_ENCODERS
from .scenes import READERS as SCENES
from .singular import READERS as SINGULAR
from .sounds import READERS as SOUNDS
from .sparse import READERS as SPARSE
from .speech import READERS as SPEECH
from .state_space import READERS as STATE_SPACE
from .t5 import READERS as T5
from .table import Reader
from .texts import TEXTS
from .vision import READERS as VISION
from .vision_experts import READERS as VISION_EXPERTS
from .words import READERS as WORDS

READERS: dict[str, Reader] = {
    **BRIDGES,
    **EARLY,
    **ENCODERS,
    **ENCODER_KIN,
    **DISTANT_ENCODERS,
    **ROTARY_ENCODERS,
    **ENCODER_DECODERS,
    **EXPERTS,
    **GEMMA,
    **GEMMA4,
    **GLM,
    **GPT,
    **KIN,
    **LATENT,
    **LATER,
    **LINEAR_ATTENTION,
    **LLAMA,
    **OLDER,
    **OLMO,
    **OTHERS,
    **PHI,
    **PICTURES,
    **RECENT,
    **SCENES,
    **SOUNDS,
    **SINGULAR,
    **SPARSE,
    **SPEECH,
    **STATE_SPACE,
    **T5,
    **VISION,
    **VISION_EXPERTS,
    **WORDS,
}
WHOLES = {**BRIDGES, **PICTURES, **SCENES, **SOUNDS, **SPEECH, **WORDS}
TEXTS.update((kind, reader) for kind, reader in READERS.items() if kind not in WHOLES)


def read_model(config: Mapping[str, Any], name: str | None = None) -> Model:
    """The model that a Hugging Face configuration describes. Equal configurations give the same object.

    Raises InvalidConfig where a field is missing or makes no sense, UnknownName for an unknown `model_type`.
    """
    try:
        key = json.dumps(config, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConfig("the configuration is not plain JSON", "config") from error
    return _read(key, name)


@lru_cache(maxsize=1024)
def _read(key: str, name: str | None) -> Model:
    config = json.loads(key)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidConfig("config lacks model_type, which names the architecture family", "config.model_type")
    reader = READERS.get(model_type)
    if reader is None:
        close = nearest(model_type[:100], READERS)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(sorted(READERS))
        raise UnknownName(f"unknown model_type {model_type!r:.60}; {hint}known: {known}", "config.model_type", close)
    if not isinstance(config.get("quantization_config"), dict | None):
        raise InvalidConfig("config.quantization_config must be an object", "config.quantization_config")
    return reader(Fields(config), name)
