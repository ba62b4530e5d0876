"""Samples are those of the output. What has lost its batch is refused; what is drawn is drawn once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.gradients import input_times_gradient
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import InputTimesGradient
from relprop.errors import InputError, TargetError


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).squeeze())


@pytest.mark.parametrize("target", [None, 1, torch.tensor([1])], ids=str)
def test_a_single_sample_that_loses_its_batch_is_one_sample(target: object) -> None:
    model, x = Squeezed(), torch.rand(2, 1, 6, 6)
    lrp = LRP(model, normalize_output=False)
    both = lrp(x, target=1 if target is not None else model(x).argmax(1))
    for i in range(2):
        single = lrp(x[i : i + 1], target=target)  # type: ignore[arg-type]
        assert single.output.shape == (1, 3)
        assert_close(single.relevance, both.relevance[i : i + 1], rtol=1e-5)


@pytest.mark.parametrize(
    "reduce",
    [torch.squeeze, lambda y: y[0, 0], lambda y: y.squeeze(1)[-1], lambda y: (y.squeeze(), y)],
    ids=["squeeze", "index", "last", "several outputs"],
)
def test_one_number_of_a_single_sample_is_explained(reduce: Callable[[Tensor], Any]) -> None:
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))

        def forward(self, x: Tensor) -> Any:
            return reduce(self.body(x))

    model, x = Reduced(), torch.randn(1, 4)
    found = LRP(model, normalize_output=False)(x)
    assert_close(found.relevance, input_times_gradient(model.body, x)[0], rtol=1e-5)
    first = found.output[0] if isinstance(found.output, tuple) else found.output
    assert_close(first, model.body(x).reshape(1), rtol=1e-5)
    plain = InputTimesGradient(model, normalize_output=True)(x)
    assert_close(plain.relevance, found.relevance, rtol=1e-5)


def test_the_scalar_of_several_samples_is_refused_and_one_number_per_sample_is_explained() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    lrp, x = LRP(Sum()), torch.rand(2, 3)
    for given in (x, x[:1], x):  # the single sample has a program of its own
        if len(given) == 1:
            assert lrp(given).output.shape == (1,)
            continue
        with pytest.raises(InputError, match=r"shape \(\) for inputs of batch size 2: it has lost its batch"):
            lrp(given)
    model, x = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), torch.rand(5, 4)
    assert_close(LRP(model, normalize_output=False)(x).relevance, input_times_gradient(model, x)[0], rtol=1e-5)


def test_a_bag_is_one_sample() -> None:
    """Instances come in the first dimension, and one row comes back."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x)).amax(0, keepdim=True))

    model, x = Pooled(), torch.rand(6, 4)
    lrp = LRP(model, normalize_output=False)
    a = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(a)[0, 1], a)
    for target in (1, torch.tensor([1])):
        assert_close(lrp(x, target=target).relevance, x * g, rtol=1e-5, atol=1e-6)
    with pytest.raises(TargetError, match="there are 1 samples"):
        lrp(x, target=torch.tensor([1] * 6))


class Drawing(nn.Module):
    """Draws a mask beside data, and noise from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 32, bias=False), nn.Linear(32, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        return self.second(h * torch.bernoulli(torch.full_like(h, 0.5)) * (1 + torch.rand(32)))


@pytest.mark.parametrize("checkpoint", [False, 2, True])
def test_what_is_drawn_is_drawn_once_in_a_call_and_anew_in_the_next(checkpoint: bool | int) -> None:
    """A network without biases conserves: relevance adds up to the output that the same call returns."""
    lrp, x = LRP(Drawing(), checkpoint=checkpoint, normalize_output=False), torch.rand(4, 6)
    outputs = []
    for _ in range(2):
        expl = lrp(x, target=1)
        assert_close(expl.relevance.sum(1), expl.output[:, 1], rtol=1e-4, atol=1e-5)
        outputs.append(expl.output)
    assert not torch.equal(*outputs)


def test_wrappers_are_looked_through() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.rand(2, 4)
    expected = LRP(model)(x, target=1).relevance
    assert torch.equal(LRP(nn.DataParallel(model))(x, target=1).relevance, expected)  # type: ignore[no-untyped-call]
    assert torch.equal(LRP(torch.compile(model))(x, target=1).relevance, expected)  # type: ignore[arg-type]


def test_a_model_that_casts_by_itself_is_asked_itself() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(6, 16).bfloat16(), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.backbone(x.to(self.backbone.weight.dtype))).float())

    model, x = Mixed(), torch.rand(3, 6)
    expl = LRP(model, normalize_output=False)(x, target=1)
    assert expl.relevance.dtype == torch.float32
    assert_close(expl.output, model(x), rtol=1e-5)
    with pytest.raises(InputError, match=r"x\.to\(torch\.float32\)"):
        LRP(nn.Linear(6, 3))(x.double())
