"""Sigmoids, soft maxima and other functions of exponentials that models spell out are explained as PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.exponentials import (
    DTYPE,
    sequences,
)
from torch import Tensor, nn

from relprop import LRP


@pytest.fixture
def x() -> Tensor:
    return sequences()


def logsumexp(x: Tensor) -> Tensor:
    most = x.amax(1, keepdim=True)
    return most.squeeze(1) + (x - most).exp().sum(1).log()


@pytest.mark.parametrize("form", [logsumexp, lambda x: x.exp().sum(1).log()])
def test_a_soft_maximum_by_hand_is_pytorchs(form, x):
    class Soft(nn.Module):
        def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.out, self.reduce = nn.Linear(4, 3), nn.Linear(3, 2), reduce
            self.to(DTYPE).eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.reduce(self.inner(x)))

    found, expected = (
        LRP(Soft(reduce), normalize_output=False)(x, target=0, audit=True)
        for reduce in (form, lambda x: x.logsumexp(1))
    )
    assert found.ledger.imbalance < 1e-9
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "sigmoid": (
        torch.sigmoid,
        lambda x: 1 / (1 + torch.exp(-x)),
        lambda x: (torch.exp(-x) + 1).reciprocal(),
        lambda x: torch.exp(x) / (1 + torch.exp(x)),
        lambda x: (torch.tanh(x / 2) + 1) / 2,
        lambda x: 0.5 * (1 + torch.tanh(0.5 * x)),
    ),
    "tanh": (torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1, lambda x: torch.sigmoid(2 * x) * 2 - 1),
    "softplus": (nn.functional.softplus, lambda x: torch.log(1 + torch.exp(x)), lambda x: (x.exp() + 1).log()),
    "elu": (
        nn.functional.elu,
        lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
        lambda x: x.clamp(min=0) + (x.clamp(max=0).exp() - 1),
        lambda x: x.relu() - (1 - torch.exp(x)).relu(),
    ),
}


class Activated(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out, self.activation = nn.Linear(4, 6), nn.Linear(6, 2), activation
        self.to(DTYPE).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.inner(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_by_hand_is_pytorchs(name, x):
    expected, *found = (
        LRP(Activated(activation), normalize_output=False)(x[0], target=1, audit=True)
        for activation in ACTIVATIONS[name]
    )
    for each in found:
        torch.testing.assert_close(each.relevance, expected.relevance, rtol=1e-7, atol=1e-10)
        assert each.ledger.imbalance < 1e-9
