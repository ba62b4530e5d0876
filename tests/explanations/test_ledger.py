"""The books: by hand, cooked, and with what is no number."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_each_close
from torch import nn

from relprop import LRP
from relprop.explanations.ledger import Entry, Ledger
from relprop.rules import (
    ZeroRule,
)


def test_the_books_balance_and_name_the_sinks() -> None:
    """One linear layer by hand: z = 2·1 + 1·3 + 1 = 6, so the inputs get 2/6 and 3/6, the bias keeps 1/6."""
    layer = nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[2.0, 1.0]]), torch.tensor([1.0])
    expl = LRP(nn.Sequential(layer))(torch.tensor([[1.0, 3.0]]), audit=True)
    assert_each_close(expl.relevance, torch.tensor([[2 / 6, 3 / 6]]))
    ledger = expl.ledger
    assert ledger is not None
    (entry,) = ledger
    assert entry.sinks["bias"] == pytest.approx(1 / 6)
    assert (entry.received, entry.passed) == (pytest.approx(1), pytest.approx(5 / 6))
    assert ledger.output == pytest.approx(ledger.input + sum(ledger.sinks.values()))
    assert "bias 0.1667" in str(ledger)


def test_a_cooked_book_shows() -> None:
    entry = Entry("n", "conv2d", "m", ZeroRule(), 1.0, 0.5, {"bias": 0.3}, 2.0)
    assert entry.imbalance == pytest.approx(0.1)


def test_a_ledger_does_not_hide_what_is_no_number() -> None:
    def entry(received: float, magnitude: float) -> Entry:
        return Entry("n", "conv2d", "m", ZeroRule(), received, 1.0, {}, magnitude)

    for received in (float("nan"), float("inf")):
        for entries in ([entry(1.0, 1.0), entry(received, 1.0)], [entry(received, float("inf")), entry(1.0, 1.0)]):
            assert Ledger(tuple(entries), 1.0, 1.0).imbalance == float("inf")
