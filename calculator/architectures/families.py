"""Which module reads which `model_type`.

A module is imported when the first model of its types is read: a service that starts needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .table import Reader

MODULES: Mapping[str, str] = {  # module → the keys of its READERS
    "bridges": (
        "blip-2 fast_vlm florence2 gemma4_unified gemma4_unified_text instructblip "
        "instructblipvideo minicpmv4_6 molmo2 perception_lm"
    ),
    "distant_encoders": "deberta deberta-v2 funnel xlnet",
    "early": "bloom gpt_bigcode mpt",
    "encoder_decoders": (
        "bart bigbird_pegasus blenderbot blenderbot-small fsmt led m2m_100 marian mbart mvp nllb-moe pegasus "
        "pegasus_x plbart speech_to_text whisper"
    ),
    "encoder_kin": (
        "albert big_bird convbert electra ernie esm flaubert fnet layoutlm longformer megatron-bert mobilebert "
        "mpnet nystromformer rembert roberta-prelayernorm roformer squeezebert xlm xlm-roberta-xl xmod"
    ),
    "encoders": "bert camembert data2vec-text distilbert ibert roberta xlm-roberta",
    "experts": (
        "dbrx deepseek ernie4_5_moe glm4_moe gpt_oss granitemoe hunyuan_v1_moe minimax_m2 mixtral olmoe phimoe "
        "qwen2_moe qwen3_moe"
    ),
    "gemma": "gemma gemma2 gemma3_text",
    "gemma4": "gemma3n_text gemma4 gemma4_text",
    "glm": "glm glm4",
    "gpt": "gpt2 gpt_neox gptj opt",
    "grounded": "idefics kosmos-2 kosmos-2.5",
    "hearing": "glmasr granite_speech granite_speech_plus musicflamingo qwen3_asr vibevoice_asr voxtral_realtime",
    "kin": (
        "apertus arcee baichuan chatglm ernie4_5 exaone exaone4 hunyuan_v1_dense internlm internlm2 mimo minicpm "
        "ministral3 nemotron nemotron-nas orion phi3small qwen seed_oss"
    ),
    "latent": (
        "axk1 deepseek_ref deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 glm4_moe_lite glm_moe_dsa kimi_k2 "
        "minicpm3 youtu"
    ),
    "later": "bitnet cohere2 cwm gpt_neo helium jais2 lfm2 ministral",
    "linear_attention": (
        "kimi_linear minimax minimax_m1 minimax_text_01 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next"
    ),
    "llama": "granite internlm3 llama mistral qwen2 qwen3 smollm3",
    "older": "biogpt codegen ctrl gpt_neox_japanese openai-gpt persimmon xglm",
    "looking": (
        "cosmos3_omni deepseek_vl_hybrid granite_docling hyperclovax_vision_v2 lfm3_vl minicpm_ocr minicpmv4_7 "
        "video_llama_3"
    ),
    "newest": "dots3_note_text hy_v4 mistral4 mistral_large4 mistral_large4_text qwen4_exp qwen4_exp_text",
    "olmo": "olmo olmo2 olmo3",
    "others": "cohere falcon stablelm starcoder2",
    "phi": "phi phi3",
    "pictures": (
        "aya_vision cohere2_vision fuyu idefics2 idefics3 internvl internvl_chat llava llava_next llava_next_video "
        "llava_onevision paligemma qianfan_ocr shieldgemma2 smolvlm video_llava vipllava"
    ),
    "reading": "cosmos3_edge deepseek_ocr2 modernvbert nemotron_h_omni unlimited_ocr",
    "recent": "gpt-sw3 hyperclovax iquestcoder nanochat vaultgemma",
    "recurrent": "recurrent_gemma rwkv xlstm",
    "rotary_encoders": "eurobert gte jina_embeddings_v3 modernbert nomic_bert",
    "scenes": (
        "deepseek_vl exaone4_5 glm46v glm4v glm4v_moe glm_ocr glmga got_ocr2 lfm2_vl lighton_ocr ovis2 paddleocr_vl "
        "pp_chart2table"
    ),
    "singular": "aria_text axk2 bailing_hybrid diffllama jetmoe lfm3 longcat_flash modernbert-decoder olmo_hybrid",
    "sounds": "audioflamingo3 gemma3n qwen2_5_omni_thinker qwen2_audio qwen3_omni_moe_thinker voxtral",
    "sparse": (
        "afmoe cohere2_moe dots1 exaone_moe flex_olmo flint granite_swa granitemoe_swa granitemoeshared hy_v3 kolibri1 "
        "laguna lfm2_moe mellum solar_open"
    ),
    "speech": "qwen2_5_omni qwen3_omni_moe",
    "state_space": "bamba falcon_h1 falcon_mamba granitemoehybrid jamba mamba mamba2 nemotron_h zamba zamba2",
    "t5gemma": "t5gemma",
    "t5": "longt5 mt5 switch_transformers t5 umt5",
    "vision": "gemma3 mistral3 mllama qwen2_5_vl qwen2_vl qwen3_vl",
    "vision_experts": (
        "kimi_k25 llama4 llama4_text mimo_v2_flash minimax_m3 minimax_m3_vl minimax_m3_vl_text qwen3_vl_moe step3p5 "
        "step3p7"
    ),
    "words": "aria chameleon ernie4_5_vl_moe granite4_vision hunyuan_vl janus",
}
WHOLES = (
    "bridges",
    "grounded",
    "hearing",
    "looking",
    "pictures",
    "reading",
    "scenes",
    "sounds",
    "speech",
    "words",
)  # modules that look a text part up among the others


class Readers(Mapping[str, Reader]):
    """`model_type` → reader, of these modules."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._module = {name: module for module, names in modules.items() for name in names.split()}

    def __getitem__(self, model_type: str) -> Reader:
        module = import_module(f"{__package__}.{self._module[model_type]}")
        readers: Mapping[str, Reader] = module.READERS
        return readers[model_type]

    def __contains__(self, model_type: object) -> bool:
        return model_type in self._module

    def __iter__(self) -> Iterator[str]:
        return iter(self._module)

    def __len__(self) -> int:
        return len(self._module)


READERS = Readers(MODULES)
TEXTS = Readers({module: names for module, names in MODULES.items() if module not in WHOLES})
