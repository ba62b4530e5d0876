"""The user's model is never touched: not by calls, not by exceptions, not in training mode."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.errors import RelpropError
from relprop.rules import ZeroRule


class Net(nn.Module):
    """Batch norm to fuse, dropout, an in-place activation, a residual addition, frozen and buffered parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.mix = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)
        self.register_buffer("offset", torch.randn(6))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        self.mix.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.relu(self.norm(self.conv(x))))
        h = F.relu_(h + self.mix(h))
        return self.head(h.mean((2, 3)) + self.offset)


def hooks_of(module: nn.Module) -> dict[str, list[int]]:
    return {
        attribute: [id(hook) for hook in value.values()]
        for attribute, value in vars(module).items()
        if attribute.endswith("hooks") and isinstance(value, dict)
    }


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a caller could notice, tensors by identity, version and value."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()},
        "tensors": {
            k: (id(v), v.data_ptr(), v._version, v.requires_grad, v.grad is None)
            for k, v in [*model.named_parameters(), *model.named_buffers()]
        },
        "modules": [(name, id(m), type(m), m.training) for name, m in model.named_modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "methods": [m.forward.__func__ for m in model.modules()],
        "hooks": [hooks_of(m) for m in model.modules()],
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert after["state"].keys() == before["state"].keys()
    for key, value in before["state"].items():
        assert torch.equal(after["state"][key], value), key  # bit by bit
        assert after["state"][key].dtype == value.dtype
    for part in ("tensors", "modules", "attributes", "methods", "hooks"):
        assert after[part] == before[part], part


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    net.conv.register_forward_hook(lambda module, args, output: None)
    net.register_forward_pre_hook(lambda module, args: None)
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_construction_and_calls_leave_the_model_alone(model, x):
    before, x_before = snapshot(model), x.clone()
    lrp = LRP(model, EpsilonPlusFlat())
    assert_untouched(model, before)
    lrp(x)
    lrp(x[:1], target=1, layers=True, audit=True)
    lrp.attribute(x, target=0)
    str(lrp)
    assert_untouched(model, before)
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_example_inputs_at_construction_leave_the_model_alone(model, x):
    before = snapshot(model)
    LRP(model, EpsilonPlusFlat(), example_inputs=(x,))
    assert_untouched(model, before)


def exploding_target(output: Tensor) -> Tensor:
    raise ZeroDivisionError


class ExplodingRule(ZeroRule):
    """Fails in the middle of the reverse pass."""

    def modify_weight(self, weight: Tensor) -> Tensor:
        raise ZeroDivisionError

    def modify_denominator(self, z: Tensor) -> Tensor:
        raise ZeroDivisionError


class ExplodingModel(Net):
    """Fails in its forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise ZeroDivisionError


@pytest.mark.parametrize("training", [False, True])
def test_an_exception_inside_leaves_the_model_alone(model, x, training):
    model.train(training)
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ZeroDivisionError):
            LRP(model)(x, target=exploding_target)
        assert_untouched(model, before)
        with pytest.raises(RelpropError):
            LRP(model)(x, target=99)
        assert_untouched(model, before)
        with pytest.raises(RelpropError):
            LRP(model)(x[:, :2])
    assert_untouched(model, before)


def test_an_exception_in_a_rule_leaves_the_model_alone(x):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()).eval()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        LRP(model, [ExplodingRule()] * 4, canonize=False)(x)
    assert_untouched(model, before)


@pytest.mark.parametrize("training", [False, True])
def test_an_exception_in_the_model_leaves_it_alone(x, training):
    torch.manual_seed(0)
    model = ExplodingModel().train(training)
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((RelpropError, ZeroDivisionError)):
            LRP(model)(x)
    assert_untouched(model, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_make_no_difference(model, x, mode):
    expected = LRP(model, EpsilonPlusFlat())(x, target=1).relevance
    before = snapshot(model)
    with mode():
        lrp = LRP(model, EpsilonPlusFlat())
        inside = lrp(x, target=1)
    assert_untouched(model, before)
    assert torch.equal(inside.relevance, expected)
    assert not inside.relevance.requires_grad
    assert torch.equal(lrp(x, target=1).relevance, expected)  # and again outside, with what was made inside


def test_an_input_that_requires_grad_is_not_in_the_graph_of_the_result(model, x):
    x.requires_grad_()
    LRP(model)(x)
    assert x.grad is None
    assert x.is_leaf


def test_two_analyzers_on_one_model_do_not_meet(model, x):
    first, second = LRP(model, EpsilonPlusFlat()), LRP(model)
    alone = first(x, target=1).relevance
    second(x, target=2)
    assert torch.equal(first(x, target=1).relevance, alone)
    assert torch.equal(LRP(copy.deepcopy(model), EpsilonPlusFlat())(x, target=1).relevance, alone)


# -------------------------------------------------------------------------------------------- training mode


def test_a_model_in_training_mode_is_explained_as_in_eval_mode(model, x):
    expected = LRP(model, EpsilonPlusFlat())(x, target=1)
    model.train()
    model.mix.eval()  # flags are restored one by one
    before = snapshot(model)
    lrp = LRP(model, EpsilonPlusFlat())
    with pytest.warns(UserWarning, match="explained as in evaluation mode"):
        expl = lrp(x, target=1)
    assert torch.equal(expl.relevance, expected.relevance)
    assert torch.equal(expl.output, expected.output)
    assert_untouched(model, before)
    assert model.training
    assert [name for name, m in model.named_modules() if not m.training] == ["mix"]
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        lrp(x, target=1)


def test_a_model_without_training_only_layers_needs_no_warning(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        LRP(model)(x)
    assert model.training


def test_the_original_model_still_trains_afterwards(model, x):
    LRP(model, EpsilonPlusFlat())(x)
    model.train()
    model(x).sum().backward()
    assert model.conv.weight.grad is not None
    with pytest.warns(UserWarning, match="training mode"):
        LRP(model)(x)
    assert model.training
