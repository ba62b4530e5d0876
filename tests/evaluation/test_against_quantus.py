"""The same numbers as Quantus, where both have a metric, and why others differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.torchvision_shim import install
from torch import nn

from relprop.evaluation.complexity import entropy, gini
from relprop.evaluation.localization import mass_accuracy, rank_accuracy


@pytest.fixture
def quantus() -> Any:
    install()  # Quantus imports Captum and transformers where it finds them
    return pytest.importorskip("quantus")


def scores(metric: Any, relevance: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
    x = np.zeros((len(relevance), 1, 6, 6), dtype=np.float32)
    given: dict[str, Any] = {"a_batch": relevance[:, None].numpy().copy()}
    if masks is not None:
        given["s_batch"] = masks[:, None].numpy()
    found = metric(model=nn.Flatten(), x_batch=x, y_batch=np.zeros(len(x), dtype=int), **given)
    return torch.tensor(np.array(found, dtype=np.float64))


@pytest.mark.parametrize(("name", "own"), [("Complexity", entropy), ("Sparseness", gini)])
def test_complexity(quantus: Any, name: str, own: Any):
    relevance = torch.randn(4, 6, 6)
    theirs = scores(getattr(quantus, name)(disable_warnings=True), relevance)
    torch.testing.assert_close(own(relevance), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "own"), [("RelevanceMassAccuracy", mass_accuracy), ("RelevanceRankAccuracy", rank_accuracy)]
)
def test_localization_of_positive_relevance(quantus: Any, name: str, own: Any):
    """Signed relevance differs: there Quantus divides by a sum that may be near 0; ours takes the positive part."""
    relevance, masks = torch.rand(4, 6, 6), torch.zeros(4, 6, 6).bool()
    masks[:, 1:4, 2:5] = True
    theirs = scores(getattr(quantus, name)(abs=False, disable_warnings=True), relevance, masks)
    torch.testing.assert_close(own(relevance, masks).double(), theirs, atol=1e-5, rtol=1e-5)
    signed = torch.randn(4, 6, 6)
    assert ((own(signed, masks) >= 0) & (own(signed, masks) <= 1)).all()
