"""torchvision's operators: boxes read as means of samples, convolutions with shifted taps, suppressed boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from support.torchvision_ops import install
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import Composite, NameMap
from relprop.errors import RuleError
from relprop.rules import StopRule, ZPlusRule

if not install():
    pytest.skip("torchvision is not installed", allow_module_level=True)

vision = torch.ops.torchvision
BOXES = torch.tensor([[0, 1.0, 0.5, 6.2, 7.0], [1, -0.5, 3.0, 4.5, 5.0], [0, 2.0, 2.0, 2.5, 9.5]], dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def times_gradient(model: nn.Module, x: Tensor, target: Any = 1) -> Tensor:
    a = x.clone().requires_grad_()
    return a.detach() * torch.autograd.grad(model(a)[:, target].sum(), a)[0]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 0])
def test_reference_of_roi_align(aligned: bool, ratio: int) -> None:
    """Against torchvision's own form in Python, which nothing else of torchvision needs."""
    from torchvision.ops.roi_align import _roi_align

    expected = _roi_align.__wrapped__ if hasattr(_roi_align, "__wrapped__") else _roi_align
    x = noise(2, 3, 8, 9)
    assert_close(
        vision.roi_align(x, BOXES, 0.8, 3, 2, ratio, aligned), expected(x, BOXES, 0.8, 3, 2, ratio, aligned), rtol=1e-6
    )


def test_reference_of_deform_conv2d() -> None:
    """Without shifts a convolution; with every tap shifted by a whole place, one of the shifted picture."""
    x, weight, bias = noise(2, 4, 7, 7), noise(6, 2, 3, 3), noise(6)
    given = (noise(2, 1), bias, 2, 1, 1, 1, 1, 1, 2, 2, False)
    plain = F.conv2d(x, weight, bias, stride=(2, 1), padding=1, groups=2)
    shift = x.new_zeros(2, 2 * 2 * 9, *plain.shape[2:])
    assert_close(vision.deform_conv2d(x, weight, shift, *given), plain, rtol=1e-9)
    shift[:, 1::2] = 1.0  # to the right
    moved = F.conv2d(F.pad(x, (0, 1))[..., 1:], weight, bias, stride=(2, 1), padding=1, groups=2)
    inside = (..., slice(None), slice(1, -1))
    assert_close(vision.deform_conv2d(x, weight, shift, *given)[inside], moved[inside], rtol=1e-9)


class OfBoxes(nn.Module):
    """A small second stage of a detector: logits of each box."""

    def __init__(self, aligned: bool = True, ratio: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 6, 5)
        self.register_buffer("boxes", BOXES)
        self.how = (0.8, 3, 2, ratio, aligned)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        cells = vision.roi_align(self.features(x).relu(), self.boxes, *self.how)
        return self.head(cells.flatten(1))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 0])
