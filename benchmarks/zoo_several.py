"""Hugging Face families that take inputs of several kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zoo_entry import Built, Entry
from zoo_hf import GROUPED, SMALL, VISION, ids, pixels
from zoo_rows import PERCEIVER, Row, config, noise, ones

SEVERAL: list[Row] = [
    (
        "PerceiverForImageClassificationLearned",
        "PerceiverConfig",
        {**PERCEIVER, "image_size": 16, "d_model": 512, "num_labels": 5},
        {"inputs": pixels(16)},
        None,
    ),
    (
        "ViltForQuestionAnswering",
        "ViltConfig",
        {
            **SMALL,
            "image_size": 32,
            "patch_size": 8,
            "max_position_embeddings": 16,
            "max_image_length": 16,
            "num_labels": 5,
        },
        {"input_ids": ids, "pixel_values": pixels(32)},
        None,
    ),
    (
        "BlipForImageTextRetrieval",
        "BlipConfig",
        lambda: {
            "text_config": {**SMALL, "encoder_hidden_size": 32, "max_position_embeddings": 16},
            "vision_config": VISION,
            "projection_dim": 16,
            "image_text_hidden_size": 16,
        },
        {"input_ids": ids, "pixel_values": pixels(32)},
        1,
    ),
    (
        "VisualBertForQuestionAnswering",
        "VisualBertConfig",
        {**SMALL, "visual_embedding_dim": 16, "num_labels": 5},
        {
            "input_ids": ids,
            "attention_mask": ones(2, 8),
            "visual_embeds": noise(2, 4, 16),
            "visual_attention_mask": ones(2, 4),
        },
        None,
    ),
    (
        "DecisionTransformerModel",
        "DecisionTransformerConfig",
        {"state_dim": 5, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_ep_len": 16, "vocab_size": 1},
        {
            **{
                "states": noise(2, 4, 5),
                "actions": noise(2, 4, 3),
                "rewards": noise(2, 4, 1),
                "returns_to_go": noise(2, 4, 1),
            },
            **{"timesteps": lambda: torch.arange(4).expand(2, 4).contiguous(), "attention_mask": ones(2, 4)},
        },
        (3, 1),
    ),
]


class WithGrid(nn.Module):
    """Qwen-VL for pictures of 4 by 4 patches: the grid of patches is made of numbers, and no input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=torch.tensor([[1, 4, 4]]),
            mm_token_type_ids=torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0, 0, 0]]),
        ).logits
        return logits


def several_entries() -> Iterator[Entry]:
    """Qwen-VL: a picture's 4 merged patches among 10 tokens."""
    both = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
    windows = {**both, "intermediate_size": 64, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}
    yield Entry("transformers", "Qwen2VLForConditionalGeneration", _qwen("2", {**both, "embed_dim": 32}), (9, 3))
    yield Entry("transformers", "Qwen2_5_VLForConditionalGeneration", _qwen("2_5_", windows), (9, 3))


def _qwen(version: str, vision: dict[str, Any]) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        ids = {"image_token_id": 90, "vision_start_token_id": 91, "vision_end_token_id": 92, "video_token_id": 93}
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        text = {**GROUPED, "rope_parameters": rope, "use_cache": False}
        settings = config(f"Qwen{version}VLConfig", text_config=text, vision_config=vision, **ids)
        model = getattr(transformers, f"Qwen{version}VLForConditionalGeneration")(settings)
        tokens = torch.randint(3, 80, (1, 10))
        tokens[:, 2], tokens[:, 3:7], tokens[:, 7] = 91, 90, 92
        return WithGrid(model), {"input_ids": tokens, "pixel_values": torch.randn(16, 2 * 3 * 4 * 4)}

    return build
