"""The class of a layer: that of the module, also where its weights are computed, or where it is a subclass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from relprop import LRP
from relprop.composites import Composite, GlobalTypeMap
from relprop.rules import ZeroRule, ZPlusRule


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 1.0


def parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


class Padded(nn.Conv2d):
    """Does what the convolution does, and some more."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self._conv_forward(x.clamp(min=0), self.weight, self.bias))


class Plain(nn.Sequential):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self[0](x.clamp(min=0)))


def padded(conv: nn.Conv2d) -> nn.Module:
    made = Padded(conv.in_channels, conv.out_channels, 3)
    made.load_state_dict(conv.state_dict())
    return made


WRAPPED = {"parametrized": parametrized, "weight norm": parametrizations.weight_norm, "subclass": padded}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    first, second, head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(16, 3)
    if kind == "plain beside the subclass":
        return nn.Sequential(Plain(first), Plain(second), nn.Flatten(), head).eval()
    wrap = WRAPPED.get(kind, lambda conv: conv)
    return nn.Sequential(wrap(first), nn.ReLU(), wrap(second), nn.ReLU(), nn.Flatten(), head).eval()


@pytest.mark.parametrize(
    ("kind", "key"),
    [(kind, nn.Conv2d) for kind in WRAPPED] + [("parametrized", "Conv2d"), ("weight norm", "conv2d")],
)
def test_rules_by_type_see_wrapped_convolutions(kind: str, key: type[nn.Module] | str) -> None:
    plain = network("plain beside the subclass" if kind == "subclass" else "plain")
    x = torch.rand(2, 2, 6, 6)
    right = LRP(plain, Composite(GlobalTypeMap({nn.Conv2d: ZPlusRule()})))(x, target=1).relevance
    unseen = LRP(plain, Composite(GlobalTypeMap({nn.Conv2d: ZeroRule()})))(x, target=1).relevance
    found = LRP(network(kind), Composite(GlobalTypeMap({key: ZPlusRule()})))(x, target=1).relevance
    assert_close(found, right, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(right, unseen, rtol=1e-2)


def test_a_parametrized_layer_is_one_row() -> None:
    lrp = LRP(network("weight norm"))
    lrp(torch.rand(1, 2, 6, 6), target=0)
    convolutions = [layer for layer in lrp.layers if layer.is_a(nn.Conv2d)]
    assert [layer.name for layer in convolutions] == ["0", "2"]
    assert convolutions[0].row == "0: Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))"
