"""An analyzer follows its model: weights, parameters and modules that change, and copies of it."""

from __future__ import annotations

import copy
import pickle

import torch
from support.compare import assert_each_close
from support.networks import small
from torch import nn

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.rules import (
    ZPlusRule,
)


def test_weights_that_change_later_are_read_as_they_are() -> None:
    """An analyzer neither owns nor remembers weights: batch norm is fused and rules modify what is there now."""
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlusFlat())
    stale = lrp(x, target=1)

    def follows() -> None:
        nonlocal stale
        expl, fresh = lrp(x, target=1), LRP(model, EpsilonPlusFlat())(x, target=1)
        assert torch.equal(expl.output, fresh.output)
        assert torch.equal(expl.relevance, fresh.relevance)
        assert not torch.equal(expl.relevance, stale.relevance)
        stale = expl

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    follows()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.1)
        model[1].running_mean.add_(0.3)
    follows()
    other = small().state_dict()
    model.load_state_dict({k: v + 0.01 if v.is_floating_point() else v for k, v in other.items()})
    follows()
    model.double()
    assert lrp(x.double(), target=1).relevance.dtype == torch.float64


def test_replaced_parameters_and_modules_are_followed() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(2, 4)
    lrp = LRP(model, ZPlusRule())
    lrp(x, target=0)
    model[0].weight = nn.Parameter(-model[0].weight.detach())
    assert torch.equal(lrp(x, target=0).relevance, LRP(model, ZPlusRule())(x, target=0).relevance)
    model[2] = nn.Linear(3, 2)
    expl = lrp(x, target=0)
    assert_each_close(expl.output, model(x))
    assert torch.equal(expl.relevance, LRP(model, ZPlusRule())(x, target=0).relevance)


def test_analyzers_copy_and_pickle() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(2, 3)
    lrp = LRP(model)
    expected = lrp(x).relevance
    for twin in (copy.deepcopy(lrp), pickle.loads(pickle.dumps(lrp))):
        assert torch.equal(twin(x).relevance, expected)
