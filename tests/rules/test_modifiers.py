"""Bounds of the box rule: numbers, tensors, and shapes that do not fit."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import nn

from relprop import LRP
from relprop.errors import RuleError
from relprop.rules import (
    PassRule,
    ZBoxRule,
    ZeroRule,
)


def test_bounds_that_do_not_broadcast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    with pytest.raises(RuleError, match=r"\(C, 1, 1\)"):
        LRP(model, [ZBoxRule(torch.zeros(3), torch.ones(3))])(torch.rand(2, 3, 8, 8), target=(0, 0, 0))


def test_zbox_bounds_may_be_tensors_on_any_device() -> None:
    low, high = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 2.0)
    model, x = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2)), torch.rand(2, 3, 6, 6)
    by_tensor = LRP(model, [ZBoxRule(low, high), PassRule(), ZeroRule()])(x, target=0).relevance
    by_number = LRP(model, [ZBoxRule(-1.0, 2.0), PassRule(), ZeroRule()])(x, target=0).relevance
    assert_each_close(by_tensor, by_number, rtol=1e-5)
