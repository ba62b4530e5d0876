"""Who refuses what: a rule on a layer that it cannot serve, and parameters that make no rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.errors import RuleError
from relprop.rules import (
    AlphaBetaRule,
    FlatRule,
    GammaRule,
    GeneralizedGammaRule,
    LayerNormRule,
    NormRule,
    PassRule,
    ProductRule,
    WSquareRule,
    ZBoxRule,
    ZeroRule,
    ZPlusRule,
)

REFUSED = [
    (ZPlusRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (GammaRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (GeneralizedGammaRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (AlphaBetaRule(), nn.AdaptiveMaxPool2d(1), (2, 4, 4)),
    (WSquareRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (FlatRule(), nn.MaxPool1d(2), (2, 4)),
    (FlatRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (ZBoxRule(0.0, 1.0), nn.MaxPool2d(2), (2, 4, 4)),
    (WSquareRule(), nn.LayerNorm(4), (4,)),
    (ZPlusRule(), nn.LayerNorm(4), (4,)),
    (NormRule(), nn.MaxPool2d(2, dilation=2), (2, 4, 4)),
    (LayerNormRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (PassRule(), nn.Linear(4, 3), (4,)),
    (PassRule(), nn.MaxPool2d(2), (2, 4, 4)),
    (PassRule(), nn.Conv2d(2, 2, 3), (2, 4, 4)),
    (PassRule(), nn.AvgPool2d(2), (2, 4, 4)),
    (ProductRule(), nn.Linear(4, 3), (4,)),
    (LayerNormRule(), nn.ReLU(), (2, 4, 4)),
    (FlatRule(), nn.GroupNorm(1, 2), (2, 4, 4)),
    (WSquareRule(), nn.Upsample(scale_factor=2, mode="bilinear"), (2, 4, 4)),
    (ZPlusRule(), nn.Upsample(scale_factor=2, mode="bicubic"), (2, 4, 4)),
]


@pytest.mark.parametrize(("rule", "module", "shape"), REFUSED, ids=repr)
def test_a_rule_on_a_layer_that_it_cannot_serve_is_refused_by_name(rule, module, shape):
    with pytest.raises(RuleError) as error:
        LRP(nn.Sequential(module), [rule])(torch.rand(2, *shape))
    assert type(rule).__name__ in str(error.value)
    assert type(module).__name__ in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AlphaBetaRule(2.0, 0.5),
        lambda: AlphaBetaRule(0.5, -0.5),
        lambda: AlphaBetaRule(alpha=1.0),
        lambda: ZBoxRule(1.0, 0.0),
        lambda: ZBoxRule(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])),
        lambda: ZeroRule(bias="keep"),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(RuleError):
        make()
