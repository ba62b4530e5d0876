"""The demo's classifier: a small convolutional network with one residual addition."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relprop.models.demo.pictures import CLASSES, SIZE

__all__ = ["CLASSES", "MEAN", "SIZE", "STD", "DemoNet", "to_input"]

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
"""The input is `(picture / 255 - MEAN) / STD`, float32, of shape (batch, 3, 64, 64)."""


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Pictures as bytes, (64, 64, 3) or (batch, 64, 64, 3), to the network's input, (batch, 3, 64, 64)."""
    batch = torch.tensor(images, dtype=torch.float32).reshape(-1, *images.shape[-3:])
    return ((batch / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def _convolution(inputs: int, outputs: int, *, pool: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        norm=nn.BatchNorm2d(outputs),
        relu=nn.ReLU(),
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


class Residual(nn.Module):
    """`relu(x + f(x))`, the addition written as a plain `+`, which no module hook would see."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, pool=False)
        self.second = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
                norm=nn.BatchNorm2d(channels),
            )
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.second(self.first(x)))
        return out


class DemoNet(nn.Module):
    """Pictures (batch, 3, 64, 64) to one logit per class (batch, 8)."""

    def __init__(self, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                block1=_convolution(3, width, pool=True),
                block2=_convolution(width, 2 * width, pool=True),
                residual=Residual(2 * width),
                block3=_convolution(2 * width, 4 * width, pool=True),
                block4=_convolution(4 * width, 8 * width, pool=False),
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8 * width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits
