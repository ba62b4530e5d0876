"""Models that read and set `.data`, or write to their own weights in forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP

LONGEST = 0.5


def renormed(weight: Tensor) -> Tensor:
    return torch.renorm(weight, p=2, dim=0, maxnorm=LONGEST)


def set_data(layer: nn.Conv2d) -> None:
    layer.weight.data = renormed(layer.weight.data)


def copied(layer: nn.Conv2d) -> None:
    layer.weight.data.copy_(renormed(layer.weight.data))


def renormed_in_place(layer: nn.Conv2d) -> None:
    layer.weight.data.renorm_(2, 0, LONGEST)


def without_data(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        layer.weight.renorm_(2, 0, LONGEST)


def slice_assigned(layer: nn.Conv2d) -> None:
    layer.weight.data[:] = renormed(layer.weight)


def scaled(layer: nn.Conv2d) -> None:
    with torch.no_grad():
        norm = layer.weight.flatten(1).norm(dim=1)[:, None, None, None]
        layer.weight *= norm.clamp(max=LONGEST) / norm


def new_parameter(layer: nn.Conv2d) -> None:
    layer.weight = nn.Parameter(renormed(layer.weight.data))


class MaxNorm(nn.Conv2d):
    """A convolution whose filters are never longer than `LONGEST`, as in EEGNet."""

    how: Callable[[nn.Conv2d], None]

    def forward(self, x: Tensor) -> Tensor:
        self.how(self)
        return super().forward(x)


def network(layer: nn.Conv2d) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


SPELLINGS = [set_data, copied, renormed_in_place, without_data, slice_assigned, scaled, new_parameter]


@pytest.mark.parametrize("how", SPELLINGS)
def test_weights_that_forward_writes_are_explained_as_written_and_left_alone(how: Callable[[nn.Conv2d], None]) -> None:
    layer = MaxNorm(1, 3, 3)
    layer.how = how
    model, plain = network(layer), network(nn.Conv2d(1, 3, 3))
    before = layer.weight.detach().clone()
    plain[0].weight.data = renormed(before)  # type: ignore[operator,index]
    a = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    expected = a * torch.autograd.grad(plain(a)[:, 1].sum(), a)[0]
    expl = LRP(model, normalize_output=False)(a.detach(), target=1)
    assert_close(expl.output, plain(a).detach(), rtol=1e-6)  # renorm adds 1e-7 to the norm it divides by
    assert_close(expl.relevance, expected.detach(), rtol=1e-6)
    assert torch.equal(layer.weight, before), "explaining has changed the model"


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.data.abs().amax(-1, keepdim=True)


def test_data_of_an_input_is_read() -> None:
    x = torch.tensor([[1.0, -2.0]])
    assert LRP(Scaled())(x, target=1).output.tolist() == [[0.5, -1.0]]
