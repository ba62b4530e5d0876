"""Token ids: relevance is that of their embeddings, laid out as the ids came."""

from __future__ import annotations

import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.rules import (
    ZeroRule,
)


class TimeFirst(nn.Module):
    """Transposes token ids before it embeds them, as XLNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids.transpose(0, -1).contiguous()).cumsum(0)[-1])


def test_transposed_ids_are_explained_as_they_came() -> None:
    torch.manual_seed(0)
    model = TimeFirst().double()
    ids = torch.randint(0, 10, (2, 5))
    explained = LRP(model, ZeroRule(bias="ignore"))(ids, target=1)
    assert explained.relevance.shape == (2, 5, 4)
    shares = model.embedding(ids) * model.head.weight[1]
    assert_each_close(explained.relevance, shares / shares.sum((1, 2), keepdim=True), atol=1e-6)
