"""Errors that a person can use: one short message with the next step."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from relprop import LRP
from relprop.analyzers import Gradient
from relprop.composites import EpsilonPlus
from relprop.errors import CompositeError, InputError
from relprop.rules import EpsilonRule

LONGEST = 340  # characters


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([x, y], 1))


def colours() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()


X = torch.rand(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: LRP(colours())(X[0]), r"The batch dimension is missing: with x\[None\]"),
        (lambda: LRP(colours())(X.movedim(1, -1)), r"Channels come before rows and columns: x\.movedim\(-1, -3\)"),
        (lambda: LRP(colours())(X[:, :1]), r"takes colours and the picture is grey: x\.expand\(-1, 3, -1, -1\)"),
        (lambda: LRP(grey())(X), r"takes grey pictures: x\.mean\(1, keepdim=True\)"),
        (
            lambda: LRP(colours())(X.double()),
            r"dtype torch\.float64, the model torch\.float32.*x\.to\(torch\.float32\)",
        ),
        (lambda: LRP(colours())(X.numpy()), r"numpy array of shape \(1, 3, 8, 8\).*torch\.from_numpy\(x\)\.$"),
        (lambda: LRP(colours())(X.double().numpy()), r"torch\.from_numpy\(x\)\.float\(\)"),
        (lambda: LRP(colours())(np.zeros((8, 8, 3), np.uint8)), r"Preprocess\(\)\(PIL\.Image\.fromarray\(x\)\)"),
        (lambda: LRP(colours())(Image.new("RGB", (8, 8))), r"is a picture, not a tensor.*Preprocess\(\)\(x\)"),
        (lambda: LRP(nn.Linear(2, 1))([[1.0, 2.0]]), r"a list of numbers, not a tensor. Give torch\.tensor\(x\)"),
        (
            lambda: LRP(nn.Linear(2, 1))(SimpleNamespace(x=torch.zeros(1, 2))),
            r"is a SimpleNamespace, .* not seen as inputs: x\. Explain a module whose forward takes these tensors",
        ),
        (
            lambda: LRP(nn.Linear(2, 1))(torch.eye(2).to_sparse()),
            r"is sparse \(torch.sparse_coo\)\. Give it as x.to_dense\(\)",
        ),
        (
            lambda: LRP(nn.Linear(2, 1))(torch.nested.nested_tensor([torch.ones(1, 2), torch.ones(3, 2)])),
            r"is nested\. Give it as x.to_padded_tensor\(0.0\)",
        ),
        (lambda: LRP(nn.Embedding(9, 2))("a film"), r"is text, not a tensor.*tokenizer"),
        (lambda: LRP(nn.Sequential(nn.Embedding(9, 2)))(torch.rand(1, 3)), r"give token ids, torch\.int64"),
        (lambda: LRP(Two())(torch.rand(1, 2)), r"forward takes \(x, y\): give all of them"),
        (lambda: LRP(Two())(torch.rand(1, 2), np.zeros((1, 2))), r"One input is a numpy array"),
        (
            lambda: LRP(colours())(X, targets=1),
            r"did you mean target=\? For several targets.*each\(x, targets=\[...\]\)",
        ),
        (lambda: LRP(colours())(X, layer=True), r"no input 'layer'.*did you mean layers=\?"),
        (lambda: LRP(colours())(X, mask=True), r"Inputs are input, options activations, audit"),
        (lambda: Gradient(colours())(X, targets=1), r"did you mean target=\?"),
        (lambda: LRP(colours()).each(X, target=1), r"takes several targets, targets=\[1, ...\]"),
        (lambda: LRP(colours()).each(X, targets=1), r"takes targets in a list: targets=\[1\]"),
        (lambda: LRP(Two), r"Two is a class of modules: give one of them, Two\(...\)"),
    ],
)
def test_a_slip_has_one_short_message_with_the_next_step(ask: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        ask()
    assert len(str(raised.value)) <= LONGEST
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (EpsilonPlus, r"call it: EpsilonPlus\(\)"),
        (EpsilonRule, r"such as EpsilonRule\(\)"),
        ("EpsilonPlus", "from Python"),
    ],
)
def test_what_makes_a_composite_is_not_one(given: Any, said: str) -> None:
    with pytest.raises(CompositeError, match=said):
        LRP(colours(), given)


def test_a_hint_is_given_only_where_it_helps() -> None:
    for x in (torch.rand(1, 3, 9, 9), torch.rand(1, 5, 8, 8), torch.rand(3, 9, 9)):
        with pytest.raises(InputError) as raised:
            LRP(colours())(x)
        assert "missing" not in str(raised.value)
        assert "Channels" not in str(raised.value)


def test_inputs_of_a_model_that_takes_anything_are_its_own() -> None:
    class Anything(nn.Module):
        def forward(self, x: torch.Tensor, **more: float) -> torch.Tensor:
            return x * more.get("targets", 1.0)

    assert torch.equal(LRP(Anything())(torch.ones(1, 2), targets=2.0, target=0).relevance, torch.tensor([[1.0, 0.0]]))
