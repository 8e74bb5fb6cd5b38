"""How much memory a large language model takes: the arithmetic, without any service around it.

    model = library().get("Qwen3-8B")[0].model       a bundled model
    model = read_model(config)                       or a Hugging Face config.json
    inference(model, InferenceSetup(batch_size=4))   → Estimate
    training(model, TrainingSetup(optimizer="SGD"))  → Estimate

Glossary, one unit a word: `elements` counts numbers, `bytes` and `memory` are bytes, `context` and `length` are tokens,
`sequences` or `batch` count sequences, `ways` counts GPUs.
"""

from .architectures import read_model
from .architectures.sized import sized_model
from .errors import CalculatorError
from .estimate import Estimate, Part, Phase
from .inference import inference
from .model import Model
from .setup import InferenceSetup, Lora, TrainingSetup
from .training import training

__all__ = [
    "CalculatorError",
    "Estimate",
    "InferenceSetup",
    "Lora",
    "Model",
    "Part",
    "Phase",
    "TrainingSetup",
    "inference",
    "read_model",
    "sized_model",
    "training",
]
