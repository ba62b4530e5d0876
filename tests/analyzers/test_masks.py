"""Additive attention masks, 0 and -inf, among the inputs: they carry no relevance, whatever the analyzer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP, load
from relprop.analyzers import Gradient, InputTimesGradient, IntegratedGradients, SmoothGrad
from relprop.analyzers.analyzer import Analyzer
from relprop.composites import AttnLRP
from relprop.errors import InputError

INFINITE = float("-inf")


class Masked(nn.Module):
    """Attention that takes its mask (B, T, T) as an input, in several spellings."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.head = kind, nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT / 6**0.5
        if self.kind == "fused":
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif self.kind == "added":
            z = (scores + mask).softmax(-1) @ v
        elif self.kind == "moved":
            heads = scores[:, None] + mask[:, None].expand(-1, 2, -1, -1)[..., : x.shape[1]]
            z = heads.softmax(-1)[:, 0] @ v
        elif self.kind == "added twice":
            z = ((mask + mask.mT.mT) + scores).softmax(-1) @ v
        elif self.kind == "compared":
            z = scores.masked_fill(mask < -1, INFINITE).softmax(-1) @ v
        elif self.kind == "subtracted":
            z = (scores - mask).softmax(-1) @ v
        elif self.kind == "a feature":
            z = v + mask.sum((1, 2))[:, None, None]
        else:
            z = scores.relu() @ (v + mask[..., :1])
        return self.head(x + z).mean(1)


class Within(nn.Module):
    """The mask is the model's own."""

    def __init__(self, model: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x, self.mask)
        return found


class Encoder(nn.Module):
    """PyTorch's own, which checks and converts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.encoder(x, mask=mask)).mean(1)


def padded() -> Tensor:
    """The last of four positions is padding, of the second sample the last two."""
    mask = torch.zeros(2, 4, 4)
    mask[:, :, 3:] = INFINITE
    mask[1, :, 2:] = INFINITE
    return mask


CASES = [(kind, padded()) for kind in ("fused", "added", "moved", "added twice", "compared")]
CASES += [("encoder", nn.Transformer.generate_square_subsequent_mask(4))]


@pytest.mark.parametrize(("kind", "mask"), CASES, ids=[kind for kind, _ in CASES])
def test_a_mask_of_minus_infinity_is_one_of_the_model_s_own(kind: str, mask: Tensor) -> None:
    model, x = Encoder().eval() if kind == "encoder" else Masked(kind), torch.randn(2, 4, 6)
    lrp = LRP(model, AttnLRP())
    expl, own = lrp(x, mask, target=1, audit=True), LRP(Within(model, mask), AttnLRP())(x, target=1)
    assert_close(expl.by_input["x"], own.relevance, rtol=1e-5)
    assert_close(lrp(x, mask, target=1).by_input["x"], own.relevance, rtol=1e-5)
    assert not expl.by_input["mask"].any()
    assert expl.ledger is not None
    assert expl.ledger.imbalance < 1e-5


@pytest.mark.parametrize("kind", ["subtracted", "a feature", "a value"])
def test_minus_infinity_that_does_more_than_mask_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="holds 12 values that are NaN or infinite"):
        LRP(Masked(kind), AttnLRP())(torch.randn(2, 4, 6), padded(), target=1)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nothing_else_is_let_in(wrong: float) -> None:
    mask = padded()
    mask[0, 0, 0] = wrong
    with pytest.raises(InputError, match="holds 13 values that are NaN or infinite"):
        LRP(Masked("fused"), AttnLRP())(torch.randn(2, 4, 6), mask, target=1)


@pytest.mark.parametrize("analyzer", [Gradient, InputTimesGradient, IntegratedGradients, SmoothGrad])
def test_gradients_do_not_see_a_mask(analyzer: type[Analyzer]) -> None:
    model, x = Masked("fused"), torch.randn(2, 4, 6)
    found, own = analyzer(model)(x, padded(), target=1), analyzer(Within(model, padded()))(x, target=1)
    assert_close(found.by_input["x"], own.relevance, rtol=1e-4)
    assert not found.by_input["mask"].any()


def test_artifacts_take_masks_too(tmp_path: Path) -> None:
    lrp, x = LRP(Masked("fused"), AttnLRP()), torch.randn(2, 4, 6)
    file = lrp.export(tmp_path / "attention.pt2", (x, padded()), target=1)
    assert_close(load(file)(x, padded()).by_input["x"], lrp(x, padded(), target=1).by_input["x"], rtol=1e-5)
