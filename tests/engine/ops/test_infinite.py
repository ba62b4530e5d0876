"""Infinite values inside a model, as masks have them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.rules import (
    AffineRule,
    EpsilonRule,
    ZeroRule,
)


class Masked(nn.Module):
    """Causal attention spelled out, and a padded maximum; what is put in is `fill`."""

    def __init__(self, kind: str, fill: float) -> None:
        super().__init__()
        self.kind, self.fill = kind, fill
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(4, 4).double() for _ in range(3))
        self.register_buffer("mask", torch.full((3, 3), fill, dtype=torch.float64).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) * 0.5
        if self.kind == "pooled":
            return F.max_pool1d(F.pad(scores, (1, 0), value=self.fill), 2)[:, 1]
        if self.kind == "scattered":  # as mixtures of experts do with the expert that was taken
            scores = scores.scatter(-1, torch.full_like(scores[..., :1], 2, dtype=torch.long), self.fill)
        scores = scores + self.mask if self.kind == "added" else scores.masked_fill(self.mask < 0, self.fill)
        return (scores.softmax(-1) @ self.v(x))[:, 1]


@pytest.mark.parametrize("rule", [ZeroRule(), EpsilonRule(1e-6)], ids=repr)
@pytest.mark.parametrize("kind", ["added", "filled", "pooled", "scattered"])
def test_minus_infinity_is_a_large_negative_number(kind: str, rule: AffineRule) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    infinite, finite = (LRP(Masked(kind, fill), rule) for fill in (-torch.inf, -1e6))
    expl = infinite(x, target=0, audit=True)
    assert_each_close(expl.relevance, finite(x, target=0).relevance, rtol=1e-6)
    assert torch.equal(expl.relevance, infinite(x, target=0).relevance)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-6
