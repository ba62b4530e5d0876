"""`GammaByDepth`: γ of each layer by hand, and the presets that take pairs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.composites import AttnLRP, Composite, ConvLayer, EpsilonGammaFlat, GammaByDepth, LinearLayer, ResLRP
from relprop.errors import CompositeError, RuleError
from relprop.rules import EpsilonRule, FlatRule, GeneralizedGammaRule, ZeroRule


def net() -> nn.Sequential:
    """Four convolutions, with what has no γ between them, and two linear layers."""
    convolutions = [nn.Conv2d(2 if k == 0 else 3, 3, 3, padding=1) for k in range(4)]
    layers = [part for conv in convolutions for part in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2))


def gammas(composite: Composite, kind: type) -> list[float | None]:
    lrp = LRP(net(), composite)
    rules = composite.assign(lrp.layers)
    return [getattr(rule, "gamma", None) for layer, rule in zip(lrp.layers, rules, strict=True) if layer.is_a(kind)]


def test_gamma_goes_in_equal_steps_from_the_first_to_the_last():
    composite = Composite(EpsilonRule(), GammaByDepth(nn.Conv2d, 2.0, 0.5))
    assert gammas(composite, nn.Conv2d) == [2.0, 1.5, 1.0, 0.5]
    assert gammas(composite, nn.Linear) == [None, None]
    assert gammas(Composite(GammaByDepth(LinearLayer, 0.0, 3.0)), nn.Linear) == [0.0, 3.0]
    one = nn.Sequential(nn.Linear(2, 2))
    assert GammaByDepth(nn.Linear, 0.3, 9.0).assign(LRP(one).layers).__next__()[1] == GeneralizedGammaRule(0.3)


def test_presets_take_pairs_and_a_pair_of_one_number_is_that_number():
    assert gammas(EpsilonGammaFlat(gamma=(4.0, 1.0)), nn.Conv2d) == [None, 3.0, 2.0, 1.0], "the first one is flat"
    assert gammas(AttnLRP(gamma_linear=(0.5, 0.1), gamma_conv=0.2), nn.Linear) == [0.5, 0.1]
    assert gammas(ResLRP(gamma_linear=0.5, gamma_conv=(0.3, 0.0)), nn.Conv2d) == pytest.approx([0.3, 0.2, 0.1, 0.0])
    x, model = torch.randn(2, 2, 4, 4), net()
    pair, number = (LRP(model, EpsilonGammaFlat(gamma=g, bias="ignore"))(x).relevance for g in ((0.7, 0.7), 0.7))
    torch.testing.assert_close(pair, number)
    layers = LRP(model).layers
    flat, *_ = EpsilonGammaFlat(gamma=(0.7, 0.7), bias="ignore", stabilizer=1e-3).assign(layers)
    assert flat == FlatRule(bias="ignore", stabilizer=1e-3)
    second = EpsilonGammaFlat(gamma=(0.7, 0.7), bias="ignore", stabilizer=1e-3).assign(layers)[2]
    assert second == GeneralizedGammaRule(0.7, bias="ignore", stabilizer=1e-3)


def test_gamma_on_sums_of_data():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.body(x)).mean((2, 3)))

    x = (torch.rand(1, 1, 4, 4),)
    rules = {gamma: LRP(Residual(), EpsilonGammaFlat(gamma_residual=gamma), example_inputs=x) for gamma in (None, 0.5)}
    found = {gamma: lrp.composite.assign(lrp.layers) for gamma, lrp in rules.items()}
    names = [layer.name for layer in rules[None].layers]
    assert found[0.5][names.index(":add")] == GeneralizedGammaRule(0.5)
    assert found[None][names.index(":add")] == ZeroRule()


def test_what_cannot_be_is_refused():
    with pytest.raises(RuleError, match="gamma"):
        GammaByDepth(ConvLayer, 1.0, -1.0)
    with pytest.raises(CompositeError):
        GammaByDepth(3, 1.0, 1.0)  # type: ignore[arg-type]
