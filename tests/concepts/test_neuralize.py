"""Clusters and outliers: written-out formulas, and conservation."""

from __future__ import annotations

import math

import pytest
import torch
from support.compare import assert_close
from torch import nn

from relprop import LRP, neuralize
from relprop.errors import InputError
from relprop.rules import ZeroRule

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
POINTS = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("c", range(5))
def test_evidence_of_a_cluster(c: int) -> None:
    evidence = neuralize.KMeansEvidence(POINTS, beta=0.7)
    expl = LRP(evidence, ZeroRule(stabilizer=0.0), normalize_output=False)(X, target=c, audit=True)
    for b, x in enumerate(X):
        others = [k for k in range(5) if k != c]
        h = [float((x - POINTS[k]).square().sum() - (x - POINTS[c]).square().sum()) for k in others]
        f = -math.log(sum(math.exp(-0.7 * v) for v in h) / 4) / 0.7
        assert float(expl.output[b, c]) == pytest.approx(f, abs=1e-12)
        weights = [math.exp(-0.7 * v) for v in h]
        expected = torch.zeros(4, dtype=torch.float64)
        for k, v, weight in zip(others, h, weights, strict=True):
            w, middle = 2 * (POINTS[c] - POINTS[k]), (POINTS[c] + POINTS[k]) / 2
            expected += w * (x - middle) / v * f * weight / sum(weights)
        assert_close(expl.relevance[b], expected, rtol=1e-11)
    assert_close(expl.relevance.sum(1), expl.output[:, c], rtol=1e-11)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-9


def test_score_of_an_outlier() -> None:
    score = neuralize.OutlierScore(POINTS, gamma=0.4)
    expl = LRP(score, ZeroRule(stabilizer=0.0), normalize_output=False)(X)
    for b, x in enumerate(X):
        d = (x - POINTS).square().sum(1)
        o = -torch.exp(-0.4 * d).mean().log() / 0.4
        share = torch.softmax(-0.4 * d, 0)
        expected = ((x - POINTS).square() / d[:, None] * (o * share)[:, None]).sum(0)
        assert_close(expl.output[b, 0], o, rtol=1e-12)
        assert_close(expl.relevance[b], expected, rtol=1e-11)
    assert_close(expl.relevance.sum(1), expl.output[:, 0], rtol=1e-11)


def test_behind_a_network() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)).double()
    model = nn.Sequential(body, neuralize.OutlierScore(POINTS))
    expl = LRP(model, normalize_output=False)(X, audit=True)
    assert_close(expl.relevance.sum(1), expl.output[:, 0], rtol=1e-5)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-9


def test_calibration() -> None:
    evidence = neuralize.KMeansEvidence(POINTS).calibrate(X)
    d = (X[:, None] - POINTS).square().sum(-1).sort(1).values
    assert float(evidence.softmin.beta) == pytest.approx(float(1 / (d[:, 1] - d[:, 0]).mean()), rel=1e-6)
    score = neuralize.OutlierScore(POINTS).calibrate(X, perplexity=0.6)
    p = torch.softmax(-score.softmin.beta * (X[:, None] - POINTS).square().sum(-1), 1)
    assert float((-(p * p.log()).sum(1)).exp().mean()) == pytest.approx(3, rel=1e-6)


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least two"):
        neuralize.KMeansEvidence(torch.ones(1, 2))
    with pytest.raises(InputError, match="at least one"):
        neuralize.OutlierScore(torch.ones(0, 2))
    with pytest.raises(InputError, match="lies between"):
        neuralize.OutlierScore(POINTS).calibrate(X, perplexity=0.1)


def head(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    first, last = nn.Linear(4, 7).double(), nn.Linear(7, 1).double()
    last.weight.data.abs_()
    return first, last


@pytest.mark.parametrize("y", [-0.1, 0.4, 1.5])
def test_three_paths_say_how_far_it_is_from_the_reference(y: float) -> None:
    first, last = head()
    last.bias.data.fill_(-0.3)
    reference = neuralize.ReferenceHead(first, last, y)
    assert float(reference.missed(X).abs().max()) < 1e-12
    assert_close(reference(X)[:, 0], last(first(X).relu())[:, 0] - y, rtol=1e-12, atol=1e-12)


def test_relevance_of_the_reference_form() -> None:
    """Where all units are on and above their reference: `R_i = Σ_j w_j V_ji h_i`; denominators cancel."""
    first, last = head(1)
    first.weight.data.abs_()
    first.bias.data.fill_(2.0)
    h = X.abs()
    y = float(last(first(h).relu()).detach().min()) * 0.9
    reference = neuralize.ReferenceHead(first, last, y)
    expl = LRP(reference, ZeroRule(stabilizer=0.0), normalize_output=False)(h, audit=True)
    level = reference.flooding(first(h).relu())
    assert bool((first(h) > level).all())
    assert_close(expl.relevance, (last.weight @ first.weight) * h, rtol=1e-9)
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-9
    assert expl.ledger.sinks["module"] == pytest.approx(-float((level @ last.weight.T).detach().sum()), rel=1e-9)


def test_a_reference_that_no_level_reaches_is_told() -> None:
    first, last = head()
    last.bias.data.fill_(1.0)
    assert float(neuralize.ReferenceHead(first, last, 0.5).missed(X).min()) == pytest.approx(0.5)
    with pytest.raises(InputError, match="give one number"):
        neuralize.ReferenceHead(first, nn.Linear(7, 2), 0.0)
