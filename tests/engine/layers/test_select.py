"""Layers whose relevance is asked for: by all, by name, by pattern."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from support.networks import small
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus
from relprop.errors import InputError


def test_layers_are_those_of_the_outputs() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlus(bias="ignore"), normalize_output=True)
    expl = lrp(x, target=1, layers=True)
    assert list(expl.layers) == [str(i) for i in range(9)]
    shapes = {name: tuple(r.shape) for name, r in expl.layers.items()}
    assert shapes["0"] == shapes["1"] == (2, 4, 12, 12)
    assert shapes["8"] == (2, 5)
    for relevance in expl.layers.values():  # relevance is conserved from layer to layer
        assert_each_close(relevance.flatten(1).sum(1), torch.ones(2), atol=1e-3)
    assert list(lrp(x, layers="[45]").layers) == ["4", "5"]
    assert set(lrp(x, layers=["0", "8"]).layers) == {"0", "8"}
    with pytest.raises(InputError, match=r"layers='conv\*' matches no module"):
        lrp(x, layers="conv*")


def test_layers_of_containers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x))

    x = torch.rand(2, 1, 8, 8)
    expl = LRP(Net(), flatten=False)(x, layers=True)
    assert {name: tuple(r.shape) for name, r in expl.layers.items()} == {"features": (2, 2, 6, 6), "head": (2, 3)}
    named = LRP(Net())(x, layers=["features", "features.1", "head.*"]).layers
    assert torch.equal(named["features"], named["features.1"])
    assert set(named) == {"features", "features.1", "head.0", "head.1"}


def test_relevance_is_contiguous() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    expl = LRP(model, EpsilonPlus())(torch.rand(3, 3, 8, 8), layers=True)
    assert expl.relevance.view(3, -1).shape == (3, 192)
    assert all(r.is_contiguous() for r in expl.layers.values())
