"""The table of layers and rules, before and after the capture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, EpsilonPlusFlat, GlobalTypeMap
from relprop.rules import (
    FlatRule,
    ZeroRule,
    ZPlusRule,
)


@pytest.mark.parametrize("name", ["conv2d", "Conv2d"])
def test_tables_before_and_after_the_capture_agree(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    composite = Composite(
        GlobalTypeMap({name: FlatRule(), "linear": ZPlusRule(), "max_pool2d": ZeroRule(stabilizer=0.5)})
    )
    lrp = LRP(model.eval(), composite)
    before = repr(lrp)
    lrp(torch.rand(2, 1, 6, 6))
    assert repr(lrp) == before
    assert "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))" in before
    assert before.count("FlatRule()") == before.count("ZPlusRule()") == before.count("ZeroRule(stabilizer=0.5)") == 1


def test_a_list_of_rules_for_a_functional_model_prints() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.linear(x)) + x

    lrp = LRP(Residual(), [ZeroRule()] * 3)
    assert "known after the first call" in repr(lrp)
    lrp(torch.rand(2, 3))
    assert repr(lrp).count("ZeroRule()") == 3


def test_padding_is_no_first_layer() -> None:
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    assert "FlatRule" in repr(LRP(model, EpsilonPlusFlat())).splitlines()[2]


def test_the_table_is_that_of_the_model_as_it_is() -> None:
    """It was that of the latest call, also after modules had been put in the place of others."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    lrp = LRP(model, EpsilonPlusFlat())
    lrp(torch.rand(2, 3))
    assert "1: ReLU()" in str(lrp)
    model[1] = nn.Tanh()
    assert "1: Tanh()" in str(lrp)
    assert "ReLU" not in str(lrp)
    lrp(torch.rand(2, 3))
    assert "1: Tanh()" in str(lrp)
