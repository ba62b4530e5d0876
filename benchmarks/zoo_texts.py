"""Hugging Face families for long texts, decoders with state spaces or experts, and encoders with decoders."""

from __future__ import annotations

import torch
from zoo_hf import BART, GROUPED, HEADS, NEXT, SMALL, TOKENS, ids, pixels
from zoo_rows import PERCEIVER, Row, ones

TEXTS: list[Row] = [
    (
        "EsmForMaskedLM",
        "EsmConfig",
        {**SMALL, "position_embedding_type": "absolute", "mask_token_id": 4, "max_position_embeddings": 32},
        {"input_ids": ids},
        NEXT,
    ),
    (
        "PerceiverForSequenceClassification",
        "PerceiverConfig",
        {**PERCEIVER, "vocab_size": 100, "max_position_embeddings": 16},
        {"inputs": ids},
        None,
    ),
    (
        "LongformerForSequenceClassification",
        "LongformerConfig",
        {**SMALL, "attention_window": 4, "max_position_embeddings": 32, "sep_token_id": 2},
        {"input_ids": ids},
        None,
    ),
    (
        "BigBirdForSequenceClassification",
        "BigBirdConfig",
        {**SMALL, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1},
        {"input_ids": lambda: torch.randint(3, 99, (1, 24))},
        None,
    ),
    (
        "FunnelForSequenceClassification",
        "FunnelConfig",
        {**{"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}, "vocab_size": 100},
        {"input_ids": ids},
        None,
    ),
    (
        "CanineForSequenceClassification",
        "CanineConfig",
        {
            **SMALL,
            "downsampling_rate": 2,
            "local_transformer_stride": 8,
            "num_hash_buckets": 64,
            "max_position_embeddings": 64,
        },
        {"input_ids": lambda: torch.randint(3, 99, (2, 16))},
        None,
    ),
    (
        "ReformerForSequenceClassification",
        "ReformerConfig",
        {
            **{
                "hidden_size": 32,
                "vocab_size": 100,
                "attention_head_size": 8,
                "num_attention_heads": 4,
                "feed_forward_size": 64,
            },
            **{
                "attn_layers": ["local", "lsh"],
                "local_attn_chunk_length": 4,
                "lsh_attn_chunk_length": 4,
                "num_buckets": 2,
            },
            **{
                "axial_pos_shape": [2, 4],
                "axial_pos_embds_dim": [16, 16],
                "hash_seed": 0,
                "is_decoder": False,
                "pad_token_id": 0,
            },
        },
        {"input_ids": ids},
        None,
    ),
    (
        "LayoutLMv3ForSequenceClassification",
        "LayoutLMv3Config",
        {
            **{
                **SMALL,
                "input_size": 32,
                "patch_size": 8,
                "coordinate_size": 6,
                "shape_size": 4,
                "max_position_embeddings": 32,
            },
            **{
                "max_2d_position_embeddings": 64,
                "rel_pos_bins": 8,
                "rel_2d_pos_bins": 8,
                "has_relative_attention_bias": True,
            },
        },
        {
            "input_ids": ids,
            "bbox": lambda: torch.tensor([1, 2, 10, 20]).expand(2, 8, 4).contiguous(),
            "pixel_values": pixels(32),
        },
        None,
    ),
]

MAMBAS = {**GROUPED, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}

DECODERS: list[Row] = [
    (
        "JambaForCausalLM",
        "JambaConfig",
        {
            **{**MAMBAS, "num_experts": 4, "num_experts_per_tok": 2, "use_cache": False},
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "ZambaForCausalLM",
        "ZambaConfig",
        {
            **{
                **MAMBAS,
                "num_hidden_layers": 4,
                "attention_head_dim": 16,
                "attention_hidden_size": 64,
                "use_cache": False,
            },
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "n_mamba_heads": 2, "num_key_value_heads": 4},
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "BambaForCausalLM",
        "BambaConfig",
        {
            **{
                **GROUPED,
                "mamba_d_state": 8,
                "mamba_n_heads": 8,
                "mamba_d_head": 8,
                "mamba_n_groups": 2,
                "use_cache": False,
            },
            **{"mamba_chunk_size": 4, "mamba_expand": 2, "attn_layer_indices": [1]},
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {
            **{
                **SMALL,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "use_cache": False,
            },
            **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4},
            **{"first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {
            **HEADS,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "use_cache": False,
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**HEADS, "num_local_experts": 4, "intermediate_size_mlp": 64, "use_cache": False},
        {"input_ids": ids},
        NEXT,
    ),
    (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "use_cache": False},
        {"input_ids": ids},
        NEXT,
    ),
    ("DiffLlamaForCausalLM", "DiffLlamaConfig", {**GROUPED, "use_cache": False}, {"input_ids": ids}, NEXT),
    (
        "Dots1ForCausalLM",
        "Dots1Config",
        {
            **HEADS,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "use_cache": False,
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "use_cache": False},
        {"input_ids": ids},
        NEXT,
    ),
    (
        "MiniMaxForCausalLM",
        "MiniMaxConfig",
        {
            **HEADS,
            "num_local_experts": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 4,
            "use_cache": False,
        },
        {"input_ids": ids},
        NEXT,
    ),
    (
        "xLSTMForCausalLM",
        "xLSTMConfig",
        {
            "hidden_size": 32,
            "num_heads": 2,
            "num_hidden_layers": 2,
            "vocab_size": 100,
            "use_cache": False,
            "chunk_size": 4,
            "mode": "inference",
        },
        {"input_ids": ids},
        NEXT,
    ),
]

LONG = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 100,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
BOTH = {"input_ids": ids, "decoder_input_ids": ids}
MASKED = {**BOTH, "attention_mask": ones(2, TOKENS), "decoder_attention_mask": ones(2, TOKENS)}

SEQ2SEQ: list[Row] = [
    (
        "LEDForConditionalGeneration",
        "LEDConfig",
        {**BART, "attention_window": 4, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32},
        BOTH,
        NEXT,
    ),
    (
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {
            **LONG,
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_decoder_layers": 2,
        },
        MASKED,
        NEXT,
    ),
    (
        "LongT5ForConditionalGeneration",
        "LongT5Config",
        {**LONG, "local_radius": 3, "encoder_attention_type": "local"},
        MASKED,
        NEXT,
    ),
    (
        "NllbMoeForConditionalGeneration",
        "NllbMoeConfig",
        {**BART, "num_experts": 4, "encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 8},
        BOTH,
        NEXT,
    ),
    ("UMT5ForConditionalGeneration", "UMT5Config", LONG, BOTH, NEXT),
    (
        "PegasusXForConditionalGeneration",
        "PegasusXConfig",
        {**BART, "block_size": 4, "num_global_tokens": 2},
        BOTH,
        NEXT,
    ),
    (
        "ProphetNetForConditionalGeneration",
        "ProphetNetConfig",
        {
            "hidden_size": 32,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "vocab_size": 100,
            "max_position_embeddings": 32,
        },
        BOTH,
        NEXT,
    ),
    ("MarianMTModel", "MarianConfig", {**BART, "max_position_embeddings": 32}, BOTH, NEXT),
]
