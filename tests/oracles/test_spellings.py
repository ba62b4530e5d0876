"""A computation is explained alike however it is spelled: norms and attention, as modules and written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import CPLRP, AttnLRP, Composite

EPS = 1e-5


class Between(nn.Module):
    """A function between two layers; `scale` and `shift` are there for norms to use."""

    def __init__(self, function: Callable[[Between, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 3)
        self.scale, self.shift = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.first(x))).mean(1)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def centred(x: Tensor) -> Tensor:
    return x - mean(x)


def grouped(m: Between, x: Tensor) -> Tensor:
    parts = x.flatten(0, 1).reshape(-1, 2, 3)
    var = parts.var(-1, unbiased=False, keepdim=True)
    return (centred(parts) / torch.sqrt(var + EPS)).reshape(x.shape) * m.scale + m.shift


def group_norm(m: Between, x: Tensor) -> Tensor:
    return F.group_norm(x.flatten(0, 1), 2, m.scale, m.shift, EPS).reshape(x.shape)


def layer_norm(m: Between, x: Tensor) -> Tensor:
    return F.layer_norm(x, (6,), m.scale, m.shift, EPS)


def layer_norm_without_eps(m: Between, x: Tensor) -> Tensor:
    return F.layer_norm(x, (6,), m.scale, m.shift, 0.0)


def rms_norm(m: Between, x: Tensor) -> Tensor:
    return F.rms_norm(x, (6,), m.scale, EPS)


def unit(m: Between, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


NORMS = {
    "rms: rsqrt": (rms_norm, lambda m, x: x * torch.rsqrt(mean(x.pow(2)) + EPS) * m.scale),
    "rms: scale first": (rms_norm, lambda m, x: m.scale * (x * torch.rsqrt(mean(x * x) + EPS))),
    "rms: sqrt": (rms_norm, lambda m, x: x / torch.sqrt(mean(x**2) + EPS) * m.scale),
    "rms: power": (rms_norm, lambda m, x: x * (mean(x.square()) + EPS) ** -0.5 * m.scale),
    "layer: var": (
        layer_norm,
        lambda m, x: centred(x) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + EPS) * m.scale + m.shift,
    ),
    "layer: mean of squares": (
        layer_norm,
        lambda m, x: m.scale * centred(x) * torch.rsqrt(mean(centred(x) ** 2) + EPS) + m.shift,
    ),
    "layer: std": (
        layer_norm_without_eps,
        lambda m, x: centred(x) / x.std(-1, unbiased=False, keepdim=True) * m.scale + m.shift,
    ),
    "normalize: norm": (unit, lambda m, x: x / x.norm(dim=-1, keepdim=True)),
    "normalize: sqrt": (unit, lambda m, x: x / x.square().sum(-1, keepdim=True).sqrt()),
    "group: reshape": (group_norm, grouped),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_is_spelled_out_is_the_norm(name: str) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, spelled = (LRP(Between(function)) for function in NORMS[name])
    expected, actual = whole(x, target=1), spelled(x, target=1, audit=True)
    assert_close(actual.output, expected.output, rtol=1e-12)
    assert_close(actual.relevance, expected.relevance, rtol=1e-9)
    assert actual.ledger is not None
    assert actual.ledger.imbalance <= 1e-8


# Attention.


class Attention(nn.Module):
    """Four heads of queries, and as many or two of keys and values; fused, or as a softmax between two products."""

    def __init__(self, kind: str, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.fused = kind, fused
        self.heads = 2 if "grouped" in kind else 4
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 4 * self.heads), nn.Linear(8, 4 * self.heads)
        self.last = nn.Linear(16, 3)
        keep = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1]], dtype=torch.bool)
        self.register_buffer("keep", keep)
        self.register_buffer("added", torch.randn(4, 4).masked_fill(~keep, -torch.inf))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mask = {"boolean": self.keep, "additive": self.added}.get(self.kind)
        scale = 0.3 if self.kind == "scale" else None
        if self.fused:
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=self.kind == "causal", scale=scale, enable_gqa=self.heads == 2
            )
        else:
            if self.heads == 2:  # repeat_kv, as Hugging Face spells it
                k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for t in (k, v))
            scores = q @ k.transpose(-1, -2) * (scale or 0.5)
            if self.kind == "causal":
                scores = scores + torch.full((4, 4), -torch.inf, dtype=x.dtype).triu(1)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
            mixed = scores.softmax(-1) @ v
        return self.last(mixed.transpose(1, 2).flatten(2))[:, 2]


@pytest.mark.parametrize("composite", [AttnLRP(), CPLRP(), AttnLRP(gamma_linear=0.1)], ids=["attnlrp", "cp", "gamma"])
@pytest.mark.parametrize("kind", ["plain", "causal", "boolean", "additive", "scale", "grouped"])
def test_attention_that_is_spelled_out_is_attention(kind: str, composite: Composite) -> None:
    x = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fused, spelled = (LRP(Attention(kind, fused), composite)(x, target=1, audit=True) for fused in (True, False))
    assert_close(spelled.output, fused.output, rtol=1e-12)
    assert_close(spelled.relevance, fused.relevance, rtol=1e-9)
    for expl in (fused, spelled):
        assert expl.ledger is not None
        assert expl.ledger.imbalance <= 1e-6
        assert expl.ledger.input + sum(expl.ledger.sinks.values()) == pytest.approx(expl.ledger.output, abs=1e-6)
