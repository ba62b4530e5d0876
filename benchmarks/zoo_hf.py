"""Hugging Face families as tiny configurations: two layers, a few hundred thousand parameters at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from zoo_entry import Built, Entry

TOKENS = 8
NEXT = (TOKENS - 1, 3)
"""What language models explain: token 3 after the last position."""

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
AUDIO = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "num_feat_extract_layers": 3,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

# Language models that read tokens in both directions: sequence classification.
ENCODERS: dict[str, dict[str, Any]] = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "XLMRoberta": SMALL,
    "Camembert": SMALL,
    "DistilBert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100},
    "Albert": {**SMALL, "embedding_size": 16},
    "Electra": {**SMALL, "embedding_size": 16},
    "Deberta": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DebertaV2": {
        **SMALL,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "ModernBert": {**SMALL, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "MPNet": SMALL,
    "Ernie": SMALL,
    "MobileBert": {**SMALL, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "SqueezeBert": {**SMALL, "embedding_size": 32},
    "ConvBert": {**SMALL, "embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
    "RoFormer": {**SMALL, "embedding_size": 32},
    "RemBert": {**SMALL, "input_embedding_size": 16, "output_embedding_size": 16},
    "Esm": {**SMALL, "position_embedding_type": "rotary", "mask_token_id": 4},
    "Nystromformer": {**SMALL, "num_landmarks": 8, "segment_means_seq_len": 8},
    "FNet": SMALL,
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 100},
}

# Language models that predict the next token.
DECODERS: dict[str, dict[str, Any]] = {
    "GPT2LMHead": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "GPTNeoForCausalLM": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 100,
        "attention_types": [[["global", "local"], 1]],
    },
    "GPTNeoXForCausalLM": SMALL,
    "GPTJForCausalLM": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "rotary_dim": 4},
    "GPTBigCodeForCausalLM": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "BloomForCausalLM": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "MptForCausalLM": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 100},
    "FalconForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100},
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "Qwen2ForCausalLM": GROUPED,
    "Qwen2MoeForCausalLM": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32},
    "Qwen3ForCausalLM": HEADS,
    "Qwen3MoeForCausalLM": {**HEADS, **EXPERTS},
    "Qwen3NextForCausalLM": {
        **HEADS,
        **EXPERTS,
        "shared_expert_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "GemmaForCausalLM": HEADS,
    "Gemma2ForCausalLM": HEADS,
    "Gemma3ForCausalLM": HEADS,
    "PhiForCausalLM": SMALL,
    "Phi3ForCausalLM": GROUPED,
    "PhimoeForCausalLM": {**GROUPED, "num_local_experts": 4},
    "OlmoForCausalLM": GROUPED,
    "Olmo2ForCausalLM": GROUPED,
    "Olmo3ForCausalLM": GROUPED,
    "OlmoeForCausalLM": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "StableLmForCausalLM": GROUPED,
    "Starcoder2ForCausalLM": GROUPED,
    "GraniteForCausalLM": GROUPED,
    "GraniteMoeForCausalLM": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "CohereForCausalLM": GROUPED,
    "Cohere2ForCausalLM": GROUPED,
    "GlmForCausalLM": HEADS,
    "Glm4ForCausalLM": HEADS,
    "SmolLM3ForCausalLM": GROUPED,
    "NemotronForCausalLM": GROUPED,
    "PersimmonForCausalLM": SMALL,
    "HeliumForCausalLM": HEADS,
    "Ernie4_5ForCausalLM": GROUPED,
    "GptOssForCausalLM": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV3ForCausalLM": {
        **SMALL,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "qk_nope_head_dim": 4,
        "first_k_dense_replace": 1,
    },
    "MambaForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 4},
    "FalconMambaForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "state_size": 4},
    "Mamba2ForCausalLM": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "vocab_size": 100,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
    "RecurrentGemmaForCausalLM": {**GROUPED, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
    "RwkvForCausalLM": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100, "attention_hidden_size": 32},
    "ModernBertDecoderForCausalLM": SMALL,
    "BioGptForCausalLM": SMALL,
    "CTRLLMHead": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64, "vocab_size": 100},
}

SEQ2SEQ: dict[str, dict[str, Any]] = {
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100},
    "MT5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100},
    "Bart": {},
    "MBart": {},
    "Pegasus": {},
    "BlenderbotSmall": {},
    "M2M100": {},
}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

# Image classification.
PICTURES: dict[str, dict[str, Any]] = {
    "ViT": VISION,
    "DeiT": VISION,
    "Dinov2": VISION,
    "Dinov2WithRegisters": VISION,
    "IJepa": VISION,
    "Beit": {**VISION, "use_relative_position_bias": True},
    "Data2VecVision": {**VISION, "use_relative_position_bias": True},
    "ViTMSN": VISION,
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "ConvNext": STAGES,
    "ConvNextV2": STAGES,
    "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "RegNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "PoolFormer": {
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "padding": [2, 1],
    },
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.25},
    "MobileViT": {},
    "Segformer": {
        "hidden_sizes": [16, 32, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 32,
    },
    "Pvt": {
        "image_size": 32,
        "hidden_sizes": [16, 32, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
    },
    "PvtV2": {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4]},
    "FocalNet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    "Bit": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "LevitForImageClassification": {},
    "Hiera": {"image_size": [64, 64], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 2, 1]},
}


def hf_entries() -> Iterator[Entry]:
    """All families; the names are those of the model classes."""
    for family, config in ENCODERS.items():
        yield entry(f"{family}ForSequenceClassification", f"{family}Config", config, {"input_ids": ids})
    for name, config in DECODERS.items():
        family = name.removesuffix("ForCausalLM").removesuffix("LMHead")
        settings = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
        model = f"{name}Model" if name.endswith("LMHead") else name
        yield entry(model, settings, {**config, "use_cache": False}, {"input_ids": ids}, NEXT)
    for family, config in SEQ2SEQ.items():
        both = {"input_ids": ids, "decoder_input_ids": ids}
        yield entry(f"{family}ForConditionalGeneration", f"{family}Config", config or BART, both, NEXT)
    for family, config in PICTURES.items():
        size = {"Hiera": 64, "LevitForImageClassification": 224}.get(family, 32)
        name = family if family.startswith("Levit") else f"{family}ForImageClassification"
        settings = f"{family.removesuffix('ForImageClassification')}Config"
        yield entry(name, settings, config, {"pixel_values": pixels(size)})
    yield from _others()


def _others() -> Iterator[Entry]:
    """Speech, and pictures with text."""
    for family in ("Wav2Vec2", "Hubert", "SEW", "WavLM", "UniSpeech"):
        sound = {"input_values": lambda: torch.randn(2, 800)}
        config = {**AUDIO, **({"squeeze_factor": 2} if family == "SEW" else {})}
        yield entry(f"{family}ForSequenceClassification", f"{family}Config", config, sound)
    spectrogram = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_mel_bins": 32,
        "max_length": 64,
    }
    yield entry("ASTForAudioClassification", "ASTConfig", spectrogram, {"input_values": lambda: torch.randn(2, 64, 32)})
    whisper = {**BART, "num_mel_bins": 8, "max_source_positions": 16, "suppress_tokens": None}
    heard = {"input_features": lambda: torch.randn(2, 8, 32), "decoder_input_ids": ids}
    yield entry("WhisperForConditionalGeneration", "WhisperConfig", whisper, heard, NEXT)
    both = {"input_ids": ids, "pixel_values": pixels(32)}
    for family in ("CLIP", "Siglip", "AltCLIP", "ChineseCLIP"):
        yield entry(
            f"{family}Model",
            f"{family}Config",
            {"text_config": {**SMALL, "eos_token_id": 2}, "vision_config": VISION, "projection_dim": 32},
            both,
            target=0,
        )
    yield entry("LlavaForConditionalGeneration", "LlavaConfig", _llava, {"input_ids": _with_image, **_PIXELS}, (19, 3))
    yield entry(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        _paligemma,
        {"input_ids": _with_image, "token_type_ids": _all_prompt, **_PIXELS},
        (19, 3),
    )


def _llava() -> dict[str, Any]:
    import transformers

    return {
        "vision_config": transformers.CLIPVisionConfig(**VISION),
        "text_config": transformers.LlamaConfig(**GROUPED),
        "image_token_index": 99,
        "image_token_id": 99,
    }


def _paligemma() -> dict[str, Any]:
    import transformers

    return {
        "vision_config": transformers.SiglipVisionConfig(**VISION, projection_dim=32),
        "text_config": transformers.GemmaConfig(**HEADS),
        "image_token_index": 99,
        "image_token_id": 99,
        "projection_dim": 32,
    }


def _use_small_chunks() -> None:
    """Qwen3Next's delta rule works in chunks of 64 positions, whatever the length: a size of the model, made small."""
    from functools import partial

    from transformers.models.qwen3_next import modeling_qwen3_next as module

    if not isinstance(module.torch_chunk_gated_delta_rule, partial):
        module.torch_chunk_gated_delta_rule = partial(module.torch_chunk_gated_delta_rule, chunk_size=4)


def ids() -> Tensor:
    return torch.randint(3, 99, (2, TOKENS))


def pixels(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, size, size)


_PIXELS = {"pixel_values": pixels(32)}


def _with_image() -> Tensor:
    """16 places for a picture's patches among 20 tokens."""
    tokens = torch.randint(3, 99, (2, 20))
    tokens[:, 2:18] = 99
    return tokens


def _all_prompt() -> Tensor:
    """What a processor gives, too: without it the model reads in both directions, and its export does not."""
    return torch.zeros(2, 20, dtype=torch.long)


def entry(
    model: str,
    config: str,
    options: dict[str, Any] | Callable[[], dict[str, Any]],
    inputs: dict[str, Callable[[], Tensor]],
    target: Any = None,
    output: str | None = None,
) -> Entry:
    def build() -> Built:
        import transformers

        transformers.logging.set_verbosity_error()
        if model == "Qwen3NextForCausalLM":
            _use_small_chunks()
        settings = getattr(transformers, config)(**(options() if callable(options) else options))
        built = getattr(transformers, model)(settings)
        return built, {name: make() for name, make in inputs.items()}

    return Entry("transformers", model, build, target, output)
