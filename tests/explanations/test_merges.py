"""Growth and cancellation of sums of data with data: by hand, and against ResLRP's bound on a timm ViT and a Swin."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.torchvision_shim import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, ResLRP
from relprop.explanations.ledger import Entry, Ledger
from relprop.rules import GeneralizedGammaRule, ZeroRule


class Takes(nn.Module):
    """`x + f(x)` with `f(x) = −0.9 x`, behind a constant that is no data."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.shift = nn.Linear(2, 2, bias=False), nn.Parameter(torch.zeros(2))
        self.f.weight.data = -0.9 * torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shift
        return x + self.f(x)


def ledger_of(model: nn.Module, composite: Any, *inputs: Tensor, **options: Any) -> Ledger:
    found = LRP(model, composite, **options)(*inputs, target=0, audit=True).ledger
    assert found is not None
    return found


def test_by_hand() -> None:
    """z = (1, −0.9) sums to 0.1, of all that has relevance. γ = 1: shares 2 and −0.9 of 1.1."""
    x = torch.tensor([[1.0, 1.0]])
    for rule, growth in ((ZeroRule(), 19.0), (GeneralizedGammaRule(1.0), 2.9 / 1.1)):
        (merge,) = ledger_of(Takes(), rule, x).merges
        assert merge.operator == "add"
        assert merge.growth == pytest.approx(growth, rel=1e-4)
        assert merge.cancellation == pytest.approx(19.0, rel=1e-4)
        assert merge.passed == pytest.approx(merge.received)


def test_nothing_added_and_sums_of_nothing() -> None:
    def entry(merged: tuple[float, float] | None) -> Entry:
        return Entry("n", "add", "", ZeroRule(), 1.0, 1.0, {}, 1.0, merged=merged)

    assert entry(None).cancellation is None
    assert entry((2.0, 0.0)).cancellation == math.inf
    assert entry((0.0, 0.0)).cancellation == 1.0
    assert Ledger((entry(None), entry((3.0, 1.0))), 1.0, 1.0).merges == (entry((3.0, 1.0)),)


@pytest.fixture(scope="module", params=["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def transformer(request: pytest.FixtureRequest) -> nn.Module:
    """Small, with random weights."""
    install()
    timm = pytest.importorskip("timm")
    small = {"depth": 4, "embed_dim": 48} if "vit" in request.param else {"depths": (2, 2), "embed_dim": 32}
    heads = {"num_heads": 3} if "vit" in request.param else {"num_heads": (2, 4)}
    torch.manual_seed(0)
    model = timm.create_model(request.param, num_classes=5, img_size=64, **small, **heads).eval().double()
    for p in model.parameters():  # blocks as strong as what they are added to, not timm's 0.02
        if p.dim() == 2:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
    return model


@pytest.mark.parametrize("gamma", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_growth_is_bounded_and_relevance_conserved(transformer: nn.Module, gamma: float) -> None:
    """A ≤ 1 + 2/γ at each merge, `Σ R_in = Σ R_out` there, and the books balance."""
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = ledger_of(transformer, ResLRP(gamma_residual=gamma), x)
    plain = ledger_of(transformer, AttnLRP(), x)
    assert len(ours.merges) == len(plain.merges) == 8
    for merge, same in zip(ours.merges, plain.merges, strict=True):
        assert merge.rule == GeneralizedGammaRule(gamma)
        assert 1 <= merge.growth <= 1 + 2 / gamma
        assert merge.passed == pytest.approx(merge.received, abs=1e-6 * merge.magnitude)
        assert merge.cancellation == pytest.approx(same.cancellation), "it is the model's, whatever the rule"
        assert merge.cancellation is not None
        assert merge.cancellation > 1
    assert ours.imbalance < 1e-6
    product = math.prod(merge.growth for merge in ours.merges)
    assert product < math.prod(merge.growth for merge in plain.merges), "from block to block, it multiplies"
    assert max(merge.growth for merge in plain.merges) > max(merge.growth for merge in ours.merges)
