"""Outputs are compared piece by piece, and what differs is found in any of them."""

from __future__ import annotations

import pytest
import torch

from relprop.engine.graph import trial


@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_difference_in_any_piece_is_found(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PIECE", 4)
    own = torch.linspace(1, 2, 10).reshape(2, 5).mT  # whose entries are not in order
    found = own.clone()
    assert trial._differs(found, own) == ""
    index = divmod(place, 2)
    found[index] += 0.5
    assert trial._differs(found, own) == "an output differs by 0.5 of 2"
    found[index] = torch.inf
    assert "infinite or NaN" in trial._differs(found, own)


def test_it_is_relative_to_the_largest_of_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PIECE", 1)
    own, found = torch.tensor([1e-3, 1000.0]), torch.tensor([0.5, 1000.0])
    assert trial._differs(found, own) == ""
    assert trial._differs(found[:1], own[:1]) == "an output differs by 0.499 of 0.001"
