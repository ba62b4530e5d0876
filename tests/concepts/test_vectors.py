"""Concept vectors: found where they were planted, and taken out."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import nn

from relprop import LRP
from relprop.concepts import Directions, ProjectOut, pattern_vector
from relprop.errors import InputError

RNG = torch.Generator().manual_seed(0)
CONCEPT = nn.functional.normalize(torch.randn(6, dtype=torch.float64, generator=RNG), dim=0)
HAS = torch.arange(400) % 4 == 0


def activations() -> torch.Tensor:
    """Noise, another factor that goes with the concept half of the time, and the concept."""
    a = 0.1 * torch.randn(400, 6, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return a + 2 * HAS[:, None, None, None] * CONCEPT[:, None, None]


def test_the_pattern_is_the_planted_direction() -> None:
    v, clean = pattern_vector(activations(), HAS)
    assert float(v @ CONCEPT) > 0.999
    assert float(v.norm()) == pytest.approx(1)
    assert_close(clean, activations().mean((2, 3))[~HAS].mean(0), rtol=1e-12)


def test_projection_takes_the_concept_out_and_nothing_else() -> None:
    a = activations()
    v, clean = pattern_vector(a, HAS)
    found = ProjectOut(v, clean)(a)
    along = torch.einsum("bchw,c->bhw", found, v)
    assert_close(along, (v @ clean).expand_as(along), rtol=1e-9)
    rest = torch.eye(6, dtype=torch.float64) - torch.outer(v, v)
    assert_close(torch.einsum("bchw,cd->bdhw", found, rest), torch.einsum("bchw,cd->bdhw", a, rest), rtol=1e-9)
    again = pattern_vector(found + 1e-3 * torch.randn(a.shape, dtype=a.dtype, generator=RNG), HAS)[0]
    assert abs(float(again @ CONCEPT)) < 0.5


def test_relevance_of_the_direction_vanishes_behind_the_projection() -> None:
    a = activations()[:8]
    v, clean = pattern_vector(activations(), HAS)
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)).double()
    before, after = (LRP(nn.Sequential(nn.Identity(), m, head)) for m in (nn.Identity(), ProjectOut(v, 0 * clean)))
    along = [torch.einsum("bchw,c->b", lrp(a, target=0).relevance / a, v).abs().mean() for lrp in (before, after)]
    assert float(along[1]) < 1e-6 * float(along[0])
    assert Directions(v[None]).count(a.shape) == 1


def test_refusals() -> None:
    with pytest.raises(InputError, match="400 of 400"):
        pattern_vector(activations(), torch.ones(400, dtype=torch.bool))
    with pytest.raises(InputError, match="are the same"):
        pattern_vector(torch.ones(4, 2), torch.tensor([True, False, True, False]))
