"""Rows of linear layers that relevance comes from: what moves values is followed, whatever it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.rules import ZeroRule


class Moved(nn.Module):
    """A linear layer on time steps whose values are placed elsewhere before they are weighed."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.move = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False), move

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.move(self.first(x)).mean(1))


def unfolded(h: Tensor) -> Tensor:
    """Windows of three steps, (B, T, 6) -> (B, 3T, 6)."""
    windows = F.unfold(h.transpose(1, 2)[..., None], (3, 1), padding=(1, 0))  # (B, 6·3, T)
    return windows.reshape(len(h), 6, -1).transpose(1, 2)


def step_by_step(h: Tensor) -> Tensor:
    """All steps by their numbers."""
    return torch.stack([h[:, k] for k in range(5)], 1)


@pytest.mark.parametrize("move", [unfolded, step_by_step, lambda h: h[..., :6].flip(1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_relevance_is_input_times_gradient(move: Callable[[Tensor], Tensor], batch: int) -> None:
    """Without biases and nonlinearities, the 0-rule's."""
    net = Moved(move).double().eval()
    x = torch.randn(batch, 5, 4, dtype=torch.float64)
    found = LRP(net, ZeroRule(stabilizer=0.0), normalize_output=False)(x, target=1).relevance
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(given)[:, 1].sum(), given)
    assert_close(found, x * gradient, rtol=1e-9)
