"""Shuffled models, and what explanations make of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from relprop.errors import InputError
from relprop.evaluation.randomization import (
    bottom_up,
    emprt,
    histogram_entropy,
    modules_from_below,
    randomized,
    rank_correlation,
)


class RMSNorm(nn.Module):
    """A norm without `reset_parameters`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x * self.weight / x.square().mean(-1, keepdim=True).sqrt()


class Transformer(nn.Module):
    """Parameters that no `reset_parameters` knows, one that is shared, and modules registered against their order."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.head = nn.Linear(8, 8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = RMSNorm(8)
        self.embed = nn.Linear(8, 8, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x):
        x = self.norm(self.embed(x) + self.positions)
        return self.head(self.attention(x, x, x)[0]).mean(1) * self.scale


@pytest.fixture
def model() -> Transformer:
    return Transformer().eval()


def test_every_parameter_is_shuffled_and_the_model_is_left_alone(model: Transformer):
    with torch.no_grad():
        model.attention.in_proj_bias.copy_(torch.rand(24))
        model.attention.out_proj.bias.copy_(torch.rand(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shuffled = randomized(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = {name for name, value in shuffled.named_parameters() if not torch.equal(value, before[name])}
    assert changed == dict(model.named_parameters()).keys()
    for name, value in shuffled.named_parameters():
        torch.testing.assert_close(value.flatten().sort().values, before[name].flatten().sort().values)
    assert shuffled.head.weight is shuffled.embed.weight, "what was shared stays shared"
    assert torch.equal(shuffled.scale, model.scale)


def test_a_module_is_shuffled_alike_whatever_else_is(model: Transformer):
    few, more = randomized(model, ["norm"]), randomized(model, ["norm", "attention"])
    assert torch.equal(few.norm.weight, more.norm.weight)
    assert torch.equal(few.attention.in_proj_weight, model.attention.in_proj_weight)
    assert not torch.equal(more.attention.in_proj_weight, model.attention.in_proj_weight)
    assert not torch.equal(randomized(model, seed=1).norm.weight, randomized(model).norm.weight)
    with pytest.raises(InputError, match="nowhere"):
        randomized(model, ["nowhere"])


def test_modules_come_in_the_order_in_which_they_run(model: Transformer):
    found = modules_from_below(model, lambda m: m(torch.rand(2, 5, 8)))
    assert found[:4] == ["", "embed", "norm", "attention"]
    assert sorted(found) == ["", "attention", "attention.out_proj", "embed", "head", "norm"]
    assert not model.head._forward_pre_hooks


def test_an_explanation_that_ignores_the_model_stays_and_the_gradient_goes(model: Transformer):
    x = torch.rand(3, 5, 8)
    modules = modules_from_below(model, lambda m: m(x))

    def gradient(m: nn.Module) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(m(leaf)[:, 0].sum(), leaf)[0]

    blind = bottom_up(lambda m: x, model, modules)
    torch.testing.assert_close(blind.similarity, torch.ones(len(modules), 3, dtype=torch.float64))
    aware = bottom_up(gradient, model, modules)
    assert aware.similarity.shape == (6, 3)
    assert (aware.mean.abs() < 0.7).all()
    assert (aware.similarity[0] < 0.999).all(), "the trained model's own 1 is not among them"


def test_rank_correlation_by_hand():
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 6)
    b = torch.tensor([[1.0, 4.0, 9.0, 16.0], [4, 3, 2, 1], [1, 3, 2, 4], [1, 1, 2, 2], [1, 2, 2, 4], [7, 7, 7, 7]])
    # 1 - 6 Σd² / (n (n² - 1)) = 1 - 6 * 2 / 60; 0.5, 0.5, 2.5, 2.5: 4 / √(5 * 4); 0, 1.5, 1.5, 3: 4.5 / √(5 * 4.5)
    assert rank_correlation(a, b).tolist() == pytest.approx([1, -1, 0.8, 4 / math.sqrt(20), 4.5 / math.sqrt(22.5), 0])


def test_entropy_of_histograms_by_hand():
    relevance = torch.tensor([[0.0, 1, 2, 3], [0, 0, 0, 4], [5, 5, 5, 5]])
    of_two = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert histogram_entropy(relevance, 4).tolist() == pytest.approx([math.log(4), of_two, 0])
    torch.testing.assert_close(histogram_entropy(1e3 * relevance, 4), histogram_entropy(relevance, 4))
    found = emprt(relevance[[1, 0, 2]], relevance[[0, 1, 0]], 4)
    assert found[:2].tolist() == pytest.approx([math.log(4) / of_two - 1, of_two / math.log(4) - 1])
    assert found[2].isnan()
