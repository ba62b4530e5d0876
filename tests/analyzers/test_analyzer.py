"""LRP as its users meet it: signatures, inputs, outputs."""

from __future__ import annotations

import torch
from support.compare import assert_each_close
from support.networks import small
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import EpsilonPlus


def test_two_inputs_and_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor, *, y: Tensor) -> dict[str, Tensor]:
            return {"extra": x.sum(1), "logits": self.a(x) + self.b(y)}

    x, y = torch.rand(3, 3), torch.rand(3, 4)
    model = Two()
    expl = LRP(model, normalize_output=True)(x, y=y, target=0, audit=True)
    assert isinstance(expl.relevance, tuple)
    assert [tuple(r.shape) for r in expl.relevance] == [(3, 3), (3, 4)]
    assert_each_close(expl.output["logits"], model(x, y=y)["logits"])
    z = model.a.weight[0] * x / expl.output["logits"][:, :1]  # R_i = a_i w_i0 / z_0
    assert_each_close(expl.relevance[0], z, atol=1e-6)
    assert_each_close(sum(r.sum(1) for r in expl.relevance), torch.ones(3), atol=1e-5)


def test_variable_numbers_of_inputs() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, *more: Tensor, last: Tensor) -> Tensor:
            return x + sum(more) + last

    inputs = [torch.rand(2, 3) for _ in range(4)]
    expl = LRP(Many())(*inputs[:3], last=inputs[3], target=1)
    total = sum(i[:, 1] for i in inputs)
    for given, relevance in zip(inputs, expl.relevance, strict=True):
        assert_each_close(relevance[:, 1], given[:, 1] / total, atol=1e-6)


def test_attribute_returns_relevance_alone() -> None:
    model, x = small(), torch.rand(2, 3, 12, 12)
    lrp = LRP(model, EpsilonPlus())
    assert torch.equal(lrp.attribute(x, target=2), lrp(x, target=2).relevance)
    attributed = lrp.attribute((x,), target=2)
    assert isinstance(attributed, tuple)
    assert torch.equal(attributed[0], lrp(x, target=2).relevance)


def test_normalize_output() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3, bias=False)), torch.rand(2, 4)
    sums = LRP(model, normalize_output=False)(x, target=1).relevance.sum(1)
    assert_each_close(sums, model(x)[:, 1], atol=1e-6)
