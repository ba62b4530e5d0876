"""Which captured graphs an analyzer keeps, and for which inputs one serves."""

from __future__ import annotations

import pytest
import torch
from support.networks import small
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import captures
from relprop.composites import EpsilonPlusFlat


def test_one_capture_serves_every_batch_size() -> None:
    lrp, x = LRP(small(), EpsilonPlusFlat()), torch.rand(5, 3, 12, 12)
    together = lrp(x, target=1).relevance
    for sizes in ([1, 4], [2, 3], [1, 1, 1, 1, 1]):
        parts = torch.cat([lrp(part, target=1).relevance for part in x.split(sizes)])
        assert torch.allclose(parts, together, rtol=1e-4, atol=1e-7)
    assert len(lrp._known) == 1
    lrp(torch.rand(2, 3, 14, 14))
    assert len(lrp._known) == 2


def test_each_capture_gives_back_what_it_has_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not each call: to look through the heap costs milliseconds."""
    given: list[bool] = []
    monkeypatch.setattr(captures, "_give_back", lambda: given.append(True))
    lrp = LRP(small(), EpsilonPlusFlat())
    for size, captured in ((12, 1), (12, 1), (14, 2)):
        lrp(torch.rand(2, 3, size, size))
        assert len(given) == captured


def test_where_there_is_no_glibc_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures.ctypes, "CDLL", lambda name: object())  # as on macOS
    captures._give_back()
    monkeypatch.setattr(captures.ctypes, "CDLL", int)  # raises TypeError, as on Windows
    captures._give_back()


def test_the_first_call_may_be_a_single_sample() -> None:
    lrp, x = LRP(small(), EpsilonPlusFlat()), torch.rand(3, 3, 12, 12)
    assert torch.allclose(lrp(x[:1], target=1).relevance, lrp(x, target=1).relevance[:1], rtol=1e-4, atol=1e-7)
    assert len(lrp._known) == 1


def test_a_model_bound_to_its_batch_size() -> None:
    class Bound(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(3, 2, 4).sum(1) if x.shape[0] == 3 else x[:, :4] * 2

    lrp = LRP(Bound())
    for batch in (1, 3, 2, 3, 5):
        x = torch.rand(batch, 8)
        expl = lrp(x, target=0)
        assert torch.equal(expl.output, Bound()(x))
        assert torch.allclose(expl.relevance.sum(1), torch.ones(batch))
    assert len(lrp._known) == 2  # one for three samples, one for all other numbers


def test_inputs_keep_their_names_in_copies_of_a_graph() -> None:
    """Python has functions of these names, and torch.fx renames nodes that are called so."""

    class Named(nn.Module):
        def forward(self, input: Tensor, sum: Tensor) -> Tensor:
            return input * 2 + sum

    expl = LRP(Named())(torch.rand(2, 3), torch.rand(2, 3), target=1)
    assert list(expl.by_input) == ["input", "sum"]
