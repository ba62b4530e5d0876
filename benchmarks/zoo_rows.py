"""What the tables of Hugging Face families share: settings of a family, and inputs of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Row = tuple[Any, ...]
"""Class of the model, class of its configuration, settings or what makes them, inputs, target; perhaps the output."""


def noise(*shape: int) -> Callable[[], Tensor]:
    """Normal numbers."""
    return lambda: torch.randn(shape)


def ones(*shape: int) -> Callable[[], Tensor]:
    """A mask that lets everything pass."""
    return lambda: torch.ones(shape, dtype=torch.long)


def config(name: str, **options: Any) -> Any:
    import transformers

    return getattr(transformers, name)(**options)


PERCEIVER = {"num_latents": 6, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 2}
PERCEIVER |= {"num_self_attention_heads": 4, "num_cross_attention_heads": 4, "qk_channels": 32, "v_channels": 32}
