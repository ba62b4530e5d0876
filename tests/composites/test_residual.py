"""ResLRP: γ on residual sums alone, and relevance that does not grow from block to block."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, EpsilonGamma, EpsilonGammaFlat, GlobalTypeMap, ResLRP, recommended
from relprop.composites.composite import Composite
from relprop.models.demo import load_vit
from relprop.rules import GeneralizedGammaRule, ZeroRule


class Blocks(nn.Module):
    """Residual blocks that take back a part of what they are added to, behind a position embedding."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.position = nn.Parameter(torch.randn(8))
        self.blocks = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(blocks))
        with torch.no_grad():
            for block in self.blocks:
                block.weight.copy_(-0.6 * torch.eye(8) + 0.25 * torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        for block in self.blocks:
            x = x + block(x)
        return x


X = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A transformer's block, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.feed(self.between(x))


def test_gamma_is_for_sums_of_data_alone() -> None:
    rows = [line for line in str(LRP(Blocks(2), ResLRP(), example_inputs=(X.float(),))).splitlines() if ":add" in line]
    assert ["GeneralizedGammaRule(gamma=1.0)" in row for row in rows] == [False, True, True]


def test_the_rule_on_a_sum() -> None:
    """Where z > 0: `R_i = (a_i + γ a_i⁺) / (z + γ Σ a⁺) R`, and with a⁻ where z < 0."""

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    x, y = torch.randn(2, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = LRP(Sum(), ResLRP(), normalize_output=False)(x, y, target=0)
    z = x + y
    sign = z.sign()
    shares = [a + sign * (sign * a).clamp(min=0) for a in (x, y)]
    for relevance, share in zip(found.relevance, shares, strict=True):
        assert_close(relevance, share / sum(shares) * z, rtol=1e-6)


def test_relevance_cancels_less() -> None:
    """`Σ|R|` over what is explained: 1 where nothing speaks against it. The books of both balance."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(12)), nn.LayerNorm(32), nn.Linear(32, 5)).double().eval()
    x = torch.randn(4, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    size = {}
    for composite in (AttnLRP(attention="cp"), ResLRP(attention="cp")):
        expl = LRP(model, composite, normalize_output=False)(x, target=(0, 0), audit=True)
        size[composite.name] = float((expl.relevance.abs().sum((1, 2)) / expl.output[:, 0, 0].abs()).mean())
        assert expl.ledger is not None
        assert expl.ledger.imbalance < 1e-9
    plain, ours = size.values()
    assert ours < plain / 4, size


@pytest.mark.parametrize("gamma", [0.25, 1.0])
def test_it_is_attnlrp_with_one_rule_more(gamma: float) -> None:
    model = Blocks(3).double()
    preset = AttnLRP()
    by_hand = Composite(preset.default_rule, *preset.primitives, GlobalTypeMap({"joined": GeneralizedGammaRule(gamma)}))
    found = LRP(model, ResLRP(gamma_residual=gamma))(X, target=1).relevance
    assert_close(found, LRP(model, by_hand)(X, target=1).relevance, rtol=1e-12)
    assert_close(
        LRP(model, ResLRP(gamma_residual=None))(X, target=1).relevance, LRP(model, ZeroRule())(X, target=1).relevance
    )


def test_it_is_what_vision_transformers_are_recommended() -> None:
    chosen = recommended(load_vit())
    assert chosen == ResLRP(gamma_linear=0.05, gamma_conv=0.25)
    assert "docs/evidence.md" in chosen.reason


@pytest.mark.parametrize(
    ("first", "signal"),
    [
        (nn.Conv1d(1, 2, 9), True),
        (nn.Conv2d(1, 2, (512, 1)), True),
        (nn.Conv2d(1, 2, 3), False),
        (nn.Conv2d(1, 2, 1), False),
        (nn.Conv3d(1, 2, 3), False),
    ],
    ids=str,
)
def test_signals_are_recommended_no_flat_rule(first: nn.Module, signal: bool) -> None:
    """The flat rule gives silence as much as sound."""
    chosen = recommended(nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)))
    assert chosen == (EpsilonGamma() if signal else EpsilonGammaFlat())
    assert ("signals" in chosen.reason) == signal
