"""Padding: it gets no relevance, and a sample gets the same with it as without."""

from __future__ import annotations

import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP


class Pooled(nn.Module):
    """Writes a large negative number into padding, in place, and takes the maximum over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(30, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.inner(self.embedding(ids))
        wide = mask.unsqueeze(-1).expand(h.size()).float()
        h[wide == 0] = -1e9
        return self.head(torch.max(h, 1)[0])


def test_a_maximum_over_what_is_not_padding() -> None:
    ids, mask = torch.randint(0, 30, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    lrp = LRP(Pooled().double().eval(), normalize_output=False)
    expl = lrp(ids, mask, target=1, audit=True)
    assert expl.relevance.shape == (2, 5, 4)
    assert not expl.relevance[1, 2:].any()
    assert_close(expl.relevance[1:, :2], lrp(ids[1:, :2], mask[1:, :2], target=1).relevance, rtol=1e-9)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-8


class Encoder(nn.Module):
    """`nn.TransformerEncoder`, told by a mask of booleans what is padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


def test_a_key_padding_mask() -> None:
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    lrp = LRP(Encoder().double().eval(), AttnLRP(), normalize_output=False)
    expl = lrp(x, padding, target=1, audit=True)
    assert not expl.relevance[1, 2:].any()
    assert_close(expl.relevance[1:, :2], lrp(x[1:, :2], padding[1:, :2], target=1).relevance, rtol=1e-9)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-8
