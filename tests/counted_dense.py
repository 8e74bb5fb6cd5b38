"""Small configurations of dense families, and what was counted of them.

Counted with torch 2.13.0, transformers 5.23.0 and peft 0.21.2: allocations on fake CUDA tensors, unrounded, two
sequences of 256 tokens; peaks with bf16 weights. No published model has these sizes.
"""

from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "model_type": "gemma",
        "head_dim": 48,
        "pad_token_id": 0,
    },
    "gemma_mqa": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "model_type": "gemma",
        "head_dim": 64,
        "pad_token_id": 0,
    },
    "gemma2": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "model_type": "gemma2",
        "head_dim": 48,
        "query_pre_attn_scalar": 48,
        "sliding_window": 128,
        "pad_token_id": 0,
    },
    "gemma3_text": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "model_type": "gemma3_text",
        "head_dim": 48,
        "query_pre_attn_scalar": 48,
        "sliding_window": 128,
        "pad_token_id": 0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "gemma3_mqa": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "model_type": "gemma3_text",
        "head_dim": 48,
        "query_pre_attn_scalar": 48,
        "sliding_window": 128,
        "pad_token_id": 0,
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
    "olmo2": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "model_type": "olmo2",
        "pad_token_id": 1,
    },
    "olmo2_mha": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 2048,
        "model_type": "olmo2",
        "pad_token_id": 1,
        "tie_word_embeddings": False,
    },
    "olmo3": {
        "vocab_size": 1200,
        "hidden_size": 384,
        "intermediate_size": 1000,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "model_type": "olmo3",
        "sliding_window": 128,
        "pad_token_id": 1,
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
}

# bytes that autograd keeps of a middle layer, by mode
SAVED: dict[str, dict[str, int]] = {
    "gemma": {"bf16": 8834072, "eager": 13933568, "float32": 18422784, "autocast": 12907544, "lora": 12135448},
    "gemma_mqa": {"bf16": 8965144, "eager": 14326784, "float32": 19209216, "autocast": 13136920, "lora": 12463128},
    "gemma2": {"eager": 18659328},
    "gemma3_text": {"bf16": 14231952, "eager": 18676096, "float32": 20556176, "autocast": 18305424, "lora": 15174032},
    "gemma3_mqa": {"bf16": 13541776, "eager": 18477440, "float32": 19374480, "autocast": 17787280, "lora": 14582160},
    "olmo2": {"bf16": 11194392, "eager": 16424960, "float32": 21307392, "autocast": 15464472, "lora": 13643800},
    "olmo2_mha": {"bf16": 12767256, "eager": 17473536, "float32": 19222544, "autocast": 17430552, "lora": 14692376},
    "olmo3": {"bf16": 11980816, "eager": 16424960, "float32": 18698256, "autocast": 16250896, "lora": 14430224},
}

# bytes at the peak of a whole step, weights included, gradients where they are; eager where the family has no sdpa
PEAKS: dict[str, dict[str, int]] = {
    "gemma": {"backward": 57240106, "checkpointed": 34608354, "prefill": 17990610, "decode": 13402650},
    "gemma_mqa": {"backward": 58174058, "checkpointed": 35444002, "prefill": 18138130, "decode": 13500186},
    "gemma2": {"backward": 97776074, "prefill": 23804898, "decode": 13833638},
    "gemma3_text": {"backward": 77577178, "checkpointed": 40410970, "prefill": 18112418, "decode": 13405482},
    "gemma3_mqa": {"backward": 75570130, "checkpointed": 39204698, "prefill": 17424298, "decode": 12667826},
    "olmo2": {"backward": 68473960, "checkpointed": 39290912, "prefill": 19653648, "decode": 15410200},
    "olmo2_mha": {"backward": 76340328, "checkpointed": 43619872, "prefill": 23399440, "decode": 19354648},
    "olmo3": {"backward": 70964560, "checkpointed": 40143128, "prefill": 19850536, "decode": 15405488},
}

# parameters
PARAMETERS: dict[str, int] = {
    "gemma": 6_251_904,
    "gemma_mqa": 6_448_512,
    "gemma2": 6_254_976,
    "gemma3_text": 6_255_360,
    "gemma3_mqa": 6_107_904,
    "olmo2": 7_107_968,
    "olmo2_mha": 7_895_424,
    "olmo3": 7_107_968,
}
