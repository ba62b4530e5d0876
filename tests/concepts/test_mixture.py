"""Gaussian mixtures, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.compare import assert_close
from torch import Tensor

from relprop.concepts.mixture import Mixture
from relprop.errors import InputError


def clusters(n: int = 40) -> Tensor:
    """Three that lie far apart, of different sizes and widths."""
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [9, 0, 1], [0, -9, 2]], dtype=torch.float64)
    widths = (0.5, 1.0, 0.7)
    sizes = (n, 2 * n, n)
    parts = [
        c + w * torch.randn(m, 3, dtype=torch.float64, generator=g)
        for c, w, m in zip(centres, widths, sizes, strict=True)
    ]
    return torch.cat(parts)


def test_one_component_is_mean_and_variance() -> None:
    x = clusters()
    found = Mixture.fit(x, 1)
    assert_close(found.means[0], x.mean(0), rtol=1e-12)
    assert_close(found.variances[0], x.var(0, unbiased=False), rtol=1e-12)
    normal = torch.distributions.Normal(x.mean(0), x.std(0, unbiased=False))
    assert_close(found.log_density(x), normal.log_prob(x).sum(1), rtol=1e-12)


def test_clusters_are_found_with_their_sizes() -> None:
    x = clusters()
    found = Mixture.fit(x, 3)
    order = found.weights.argsort(descending=True)
    assert_close(found.weights.sort(descending=True).values, torch.tensor([0.5, 0.25, 0.25]).double(), rtol=1e-6)
    assert_close(found.means[order[0]], x[40:120].mean(0), rtol=1e-6)
    parts = found.nearest(x).split([40, 80, 40])
    assert [len(part.unique()) for part in parts] == [1, 1, 1]
    assert len({int(part[0]) for part in parts}) == 3


def test_the_density_is_that_of_the_sum() -> None:
    x = clusters()[::9]
    found = Mixture.fit(clusters(), 3)
    written_out = torch.zeros(len(x), dtype=torch.float64)
    for w, mean, v in zip(found.weights, found.means, found.variances, strict=True):
        covariance = torch.diag(v)
        written_out += w * torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).exp()
    assert_close(found.log_density(x), written_out.log(), rtol=1e-10)


def test_more_steps_never_fit_worse() -> None:
    x = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    fits = [float(Mixture.fit(x, 3, restarts=1, steps=s, floor=1e-9).log_density(x).mean()) for s in (1, 2, 4, 8, 40)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(fits)), fits
    assert fits[-1] > fits[0] + 1e-3
    one = float(Mixture.fit(x, 3, restarts=1).log_density(x).mean())
    assert float(Mixture.fit(x, 3, restarts=6).log_density(x).mean()) >= one


def test_more_features_than_samples() -> None:
    """And one that never varies."""
    x = torch.randn(12, 50, generator=torch.Generator().manual_seed(1))
    x[:, 7] = 0.25
    found = Mixture.fit(x, 2)
    assert found.log_density(x).isfinite().all()
    assert float(found.variances.min()) == pytest.approx(1e-2 * float(x.double().var(0, unbiased=False).mean()))


def test_the_same_seed_is_the_same_mixture() -> None:
    x = clusters()
    assert torch.equal(Mixture.fit(x, 4, seed=3).means, Mixture.fit(x, 4, seed=3).means)


def test_refusals() -> None:
    for x, n in ((torch.rand(2, 3), 3), (torch.ones(5, 3), 2), (torch.rand(0, 3), 1)):
        with pytest.raises(InputError, match=f"too few for {n} prototypes"):
            Mixture.fit(x, n)
