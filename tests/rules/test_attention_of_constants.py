"""Attention over constants: what is no data leaves its share to what is, fused as well as written out."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, Composite, NameMap
from relprop.engine.ops.attention import AttentionStep
from relprop.rules import StopRule

B, H, T, D = 2, 2, 4, 3
MODES = ("attnlrp", "cp", "half")
SUBSETS = [data for data in product((True, False), repeat=3) if any(data)]
ALLOWED = torch.tensor([[1, 1, 0, 1]] * T, dtype=torch.bool)
MASKS = {"none": None, "boolean": ALLOWED, "additive": torch.linspace(-2, 1, T * T, dtype=torch.float64).reshape(T, T)}


class Partly(nn.Module):
    """Attention whose query, key and value come from the input or are learned, beside a way around it."""

    def __init__(self, fused: bool, data: tuple[bool, ...], mask: Tensor | None, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused, self.data, self.causal = fused, data, causal
        self.register_buffer("mask", mask)
        self.learned = nn.ParameterList(torch.randn(1, H, T, D) for _ in data)
        self.maps = nn.ModuleList(nn.Linear(D, D, bias=False) for _ in data)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.data, self.maps, self.learned, strict=True)
        q, k, v = (m(x) if data else learned.expand(len(x), -1, -1, -1) for data, m, learned in parts)
        if self.fused:
            z = F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal)
        else:
            scores = q @ k.mT * D**-0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
            if self.mask is not None:
                boolean = self.mask.dtype == torch.bool
                scores = scores.masked_fill(~self.mask, -torch.inf) if boolean else scores + self.mask
            z = scores.softmax(-1) @ v
        return (z + x).flatten(1)


def pictures() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, H, T, D, dtype=torch.float64)


@cache
def partly(fused: bool, data: tuple[bool, ...], mask: str) -> Partly:
    """One model for all modes, so that they share what was captured of it."""
    return Partly(fused, data, MASKS.get(mask), causal=mask == "causal").double().eval()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask", [*MASKS, "causal"])
@pytest.mark.parametrize("data", SUBSETS, ids=["".join(n for n, d in zip("qkv", s, strict=True) if d) for s in SUBSETS])
def test_fused_equals_written_out_for_every_subset_of_data(data: tuple[bool, ...], mode: str, mask: str) -> None:
    fused, written = (
        LRP(partly(form, data, mask), AttnLRP(attention=mode), normalize_output=False)(pictures(), target=7, audit=True)
        for form in (True, False)
    )
    assert_close(fused.output, written.output, rtol=1e-10, atol=1e-12)
    assert_close(fused.relevance, written.relevance, rtol=1e-8, atol=1e-12)
    for expl in (fused, written):
        assert expl.ledger.imbalance < 1e-9
        kept = sum(expl.ledger.sinks.values())
        assert expl.ledger.input + kept == pytest.approx(expl.ledger.output, rel=1e-8)
        assert expl.ledger.input == pytest.approx(float(expl.relevance.sum()), rel=1e-9)


def test_the_books_see_a_share_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a learned query keeps its quarter to itself, the account does not balance."""
    monkeypatch.setattr(AttentionStep, "_factor", lambda self, source: 0.25)
    model = Partly(True, (False, True, False), None).double().eval()
    assert LRP(model, AttnLRP())(pictures(), target=7, audit=True).ledger.imbalance > 1e-3


class MaskedByData(nn.Module):
    """Learned queries and keys under an additive mask that is data."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.q, self.k, self.v = (nn.Parameter(torch.randn(1, H, T, D)) for _ in range(3))
        self.to_mask = nn.Linear(D, T, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.expand(len(x), -1, -1, -1) for p in (self.q, self.k, self.v))
        mask = self.to_mask(x)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, mask).flatten(1)
        return ((q @ k.mT * D**-0.5 + mask).softmax(-1) @ v).flatten(1)


def test_a_mask_that_alone_is_data_gets_it_all() -> None:
    fused, written = (
        LRP(MaskedByData(form).double().eval(), AttnLRP())(pictures(), target=7, audit=True) for form in (True, False)
    )
    assert_close(fused.relevance, written.relevance, rtol=1e-8, atol=1e-12)
    assert fused.ledger.imbalance < 1e-9


class Projected(nn.Module):
    """`nn.MultiheadAttention` with a learned query (attention pooling), fused or written out by PyTorch itself."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights, self.query = weights, nn.Parameter(torch.randn(1, 2, 8))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query.expand(x.shape[0], -1, -1)
        return self.head(self.attention(query, x, x, need_weights=self.weights)[0].mean(1))


def test_attention_pooling() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    fused, written = (LRP(Projected(w).double().eval(), AttnLRP())(x, target=1, audit=True) for w in (False, True))
    assert_close(fused.relevance, written.relevance, rtol=1e-8, atol=1e-12)
    assert fused.ledger.imbalance < 1e-9


class Stopped(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.q, self.k, self.v, self.head = (nn.Linear(8, n, bias=False) for n in (8, 8, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        z = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT * 8**-0.5).softmax(-1) @ v
        return self.head(z.mean(1))


@pytest.mark.parametrize("stopped", [("q",), ("k",), ("v",), ("q", "k"), ("k", "v")])
def test_stopped_projections(stopped: tuple[str, ...]) -> None:
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    composite = Composite(NameMap({name: StopRule() for name in stopped}))
    fused, written = (LRP(Stopped(f).double().eval(), composite)(x, target=1, audit=True) for f in (True, False))
    assert_close(fused.relevance, written.relevance, rtol=1e-8, atol=1e-12)
    assert fused.ledger.imbalance < 1e-9


class Dropping(nn.Module):
    """Attention that drops weights out in evaluation mode, too."""

    def __init__(self, *, causal: bool = False, grouped: bool = False, mask: Tensor | None = None) -> None:
        super().__init__()
        self.causal, self.grouped = causal, grouped
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        options = {"is_causal": self.causal, "enable_gqa": self.grouped}
        return F.scaled_dot_product_attention(q, k, v, self.mask, 0.5, **options).flatten(1)


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"grouped": True}, {"mask": ALLOWED}, {"mask": MASKS["additive"]}], ids=str
)
def test_dropout_in_the_kernel_is_part_of_the_program(options: dict[str, object]) -> None:
    """Of values, relevance is input times gradient, halved: their sum tells whether one mask served both."""
    torch.manual_seed(2)
    q, k, v = (torch.randn(B, h, T, D, dtype=torch.float64) for h in (H, *([1, 1] if "grouped" in options else [H, H])))
    model = Dropping(**options).eval()
    half = LRP(model, AttnLRP(attention="half"), normalize_output=False)(q, k, v, target=7, audit=True)
    assert half.ledger.imbalance < 1e-9
    explained = half.output[:, 7].sum()
    assert_close(half.relevance[2].sum(), explained / 2, rtol=1e-6, atol=1e-9)
    whole = LRP(model, AttnLRP(), normalize_output=False)(q, k, v, target=7, audit=True)
    assert whole.ledger.imbalance < 1e-9
    assert_close(whole.relevance[2].sum(), whole.output[:, 7].sum() / 2, rtol=1e-6, atol=1e-9)
    drawn = {float(LRP(model, AttnLRP())(q, k, v, target=7).output.sum()) for _ in range(3)}
    assert len(drawn) > 1, "the dropout was lost on the way"
