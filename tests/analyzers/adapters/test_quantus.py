"""Analyzers in the form of Quantus, called by Quantus itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.compare import assert_close
from support.networks import cnn
from support.torchvision_shim import install
from torch import nn

from relprop import LRP
from relprop.analyzers import Gradient, NoiseAugmentation
from relprop.analyzers.adapters import quantus_explain_func
from relprop.composites import EpsilonPlus
from relprop.errors import InputError

X = np.random.default_rng(3).random((4, 2, 8, 8), dtype=np.float32)
CLASSES = np.array([0, 2, 1, 1])


@pytest.fixture
def quantus() -> Any:
    install()  # Quantus imports Captum and transformers where it finds them
    return pytest.importorskip("quantus")


def net() -> nn.Module:
    torch.manual_seed(5)
    return cnn().eval()


def expected(model: nn.Module) -> torch.Tensor:
    relevance = LRP(model, EpsilonPlus())(torch.from_numpy(X), target=torch.from_numpy(CLASSES)).relevance
    assert isinstance(relevance, torch.Tensor)
    return relevance


def test_numbers_in_and_numbers_out() -> None:
    model = net()
    found = quantus_explain_func(model, X, CLASSES, composite=EpsilonPlus())
    assert isinstance(found, np.ndarray)
    assert_close(torch.from_numpy(found), expected(model), rtol=1e-6)
    tensors = quantus_explain_func(model, torch.from_numpy(X), torch.from_numpy(CLASSES), composite=EpsilonPlus())
    assert np.array_equal(tensors, found)
    doubles = quantus_explain_func(model, X.astype(np.float64), CLASSES[:, None], composite=EpsilonPlus())
    assert np.array_equal(doubles, found)


def test_any_analyzer_and_options_of_the_call() -> None:
    model, x, classes = net(), torch.from_numpy(X), torch.from_numpy(CLASSES)
    found = quantus_explain_func(model, X, CLASSES, analyzer=Gradient)
    assert_close(torch.from_numpy(found), Gradient(model)(x, target=classes).relevance, rtol=1e-6)
    found = quantus_explain_func(
        model, X, CLASSES, composite=EpsilonPlus(), call={"conditions": {"3": torch.zeros(4, 1, 1)}}
    )
    assert not found.any()
    with pytest.raises(InputError, match="give what makes it"):
        quantus_explain_func(model, X, CLASSES, analyzer=LRP(model))  # type: ignore[arg-type]


def test_a_metric_calls_it(quantus: Any) -> None:
    """Complexity, the entropy of relevance by its magnitude, written out."""
    model = net()
    metric = quantus.Complexity(disable_warnings=True, normalise=False, abs=True)
    scores = metric(
        model=model, x_batch=X, y_batch=CLASSES, a_batch=None, device="cpu",
        explain_func=quantus_explain_func, explain_func_kwargs={"composite": EpsilonPlus()},
    )  # fmt: skip
    shares = expected(model).abs()
    p = (shares / shares.sum((1, 2, 3), keepdim=True)).flatten(1).double()
    entropy = -(p * torch.where(p > 0, p, 1).log()).sum(1)
    assert_close(torch.tensor(scores), entropy, rtol=1e-5)


def test_a_metric_that_changes_the_model(quantus: Any) -> None:
    """Relevance follows parameters that are drawn anew, layer by layer, so its rank correlation with the old falls."""
    metric = quantus.MPRT(disable_warnings=True, display_progressbar=False, seed=1, return_last_correlation=True)

    def explained(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> Any:
        around = lambda net: NoiseAugmentation(LRP(net, EpsilonPlus()), samples=2, noise=0.05)  # noqa: E731
        return quantus_explain_func(model, inputs, targets, analyzer=around, **options)

    scores = metric(model=net(), x_batch=X, y_batch=CLASSES, a_batch=None, explain_func=explained, device="cpu")
    assert len(scores) == len(X)
    assert max(scores) < 0.9
