"""What the analysis takes for non-negative, and what it must not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap, LinearLayer
from relprop.rules import (
    ZPlusRule,
)


class Signed(nn.Module):
    """A linear layer behind something that looks non-negative and is not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(8 if kind == "cat" else 4, 3)

    def before(self, x: Tensor) -> Tensor:
        h = F.relu(3 * x)  # a factor behind the ReLU would hide its sign from the analysis
        return {
            "sin": lambda: torch.sin(h),
            "tan": lambda: torch.tan(h),
            "cat": lambda: torch.cat([h, -torch.ones_like(h)], 1),
            "minimum": lambda: torch.minimum(h, -torch.ones(1, 4, dtype=h.dtype)),
            "threshold": lambda: F.threshold(h, 1.0, -1.0),
        }[self.kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.before(x))


@pytest.mark.parametrize("kind", ["sin", "tan", "cat", "minimum", "threshold"])
def test_signs_are_not_taken_for_granted(kind: str) -> None:
    """Relevance in front of the layer is that of the z+ formula with both signs of its input."""
    torch.manual_seed(0)
    model = Signed(kind).double()
    x = torch.rand(40, 4, dtype=torch.float64) * 2
    rules = Composite(GlobalTypeMap({LinearLayer: ZPlusRule()}))
    lrp = LRP(model, rules, normalize_output=True)
    a = model.before(x).detach()
    assert (a < 0).any()
    for target in range(3):
        ledger = lrp(x, target=target, audit=True).ledger
        assert ledger is not None
        w, b = model.linear.weight[target].detach(), model.linear.bias[target].detach()
        positive = a.clamp(min=0) * w.clamp(min=0) + a.clamp(max=0) * w.clamp(max=0)
        z = positive.sum(1) + b.clamp(min=0) + 1e-9
        (entry,) = [e for e in ledger if e.operator == "linear"]
        assert entry.passed == pytest.approx(float((positive.sum(1) / z).sum()))
        assert entry.sinks["bias"] == pytest.approx(float((b.clamp(min=0) / z).sum()), abs=1e-12)
