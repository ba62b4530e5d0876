"""Attention: what its books say is made anew from scores and weights, and what each mode gives whom."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP
from relprop.engine.ops import attention
from relprop.engine.ops.attention import AttentionStep
from relprop.errors import RuleError
from relprop.rules import SoftmaxRule

B, H, T, D = 2, 4, 5, 3


class Attention(nn.Module):
    """Fused or written out, for all that `scaled_dot_product_attention` takes."""

    def __init__(
        self, eager: bool = False, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
    ):
        super().__init__()
        self.eager, self.causal, self.scale = eager, causal, scale
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.eager:
            grouped = k.shape[1] != q.shape[1]
            z = F.scaled_dot_product_attention(
                q, k, v, self.mask, is_causal=self.causal, scale=self.scale, enable_gqa=grouped
            )
            return z.flatten(1)
        k, v = (t.repeat_interleave(H // t.shape[1], 1) for t in (k, v))
        scores = q @ k.mT * (self.scale or D**-0.5)
        if self.causal:
            scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -torch.inf) if self.mask.dtype == torch.bool else scores + self.mask
        return (scores.softmax(-1) @ v).flatten(1)


ALLOWED = torch.tensor([[1, 1, 0, 0, 1]] * T, dtype=torch.bool)
FORMS = {
    "plain": {},
    "causal": {"causal": True},
    "boolean": {"mask": ALLOWED},
    "additive": {"mask": torch.linspace(-2, 1, T * T, dtype=torch.float64).reshape(T, T)},
    "scale": {"scale": 0.7},
}


def inputs(heads: int = H) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(B, h, T, D, dtype=torch.float64) for h in (H, heads, heads))


@cache
def model_of(eager: bool, form: str) -> nn.Module:
    """One model for all modes, so that they share what was captured of it."""
    return Attention(eager, **FORMS[form])


@pytest.mark.parametrize("heads", [H, 2])
@pytest.mark.parametrize("mode", ["attnlrp", "cp", "half"])
@pytest.mark.parametrize("form", FORMS)
def test_books_balance_and_fused_equals_eager(form: str, mode: str, heads: int) -> None:
    q, k, v = inputs(heads)
    fused, eager = (
        LRP(model_of(eager, form), AttnLRP(attention=mode), normalize_output=True)(q, k, v, target=7, audit=True)
        for eager in (False, True)
    )
    assert fused.ledger.imbalance < 1e-9
    assert eager.ledger.imbalance < 1e-9
    for a, b in zip(fused.relevance, eager.relevance, strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-12, what=form)
    kept = sum(fused.ledger.sinks.values())
    assert sum(float(r.sum()) for r in fused.relevance) + kept == pytest.approx(B, rel=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_books_of_long_sequences_are_made_in_blocks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of queries at a time, of five; the weights of a block are those of all."""
    lrp, sizes = LRP(Attention(**FORMS[form]), AttnLRP(), normalize_output=True), list[int]()
    whole = lrp(*inputs(), target=7, audit=True).ledger.sinks
    weights = attention.attention_weights

    def watched(q: Tensor, *given: object, **options: object) -> object:
        sizes.append(q.shape[-2])
        return weights(q, *given, **options)

    monkeypatch.setattr(attention, "attention_weights", watched)
    monkeypatch.setattr(attention, "MOST_SCORES", 2 * B * H * T + 1)
    found = lrp(*inputs(), target=7, audit=True).ledger.sinks
    assert sizes == [2, 2, 1]
    assert found["softmax"] == pytest.approx(whole["softmax"], rel=1e-12)


def test_half_gives_values_half_of_what_cp_gives_them() -> None:
    half, cp = (
        LRP(Attention(), AttnLRP(attention=m), normalize_output=True)(*inputs(), target=7, audit=True)
        for m in ("half", "cp")
    )
    assert_close(half.relevance[2], cp.relevance[2] / 2, rtol=1e-12)
    assert not half.relevance[0].any()
    assert not half.relevance[1].any()
    assert half.ledger.sinks["softmax"] == pytest.approx(B / 2)
    assert "softmax" not in cp.ledger.sinks


def test_the_books_see_a_wrong_adjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink is no residual: where queries get too much, the account does not balance."""
    monkeypatch.setattr(AttentionStep, "_factor", lambda self, source: 0.5)
    assert LRP(Attention(), AttnLRP())(*inputs(), target=7, audit=True).ledger.imbalance > 1e-3


class RelativePositions(nn.Module):
    """An additive mask that depends on the queries, as in SAM; fused or written out."""

    def __init__(self, eager: bool) -> None:
        super().__init__()
        self.eager = eager

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = q @ torch.linspace(-1, 1, D * T, dtype=q.dtype).reshape(D, T)
        if not self.eager:
            return F.scaled_dot_product_attention(q, k, v, mask).flatten(1)
        return ((q @ k.mT * D**-0.5 + mask).softmax(-1) @ v).flatten(1)


@pytest.mark.parametrize("mode", ["attnlrp", "cp", "half"])
def test_a_mask_made_of_data_gets_its_share(mode: str) -> None:
    fused, eager = (
        LRP(RelativePositions(e), AttnLRP(attention=mode))(*inputs(), target=7, audit=True) for e in (False, True)
    )
    assert fused.ledger.imbalance < 1e-9
    for a, b in zip(fused.relevance, eager.relevance, strict=True):
        assert_close(a, b, rtol=1e-8, atol=1e-12)


class Logs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1).flip(1) * 1.0


@pytest.mark.parametrize("bias", ["absorb", "distribute", "keep"])
def test_log_softmax_inside_a_model_balances(bias: str) -> None:
    x = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    explained = LRP(Logs(), AttnLRP(softmax=bias), checks=False, normalize_output=True)(x, target=0, audit=True)
    assert explained.ledger.imbalance < 1e-9
    assert explained.ledger.sinks.get("softmax", 0.0) == pytest.approx(
        {"absorb": 2 - float(explained.relevance.sum()), "distribute": 0.0, "keep": 2.0}[bias], abs=1e-8
    )


def test_ignore_is_for_softmax_alone() -> None:
    x = torch.rand(2, 3)
    with pytest.raises(RuleError, match="ignore"):
        LRP(Logs(), SoftmaxRule("ignore"), checks=False)(x)


def test_the_old_name_of_a_bias_policy_says_the_new_one() -> None:
    with pytest.raises(RuleError, match=r'"omit" is called "ignore" now'):
        SoftmaxRule("omit")
