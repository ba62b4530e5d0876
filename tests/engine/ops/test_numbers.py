"""Half precision, devices, zeros: what numbers do to steps."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from support.networks import small
from torch import nn

import relprop as rp
from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.rules import (
    EpsilonRule,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3])
def test_other_dtypes(dtype: torch.dtype, batch: int) -> None:
    x = torch.rand(batch, 3, 12, 12)
    expected = LRP(small(), EpsilonPlusFlat())(x, target=1).relevance
    with torch.no_grad():
        expl = LRP(small().to(dtype), EpsilonPlusFlat())(x.to(dtype), target=1, audit=True)
    assert expl.relevance.dtype == expl.output.dtype == dtype
    error = (expl.relevance.float() - expected).norm() / expected.norm()
    assert error < {torch.float64: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert expl.ledger is not None  # half precision rounds what the layers computed, and that shows in the books
    assert expl.ledger.imbalance < {torch.float64: 1e-10, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    x = torch.rand(3, 3, 12, 12)
    expected = LRP(small(), EpsilonPlusFlat())(x, target=1).relevance
    relevance = LRP(small().cuda(), EpsilonPlusFlat())(x.cuda(), target=1).relevance
    assert relevance.is_cuda
    assert_each_close(relevance.cpu(), expected, rtol=1e-3, atol=1e-6)


def test_zero_input_and_zero_weights_stay_finite() -> None:
    model = small()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for rules in (EpsilonPlusFlat(), rp.composites.EpsilonGammaBox(-1.0, 1.0), rp.composites.EpsilonAlpha2Beta1()):
            relevance = LRP(model.to(dtype), rules)(torch.zeros(2, 3, 12, 12, dtype=dtype)).relevance
            assert torch.isfinite(relevance).all()
        model.to(torch.float32)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.isfinite(LRP(model, EpsilonRule())(torch.rand(2, 3, 12, 12)).relevance).all()
    assert torch.isfinite(LRP(model, EpsilonPlusFlat())(torch.rand(2, 3, 12, 12)).relevance).all()
