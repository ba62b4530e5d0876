"""What is wrong with a model or its inputs is said before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.networks import small
from torch import Tensor, nn

import relprop as rp
from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.errors import CaptureError, InputError


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.rand(2, 1, 12, 12), "itself fails on inputs of shape"),
        (torch.rand(3, 12, 12), "itself fails on inputs of shape"),
        (torch.rand(0, 3, 12, 12), "empty batch"),
        (torch.rand(2, 3, 12, 12, dtype=torch.float64), r"Convert one: x\.to\(torch\.float32\)"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.uint8), "needs floating point inputs"),
        (torch.full((2, 3, 12, 12), float("nan")), "864 values that are NaN or infinite"),
        (torch.rand(2, 3, 12, 12) / torch.zeros(()), "NaN or infinite"),
        (torch.rand(2, 3, 12, 12, device="meta"), r"input is on meta, the model on cpu"),
        (None, "no tensor among the inputs"),
    ],
)
def test_bad_inputs(x: Any, says: str) -> None:
    lrp = LRP(small(), EpsilonPlusFlat())
    with pytest.raises(InputError, match=says):
        lrp(x)


def test_numpy_targets_and_wrong_layers() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(2, 3)
    assert torch.equal(LRP(model)(x, target=np.int64(1)).relevance, LRP(model)(x, target=1).relevance)
    with pytest.raises(InputError, match="layers=3"):
        LRP(model)(x, layers=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as a tuple"):
        LRP(model, example_inputs=x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(1, 4\)"):
        LRP(model)(torch.rand(1, 4))


def test_checks_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))
    with pytest.raises(rp.errors.SoftmaxOutputError):
        LRP(model)
    assert isinstance(LRP(small(), checks=False)(torch.full((2, 3, 12, 12), float("nan"))).relevance, Tensor)


def test_models_without_values_or_relevance() -> None:
    with pytest.raises(CaptureError, match="'meta' device"):
        LRP(nn.Linear(3, 2, device="meta"), checks=False)(torch.rand(2, 3))

    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    with pytest.raises(InputError, match=r"No output .* ends in argmax at the model itself \(Decides\)\. .*PassRule"):
        LRP(Decides())(torch.rand(2, 3))
    with pytest.raises(InputError, match=r"takes a torch\.nn\.Module"):
        LRP(torch.relu)  # type: ignore[arg-type]


def test_a_model_that_casts_its_input_itself_takes_any_dtype() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.backbone(x.to(self.backbone.weight.dtype)))
            return self.head(h.to(self.head.weight.dtype))

    model, x = Mixed().eval(), torch.randn(3, 6)
    right = LRP(model)(x, target=1).relevance
    model.backbone.bfloat16()
    expl = LRP(model)(x, target=1)
    assert torch.allclose(expl.output, model(x), atol=1e-2)
    assert (expl.relevance - right).norm() < 0.05 * right.norm()


def test_single_modules_in_training_mode_are_named() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval(), torch.randn(2, 4)
    lrp = LRP(model)
    lrp(x)
    model[2].train()
    with pytest.warns(UserWarning, match="such as 2, are in training mode"):
        lrp(x)
    assert not model.training
