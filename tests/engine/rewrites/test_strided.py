"""Memory read in windows that overlap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.errors import UnexplainedError


class Windows(nn.Module):
    """Windows of 4 positions, one every 2: (B, T, C) -> (B, T / 2 - 1, 4, C)."""

    def __init__(self, *, strided: bool, swapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.strided, self.swapped = strided, swapped
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def windows(self, x: Tensor) -> Tensor:
        if not self.strided:
            return x.unfold(1, 4, 2).transpose(2, 3)
        batch, time, channels = x.stride()
        size = (x.shape[0], x.shape[1] // 2 - 1, 4, x.shape[2])
        if self.swapped:  # here the step from one position to the next depends on the batch, which is fixed
            size, batch, time = (int(size[0]), *size[1:]), int(batch), int(time)
        return x.as_strided(size, (batch, 2 * time, time, channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.swapped:  # in memory, time comes first
            h = self.layer(x.transpose(0, 1)).transpose(0, 1)
        windows = self.windows(h)
        return self.head((windows * windows.new_tensor([1.0, 2.0, -1.0, 3.0])[:, None]).relu().mean((1, 2)))


def explained(model: nn.Module, x: Tensor) -> Any:
    return LRP(model.double().eval(), normalize_output=False, canonize=False)(x, target=1, audit=True)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_windows_by_strides_are_those_by_unfold(swapped: bool, batch: int) -> None:
    x = torch.randn(batch, 8, 3, dtype=torch.float64)
    found, expected = (explained(Windows(strided=s, swapped=swapped), x) for s in (True, False))
    assert_close(found.output, expected.output)
    assert_close(found.relevance, expected.relevance)
    assert found.ledger.imbalance < 1e-9


class OfAPart(Windows):
    def windows(self, x: Tensor) -> Tensor:
        return super().windows(x[:, 1:-1])


def test_memory_that_holds_more_than_the_tensor_is_refused() -> None:
    with pytest.raises(UnexplainedError, match="as_strided"):
        explained(OfAPart(strided=True), torch.randn(3, 10, 3, dtype=torch.float64))
