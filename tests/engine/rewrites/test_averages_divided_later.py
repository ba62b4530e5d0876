"""Averages by exponentials that are divided after they were summed are those of a softmax."""

from __future__ import annotations

import pytest
import torch
from support.exponentials import (
    COMPOSITES,
    Averaged,
    sequences,
    stable,
)
from torch import Tensor

from relprop import LRP
from relprop.composites import AttnLRP


@pytest.fixture
def x() -> Tensor:
    return sequences()


def by_columns(scores: Tensor, values: Tensor) -> Tensor:
    """Each column of the scores weighs all values: (B, H, H), of which what is on the diagonal counts."""
    turned = scores.transpose(1, 2)
    terms = (turned - turned.amax(-1, keepdim=True)).exp()
    return (terms @ values / terms.sum(-1, keepdim=True)).diagonal(dim1=1, dim2=2)


def of_rows(scores: Tensor, values: Tensor) -> Tensor:
    terms = scores[..., 0].exp()
    return (terms.unsqueeze(-1) * values).sum(1) / terms.sum(1, keepdim=True)


def average(scores: Tensor, values: Tensor) -> Tensor:
    return (scores.softmax(1) * values).sum(1)


DIVIDED_LATER = {
    "sums": (lambda s, v: (stable(s) * v).sum(1) / stable(s).sum(1), average),
    "sums, kept": (lambda s, v: ((v * s.exp()).sum(1, True) / s.exp().sum(1, True))[:, 0], average),
    "sums, tiny": (lambda s, v: (lambda p: (p * v).sum(1) / (p.sum(1) + 1e-30))(stable(s)), average),
    "product": (by_columns, lambda s, v: (s.softmax(1).transpose(1, 2) @ v).diagonal(dim1=1, dim2=2)),
    "rows": (of_rows, lambda s, v: (s[..., :1].softmax(1) * v).sum(1)),
}


@pytest.mark.parametrize("composite", ["attnlrp", "cp", "flat"])
@pytest.mark.parametrize("form", DIVIDED_LATER)
def test_an_average_that_is_divided_after_it_was_summed(form, composite, x):
    found, expected = (
        LRP(Averaged(by), COMPOSITES[composite], normalize_output=False)(x, target=1, audit=True)
        for by in DIVIDED_LATER[form]
    )
    assert found.ledger.imbalance < 1e-9
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-6, atol=1e-9)


def halves(s: Tensor, v: Tensor) -> Tensor:
    """Divided by the sum of half of the terms."""
    return (s.exp() * v).sum(1) / s[:, ::2].exp().sum(1)


def across(s: Tensor, v: Tensor) -> Tensor:
    """Divided by sums over another dimension, of the same size."""
    s, v = s[:, :3], v[:, :3]
    return (s.exp() * v).sum(1) / s.exp().sum(2)


def of_columns(s: Tensor, v: Tensor) -> Tensor:
    """As many rows as columns, and it is columns that are weighed."""
    terms = s[:, :3, 0].exp()
    return (terms.unsqueeze(1) * v[:, :3]).sum(1) / terms.sum(1, keepdim=True)


@pytest.mark.parametrize("by", [halves, across, of_columns])
def test_what_is_divided_by_another_sum_is_no_average(by, x):
    model = Averaged(by)
    expl = LRP(model, AttnLRP(), normalize_output=False)(x, target=1, audit=True)
    assert "softmax" not in expl.ledger.sinks
    torch.testing.assert_close(expl.output, model(x))
