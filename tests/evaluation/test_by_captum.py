"""Captum's methods in `evaluate` and `contest`: the same targets, samples and inputs as ours, on a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.torchvision_shim import install
from torch import nn

from relprop import evaluate
from relprop.analyzers import GradCAM, InputTimesGradient, IntegratedGradients, Occlusion
from relprop.errors import InputError, MissingExtraError
from relprop.evaluation import Patches, contest
from relprop.evaluation import by_captum as module
from relprop.evaluation.by_captum import METHODS, ByCaptum
from relprop.evaluation.groups import Features
from relprop.targets import Contrast, Logit, PerSample


@pytest.fixture(autouse=True)
def captum() -> None:
    install()
    pytest.importorskip("captum")


class Small(nn.Module):
    """A convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(144, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).flatten(1))


class Two(nn.Module):
    """Of two inputs by name, and a part that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a, b, *, times=1):
        return torch.tanh(self.left(a) * self.right(b)) * times


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 2, 8, 8)


GROUPS = Patches(size=2)


@pytest.mark.parametrize("target", [1, torch.tensor([0, 1, 2, 1]), Contrast(Logit(0), Logit(2))], ids=str)
def test_the_same_as_ours_whatever_the_target(x: torch.Tensor, target: Any):
    model = Small()
    ours = evaluate({"ours": InputTimesGradient(model)}, x, target, ["srg"], steps=4)
    theirs = evaluate({"theirs": ByCaptum("InputXGradient", GROUPS)}, x, target, ["srg"], steps=4, model=model)
    torch.testing.assert_close(theirs.scores["theirs"]["srg"], ours.scores["ours"]["srg"])


def test_methods_that_repeat_samples_ask_each_for_its_own_target(x: torch.Tensor):
    model, target = Small(), PerSample(torch.tensor([0, 1, 2, 1]))
    pairs = {
        "InputXGradient": InputTimesGradient(model),
        "IntegratedGradients": IntegratedGradients(model, steps=200),
        "FeatureAblation": Occlusion(model, patch=2),
        "LayerGradCam": GradCAM(model, "conv"),
    }
    for name, ours in pairs.items():
        theirs = ByCaptum(name, GROUPS)(model, x, target)
        expected = ours(x, target=target).relevance
        if name == "FeatureAblation":  # it says of each entry what its whole group is worth
            expected = expected * 8
        close = 1e-3 if name == "IntegratedGradients" else 1e-6  # their points of the integral are others
        torch.testing.assert_close(theirs, expected, atol=close, rtol=1e-4)


def test_all_methods_run_and_the_slow_ones_are_left_out(x: torch.Tensor):
    model = Small()
    found = contest(model, x, 1, ["captum"], groups=GROUPS, fill=0.0, steps=4)
    assert not found.failed
    ran = {name.removeprefix("captum:") for name in (*found.ranking(), *found.same)} - {"random", "centre"}
    assert ran == set(METHODS) - set(module.SLOW)
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    linear = nn.Linear(4, 1, bias=False)
    shapley = ByCaptum("ShapleyValueSampling", Features())(linear, row, Logit(0))
    torch.testing.assert_close(shapley, row * linear.weight.detach())
    for name in ("KernelShap", "Lime"):
        assert ByCaptum(name, Features())(linear, row, Logit(0)).shape == row.shape


def test_inputs_by_name_of_which_the_second_is_asked_about():
    torch.manual_seed(0)
    model, b = Two(), torch.rand(3, 5)
    inputs = {"a": torch.rand(3, 4), "b": b, "times": 2}
    found = contest(model, inputs, 1, ["captum:InputXGradient", "input-times-gradient"], changed="b")
    assert not found.failed
    assert found.same == {"input-times-gradient": "captum:InputXGradient"}
    with pytest.raises(InputError, match="'times' has none"):
        ByCaptum("Saliency", Features(), key="times")(model, inputs, Logit(0))


def test_the_model_is_as_it_was_where_a_method_fails(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    model = Small().eval()  # of a model in training mode the evaluation makes a copy anyway

    def hooks_and_fails(attr, asked):
        asked.amount.model.relu.register_forward_hook(lambda *_: None)
        raise RuntimeError("left a hook behind")

    monkeypatch.setitem(module.METHODS, "Saliency", hooks_and_fails)  # type: ignore[arg-type]
    found = contest(model, x, 1, ["captum:Saliency", "gradient"], steps=2)
    assert found.failed == {"captum:Saliency": "RuntimeError: left a hook behind"}
    assert not model.relu._forward_hooks
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_draws_repeat_and_leave_the_callers_numbers_alone(x: torch.Tensor):
    model = Small()
    torch.manual_seed(5)
    np.random.seed(5)
    expected, of_numpy = torch.rand(3), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    one = ByCaptum("GradientShap", GROUPS)(model, x, Logit(0))
    assert torch.equal(torch.rand(3), expected)
    assert np.random.rand() == of_numpy
    other, third = (ByCaptum("GradientShap", GROUPS, seed=s)(model, x, Logit(0)) for s in (0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_where_captum_is_missing(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match="pip install captum"):
        ByCaptum("Saliency", GROUPS)(Small(), x, Logit(0))
    found = contest(Small(), x, 0, ["captum:Saliency", "zero"], steps=2)
    assert found.failed["captum:Saliency"].startswith("Captum's methods need captum")
