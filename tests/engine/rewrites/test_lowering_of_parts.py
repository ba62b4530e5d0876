"""One result of an operator that has several."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP


class Broadcast(nn.Module):
    """A constant and data, broadcast together; the head reads both."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.constant = nn.Parameter(torch.randn(shape))
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        constant, data = torch.broadcast_tensors(self.constant, x)
        return self.head(constant + 2 * data)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (3, 1)])
def test_a_broadcast_constant_stays_one(shape: tuple[int, ...]) -> None:
    model = Broadcast(shape)
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    expected = a * torch.autograd.grad(model(a)[:, 1].sum(), a)[0]
    expl = LRP(model, normalize_output=False)(a.detach(), target=1, audit=True)
    assert_close(expl.relevance, expected.detach(), rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9
