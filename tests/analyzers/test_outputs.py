"""Which of several outputs is explained: the one called `logits`, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP


class Both(NamedTuple):
    features: Tensor
    logits: Tensor


PACKED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda h, y: {"features": h, "logits": y},
    "named tuple": Both,
    "nested": lambda h, y: {"body": {"features": h}, "head": {"logits": y}},
    "auxiliary head first": lambda h, y: {"aux": {"logits": h}, "logits": y},
    "several under the name": lambda h, y: {"features": h, "logits": {"main": y, "other": h}},
    "list": lambda h, y: [{"features": h}, {"logits": y}],
    "named tuple in a dict": lambda h, y: {"a": h, "b": Both(h, y)},
}


@pytest.mark.parametrize("packed", PACKED)
def test_logits_are_explained(packed: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            h = self.first(x).relu()
            return PACKED[packed](h, self.head(h))

    model, x = Net().eval(), torch.randn(3, 4)
    a = x.clone().requires_grad_()
    model.head(model.first(a).relu())[:, 1].sum().backward()
    relevance = LRP(model, normalize_output=False)(x, target=1).relevance
    assert_close(relevance, x * a.grad, rtol=1e-4, atol=1e-6)