def test_roi_align_is_linear_in_the_picture(aligned: bool, ratio: int) -> None:
    model, x = OfBoxes(aligned, ratio), noise(2, 3, 8, 9)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.output, model(x).detach())
    assert_close(expl.relevance, times_gradient(model, x), rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9


class GivenBoxes(OfBoxes):
    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        cells = vision.roi_align(self.features(x).relu(), boxes, *self.how)
        return self.head(cells.flatten(1))


def test_boxes_among_the_inputs_are_refused_until_they_are_constant() -> None:
    model, x = GivenBoxes(), noise(2, 3, 8, 9)
    with pytest.raises(RuleError, match="StopRule"):
        LRP(model)(x, BOXES, target=1)
    expl = LRP(model, normalize_output=False, constant=("boxes",))(x, BOXES, target=1)
    assert_close(expl.by_input["x"], times_gradient(OfBoxes(), x), rtol=1e-6)


class Deformed(nn.Module):
    """Two groups of weights and of shifts; shifts from a convolution of the picture, or fixed."""

    def __init__(self, *, predicted: bool, masked: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.shift, self.mask = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 36, 3), nn.Conv2d(4, 18, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 5)
        self.predicted, self.masked = predicted, masked
        self.register_buffer("fixed", torch.randn(1, 54, 4, 4))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        shift, mask = self.fixed.expand(len(h), -1, -1, -1).split([36, 18], 1)
        if self.predicted:
            shift, mask = self.shift(h), self.mask(h)
        given = (mask.sigmoid(), self.bias, 1, 1, 0, 0, 1, 1, 2, 2, self.masked)
        return self.head(vision.deform_conv2d(h, self.weight, shift, *given).relu().mean((2, 3)))


@pytest.mark.parametrize("masked", [True, False])
def test_deform_conv2d_with_fixed_shifts_is_linear(masked: bool) -> None:
    model, x = Deformed(predicted=False, masked=masked), noise(2, 3, 8, 8)
    expl = LRP(model, normalize_output=False)(x, target=1, audit=True)
    assert_close(expl.output, model(x).detach())
    assert_close(expl.relevance, times_gradient(model, x), rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9


def test_z_plus_on_deform_conv2d_is_that_of_its_matrix() -> None:
    """`R_i = Σ_j a_i w⁺_ij / Σ_k a_k w⁺_kj · R_j` for `a ≥ 0`, by the dense matrix w⁺."""
    torch.manual_seed(0)
    a, weight, shift, mask = noise(1, 2, 5, 5).abs(), noise(3, 2, 3, 3), noise(1, 18, 3, 3), noise(1, 9, 3, 3).abs()

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return vision.deform_conv2d(x, weight, shift, mask, x.new_zeros(3), 1, 1, 0, 0, 1, 1, 1, 1, True)

    def positive(x: Tensor) -> Tensor:
        given = (shift, mask, x.new_zeros(3), 1, 1, 0, 0, 1, 1, 1, 1, True)
        return vision.deform_conv2d(x, weight.clamp(min=0), *given)

    matrix = torch.autograd.functional.jacobian(positive, a).reshape(27, 50)
    relevance = noise(1, 3, 3, 3)
    expl = LRP(Layer(), [ZPlusRule()], normalize_output=False)(a, target=lambda y: relevance)
    share = matrix * a.reshape(1, 50) / (matrix @ a.reshape(50, 1))
    assert_close(expl.relevance.reshape(-1), share.T @ relevance.reshape(-1), rtol=1e-6)


def test_predicted_shifts_need_a_stop() -> None:
    model, x = Deformed(predicted=True), noise(2, 3, 8, 8)
    with pytest.raises(RuleError, match="StopRule"):
        LRP(model)(x, target=1)
    stopped = Composite(NameMap({"shift": StopRule(), "mask": StopRule()}))
    expl = LRP(model, stopped, normalize_output=False)(x, target=1, audit=True)

    class Stopped(Deformed):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            given = (self.mask(h.detach()).sigmoid().detach(), self.bias, 1, 1, 0, 0, 1, 1, 2, 2, True)
            shifted = vision.deform_conv2d(h, self.weight, self.shift(h).detach(), *given)
            return self.head(shifted.relu().mean((2, 3)))

    assert_close(expl.relevance, times_gradient(Stopped(predicted=True), x), rtol=1e-6)
    assert expl.ledger.imbalance < 1e-9


class BestBox(nn.Module):
    """Logits of the best box that is left."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.boxes, self.score = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x).relu()
        corner, size = self.boxes(h).split(2, 1)
        logits = self.score(h)
        kept = vision.nms(torch.cat([corner, corner + size.exp()], 1), logits.amax(1), 0.5)
        return logits.index_select(0, kept[:1])


def test_nms_chooses_and_carries_nothing() -> None:
    model, x = BestBox(), noise(7, 6)
    expl = LRP(model, normalize_output=False)(x, target=1)
    assert_close(expl.relevance, times_gradient(model, x), rtol=1e-6)
    assert (expl.relevance != 0).any(1).sum() == 1, "one box is chosen, and one has relevance"
