"""Hugging Face families that find boxes and masks in pictures."""

from __future__ import annotations

import sys
from typing import Any

import torch
from zoo_hf import SMALL, VISION, ids, pixels
from zoo_rows import Row, config, ones


def _backbone(name: str = "ResNetConfig", **options: Any) -> Any:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return config(name, **{**sizes, "out_features": ["stage4"], **options})


QUERIES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "num_labels": 5,
}
BOX = (2, 3)
"""What detectors explain: class 3 of the third box."""


def _detr() -> dict[str, Any]:
    return {**QUERIES, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_config": _backbone()}


def _deformable() -> dict[str, Any]:
    levels = _backbone(out_features=["stage2", "stage3", "stage4"])
    return {**_detr(), "backbone_config": levels, "num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2}


def _rt_detr() -> dict[str, Any]:
    return {
        **{k: v for k, v in QUERIES.items() if k != "encoder_layers"},
        "encoder_layers": 1,
        "backbone_config": _backbone("RTDetrResNetConfig", out_features=["stage2", "stage3", "stage4"]),
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [32, 32, 32],
        "decoder_in_channels": [32, 32, 32],
        "decoder_n_points": 2,
        "num_denoising": 0,
        "anchor_image_size": None,
    }


DETECTION: list[Row] = [
    ("DetrForObjectDetection", "DetrConfig", _detr, {"pixel_values": pixels(64)}, BOX),
    ("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _detr, {"pixel_values": pixels(64)}, BOX),
    ("TableTransformerForObjectDetection", "TableTransformerConfig", _detr, {"pixel_values": pixels(64)}, BOX),
    ("DeformableDetrForObjectDetection", "DeformableDetrConfig", _deformable, {"pixel_values": pixels(64)}, BOX),
    ("RTDetrForObjectDetection", "RTDetrConfig", _rt_detr, {"pixel_values": pixels(64)}, BOX),
    (
        "YolosForObjectDetection",
        "YolosConfig",
        {**VISION, "image_size": [32, 32], "num_detection_tokens": 6, "num_labels": 5},
        {"pixel_values": pixels(32)},
        BOX,
    ),
    (
        "OwlViTForObjectDetection",
        "OwlViTConfig",
        lambda: {
            "text_config": {**SMALL, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1},
            "vision_config": VISION,
            "projection_dim": 32,
        },
        {"input_ids": ids, "attention_mask": ones(2, 8), "pixel_values": pixels(32)},
        (2, 0),
    ),
]


def _without_scipy(model: str) -> None:
    """Let a model be built whose loss, which nobody asks for here, matches masks by scipy."""
    import transformers

    sys.modules[getattr(transformers, model).__module__].requires_backends = lambda *_: None


def _mask2former() -> dict[str, Any]:
    _without_scipy("Mask2FormerForUniversalSegmentation")
    windows = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}
    swin = config("SwinConfig", **windows, window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"])
    sizes = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "dim_feedforward": 64}
    heads = {"num_attention_heads": 4, "encoder_feedforward_dim": 64, "encoder_layers": 1, "decoder_layers": 2}
    return {**sizes, **heads, "num_queries": 6, "num_labels": 5, "backbone_config": swin}


def _maskformer() -> dict[str, Any]:
    _without_scipy("MaskFormerForInstanceSegmentation")
    windows = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}
    swin = config("SwinConfig", **windows, window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"])
    detr = config("DetrConfig", **{**QUERIES, "encoder_layers": 1})
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 5}
    return {**sizes, "backbone_config": swin, "decoder_config": detr}


SAM_PROMPT = {"prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}}
SAM_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 32,
}


def _sam() -> dict[str, Any]:
    vision = {**VISION, "image_size": 64, "output_channels": 32, "mlp_dim": 64, "window_size": 4, "num_pos_feats": 16}
    return {
        "vision_config": {**vision, "global_attn_indexes": [1]},
        "prompt_encoder_config": {**SAM_PROMPT["prompt_encoder_config"], "image_embedding_size": 8},
        "mask_decoder_config": SAM_DECODER,
    }


def _sam2() -> dict[str, Any]:
    hiera = config(
        "Sam2HieraDetConfig",
        hidden_size=16,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    vision = config(
        "Sam2VisionConfig",
        backbone_config=hiera,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    prompt = {**SAM_PROMPT["prompt_encoder_config"], "patch_size": 16}
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": SAM_DECODER}


POINTS = {"input_points": lambda: torch.rand(2, 1, 1, 2) * 32, "input_labels": ones(2, 1, 1)}

MASKS: list[Row] = [
    ("MaskFormerForInstanceSegmentation", "MaskFormerConfig", _maskformer, {"pixel_values": pixels(64)}, BOX),
    ("Mask2FormerForUniversalSegmentation", "Mask2FormerConfig", _mask2former, {"pixel_values": pixels(64)}, BOX),
    ("SamModel", "SamConfig", _sam, {"pixel_values": pixels(64), **POINTS}, (0, 0)),
    ("Sam2Model", "Sam2Config", _sam2, {"pixel_values": pixels(64), **POINTS}, (0, 0)),
    (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 4, 4],
            "decoder_hidden_size": 32,
            "num_labels": 5,
        },
        {"pixel_values": pixels(64)},
        (3, 4, 5),
    ),
    (
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        lambda: {
            "backbone_config": config(
                "ConvNextConfig",
                hidden_sizes=[16, 16, 32, 32],
                depths=[1, 1, 1, 1],
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            "hidden_size": 32,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 16,
            "num_labels": 5,
        },
        {"pixel_values": pixels(64)},
        (3, 4, 5),
    ),
    (
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **{**VISION, "num_hidden_layers": 4},
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 16, 32, 32],
            "fusion_hidden_size": 16,
            "is_hybrid": False,
        },
        {"pixel_values": pixels(32)},
        (4, 5),
    ),
]
