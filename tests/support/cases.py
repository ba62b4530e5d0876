"""Models of several kinds, each with the shape of its input and a composite: what an option must not change."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from relprop.composites import (
    AttnLRP,
    Composite,
    ConvLayer,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    FirstLayerMap,
    GlobalTypeMap,
    LinearLayer,
)
from relprop.rules import (
    AlphaBetaRule,
    EpsilonRule,
    GeneralizedGammaRule,
    NormRule,
    PassRule,
    Rule,
    WSquareRule,
    ZPlusRule,
)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


class Attention(nn.Module):
    """Attention, fused or written out, a gate, and a norm."""

    def __init__(self, eager: bool = False) -> None:
        super().__init__()
        self.eager, self.norm = eager, nn.LayerNorm(6)
        self.qkv, self.gate, self.head = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        z = (q @ k.mT / 6**0.5).softmax(-1) @ v if self.eager else F.scaled_dot_product_attention(q, k, v)
        return self.head(x + z * F.silu(self.gate(x))).mean(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def on_layers(rule: Rule) -> Composite:
    return Composite(GlobalTypeMap({ConvLayer: rule, LinearLayer: EpsilonRule(), nn.BatchNorm2d: PassRule()}))


IMAGE, SEQUENCE = (2, 3, 8, 8), (2, 4, 6)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], object]] = {
    "zero": (cnn, IMAGE, None),
    "plus_flat": (cnn, IMAGE, EpsilonPlusFlat()),
    "plus": (cnn, IMAGE, EpsilonPlus(bias="distribute")),
    "box": (cnn, IMAGE, EpsilonGammaBox(-3.0, 3.0)),
    "alpha_beta": (cnn, IMAGE, on_layers(AlphaBetaRule(2.0, 1.0))),
    "generalized": (cnn, IMAGE, on_layers(GeneralizedGammaRule(0.3))),
    "pool": (cnn, IMAGE, Composite(ZPlusRule(), GlobalTypeMap({nn.MaxPool2d: NormRule()}),
                                   FirstLayerMap(WSquareRule()))),
    "attention": (Attention, SEQUENCE, AttnLRP()),
    "half": (Attention, SEQUENCE, AttnLRP(attention="half", epsilon=0.1)),
    "eager": (lambda: Attention(eager=True), SEQUENCE, AttnLRP(softmax="distribute")),
    "lstm": (Recurrent, SEQUENCE, AttnLRP()),
}  # fmt: skip
