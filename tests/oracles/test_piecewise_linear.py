"""Piecewise linear networks, in the forms in which people have them: the 0-rule is input times gradient there.

Layers whose weights are computed, models that are compiled or checkpointed, parts that are used twice. Relevance starts
with the output's own value, so that no division by it is left over; the stabilizer (1e-9) is what remains.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.gradients import input_times_gradient
from support.versions import from_2_13
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relprop import LRP


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def agrees(model: nn.Module, x: Tensor, plain: nn.Module | None = None) -> None:
    """LRP of `model` at class 1 is input times gradient of `plain`, which computes the same."""
    (expected,) = input_times_gradient(lambda a: (plain or model)(a)[:, 1], x)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.relevance, expected, rtol=1e-6)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-8


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()


class Checkpointed(nn.Module):
    """Its first part is computed again in the backward pass, as large vision models have it."""

    def __init__(self, plain: nn.Sequential, reentrant: bool) -> None:
        super().__init__()
        self.first, self.head, self.reentrant = plain[:2], plain[2], reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.first, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_inside_the_model(reentrant: bool) -> None:
    plain = mlp()
    agrees(Checkpointed(plain, reentrant).eval(), noise(3, 4), plain)


def test_a_model_wrapped_by_torch_compile() -> None:
    plain = mlp()
    agrees(torch.compile(plain), noise(2, 4), plain)


@from_2_13
def test_a_model_that_compiles_itself() -> None:
    plain, compiled = mlp(), mlp()
    compiled.load_state_dict(plain.state_dict())
    compiled.compile()
    agrees(compiled, noise(2, 4), plain)


class Reverse(torch.autograd.Function):
    """The identity, whose gradient is turned around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Adversarial(nn.Module):
    """A domain-adversarial head: what is in front of it learns against it."""

    def __init__(self, plain: nn.Sequential) -> None:
        super().__init__()
        self.first, self.head = plain[:2], plain[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Reverse.apply(self.first(x)))


def test_a_gradient_reversal_does_not_reverse_relevance() -> None:
    """Relevance follows the forward pass, not a backward pass of the model's own making."""
    plain = mlp()
    agrees(Adversarial(plain), noise(2, 4), plain)


def test_a_convolution_under_weight_norm() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Conv1d(2, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    agrees(model, noise(3, 2, 10))


class Int8Linear(nn.Module):
    """Weights in int8 with a scale for each row, which the forward pass multiplies out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def test_weights_of_eight_bits() -> None:
    plain = mlp()
    small = nn.Sequential(Int8Linear(plain[0]), nn.ReLU(), Int8Linear(plain[2])).eval()
    for i in (0, 2):
        plain[i].weight.data = small[i].weight.double() * small[i].scale
    agrees(small, noise(3, 4), plain)


class Reuses(nn.Module):
    """One pool and one in-place ReLU, each used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 3)
        self.pool, self.act = nn.MaxPool2d(2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.act(self.one(x)))
        return self.head(self.pool(self.act(self.two(h))).mean((2, 3)))


def test_a_pool_and_an_activation_that_are_used_twice() -> None:
    agrees(Reuses().double().eval(), noise(2, 1, 16, 16))


class UNet(nn.Module):
    """Halves an odd size, comes back by interpolation, and joins what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        h = F.relu(self.middle(F.max_pool2d(skip, 2)))
        h = F.interpolate(h, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.up(torch.cat([skip, h], 1))


def test_a_region_of_a_unets_output_of_odd_size() -> None:
    """The target is the sum of one class over the pixels of a mask."""
    model, x = UNet().double().eval(), noise(2, 1, 9, 7)
    mask = (torch.rand(9, 7) > 0.5).double()

    def region(output: Tensor) -> Tensor:
        relevance = torch.zeros_like(output)
        relevance[:, 1] = output[:, 1] * mask
        return relevance

    (expected,) = input_times_gradient(lambda a: model(a)[:, 1] * mask, x)
    assert_close(LRP(model, normalize_output=False)(x, target=region).relevance, expected, rtol=1e-6)


class Modalities(nn.Module):
    """A picture and a row of a table, in a dict as a data loader gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.head = nn.Conv2d(1, 3, 3), nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        h = torch.cat([F.relu(self.image(batch["image"])).mean((2, 3)), F.relu(self.table(batch["table"]))], 1)
        return self.head(h)


def test_inputs_in_a_dict() -> None:
    model, batch = Modalities().double().eval(), {"image": noise(2, 1, 6, 6), "table": noise(2, 4)}
    expected = input_times_gradient(
        lambda image, table: model({"image": image, "table": table})[:, 1], batch["image"], batch["table"]
    )
    expl = LRP(model, normalize_output=False)(batch, target=1)
    for (name, relevance), right in zip(expl.inputs.items(), expected, strict=True):
        assert_close(relevance, right, rtol=1e-6, what=name)
