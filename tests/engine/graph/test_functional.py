"""Writing in place, as the graph has it: assignments to slices are moves of data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.versions import export_refuses
from torch import Tensor, nn

from relprop import LRP


def test_assignments_to_slices_are_moves() -> None:
    """A buffer filled part by part, as DeepSeek makes its keys, is a concatenation."""

    class Filled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            buffer = x.new_empty(x.shape[0], 4)
            buffer[:, :3] = x
            buffer[:, 3:] = y.mean(1, keepdim=True)
            return buffer

    class Joined(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x, y.mean(1, keepdim=True)], 1)

    x, y = torch.rand(2, 3), torch.rand(2, 2)
    lrp = LRP(Filled())
    for target in (1, 3):
        for part, expected in zip(
            lrp(x, y, target=target).relevance, LRP(Joined())(x, y, target=target).relevance, strict=True
        ):
            assert torch.equal(part, expected)
        ledger = lrp(x, y, target=target, audit=True).ledger
        assert ledger is not None
        assert ledger.imbalance <= 1e-6


@pytest.mark.parametrize("make", [Tensor.new_empty, lambda x, *size: torch.empty(size), torch.empty_like])
def test_memory_that_was_never_written_is_in_no_book(
    make: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN stands for what may lie in memory. PyTorch fills fresh memory with it where it must be deterministic."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            buffer = make(x) if make is torch.empty_like else make(x, 2, 2)
            buffer[:, :1] = x[:, :1] * 2
            buffer[:, 1:] = x[:, 1:]
            return buffer * torch.tensor([1.0, 3.0])

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        expl = LRP(Half())(torch.ones(2, 2), target=0, audit=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert expl.ledger is not None
    assert expl.ledger.imbalance <= 1e-6
    assert torch.equal(expl.relevance, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    "view",
    [
        torch.atleast_2d,
        lambda a: torch.alpha_dropout(a, 0.5, False),
        lambda a: torch.dropout(a, 0.5, False),
        lambda a: a.reshape(-1, 3),
        pytest.param(lambda a: a.to(a.dtype).contiguous(), marks=export_refuses),
        lambda a: a.chunk(1, 0)[0],
    ],
    ids=["atleast_2d", "alpha_dropout", "dropout", "reshape", "to", "chunk"],
)
def test_what_may_be_its_input_writes_to_it(view: Callable[[Tensor], Tensor]) -> None:
    """Operators that return their input, or a view of it, without saying so in their schema."""

    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = x * 1.0
            view(a).relu_()
            return a.sum(1, keepdim=True)

    model, x = Written(), torch.tensor([[1.0, -2.0, 3.0], [-1.0, 1.0, 2.0]])
    assert torch.equal(model(x), torch.tensor([[4.0], [3.0]]))
    expl = LRP(model)(x, target=0)
    assert torch.equal(expl.output, model(x))
    assert torch.allclose(expl.relevance, x.relu() / model(x), atol=1e-5)
