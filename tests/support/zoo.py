"""torchvision's networks without downloads: random weights, batch statistics as after training, a fixed
seed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torchvision_shim import install
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def network(
    name: str, size: int, dtype: torch.dtype = torch.float32, additive: bool = False, **options: Any
) -> nn.Module:
    """A torchvision network in eval mode whose activations have a sensible scale in every layer.

    Each batch norm gets random scales and shifts and then the statistics of some random pictures, so that
    fusing it
    is not trivial, and so that neither activations nor relevance vanish or explode on the way.

    With `additive`, batch norms scale without shifting and depthwise filters have positive weights: then
    every unit
    that matters has a positive contribution.
    """
    if not install():
        pytest.skip("torchvision is not installed")
    from torchvision import models

    torch.manual_seed(0)
    model = getattr(models, name)(weights=None, **options).to(dtype).eval()
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    with torch.no_grad():
        for module in model.modules():
            if additive and isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                module.weight.abs_()
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.0 if additive else 0.2)
            norm.momentum = None  # the statistics of the next pass become the running ones
            norm.train()
        if norms:
            model(pictures(4, size, dtype, seed=1))
        else:
            he_initialize(model)
        if additive:
            for norm in norms:
                norm.running_mean.zero_()
    return model.eval()


def he_initialize(model: nn.Module) -> None:
    """Keep the scale from layer to layer (He et al. 2015); PyTorch's own default shrinks it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.bias, 0.0, 0.1)


def pictures(count: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 2) -> torch.Tensor:
    """Random pictures as a network sees them: smooth patches with some noise, normalized, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return (smooth + 0.3 * torch.randn(count, 3, size, size, generator=generator)).clamp(-2, 2).to(dtype)
