"""BiLRP against the explicit double loop over pairs of parts, and its books."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import BiLRP
from relprop.composites import EpsilonPlus
from relprop.engine.program import answer as room
from relprop.errors import ImageError, InputError, TargetError
from relprop.rules import ZeroRule


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Linear(12, 5, bias=False)
    return nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), last).double()


A, B = torch.rand(2, 2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """`x ∂φ_k/∂x`, (K, B, H·W): the 0-rule on a network without biases."""
    rows = []
    for k in range(5):
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(leaf)[:, k].sum(), leaf)
        rows.append((g * x).detach().flatten(1))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_explicit_double_loop(chunk: int | None) -> None:
    model = network()
    pairs = BiLRP(LRP(model, ZeroRule(stabilizer=0.0)), patch=1, chunk=chunk)(A, B)
    left, right = by_hand(model, A), by_hand(model, B)
    for b in range(2):
        for p in range(16):
            for q in range(16):
                expected = sum(float(left[k, b, p] * right[k, b, q]) for k in range(5))
                assert float(pairs.relevance[b, p, q]) == pytest.approx(expected, abs=1e-12)
    assert_close(pairs.similarity, (model(A) * model(B)).sum(1), rtol=1e-12)
    assert float(pairs.kept.detach().abs().max()) < 1e-9
    assert pairs.grids == ((4, 4), (4, 4))


def test_parts_are_sums_of_their_pixels() -> None:
    lrp = LRP(network(), EpsilonPlus())
    single, patches = BiLRP(lrp, patch=1)(A, B), BiLRP(lrp, patch=2)(A, B)
    fine = single.relevance.reshape(2, 2, 2, 2, 2, 2, 2, 2, 2).sum((2, 4, 6, 8))
    assert_close(patches.relevance, fine.reshape(2, 4, 4), rtol=1e-10)
    own = BiLRP(lrp, pool=lambda r: r.sum((1, 2)))(A, B)
    assert_close(own.relevance, single.relevance.reshape(2, 4, 4, 4, 4).sum((1, 3)), rtol=1e-10)
    first, second = single.sides()
    assert_close(first.sum(1), second.sum(1), rtol=1e-10)


def test_cosine_and_symmetry() -> None:
    lrp = LRP(network(), EpsilonPlus(), normalize_output=False)
    dot, cosine = BiLRP(lrp, patch=2)(A, B), BiLRP(lrp, patch=2, similarity="cosine")(A, B)
    lengths = lrp.model(A).norm(dim=1) * lrp.model(B).norm(dim=1)
    assert_close(cosine.relevance, dot.relevance / lengths[:, None, None], rtol=1e-12)
    assert_close(cosine.similarity, torch.cosine_similarity(lrp.model(A), lrp.model(B)), rtol=1e-12)
    assert_close(BiLRP(lrp, patch=2)(B, A).relevance, dot.relevance.transpose(1, 2), rtol=1e-10)


def test_what_starts_is_the_value_whatever_the_analyzer_starts_with() -> None:
    found = [BiLRP(LRP(network(), EpsilonPlus(), normalize_output=n), patch=2)(A, B).relevance for n in (True, False)]
    assert torch.equal(*found)


def test_one_forward_pass_for_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = room.forward
    monkeypatch.setattr(room, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    BiLRP(LRP(network(), EpsilonPlus()), patch=2)(A, B)
    assert len(calls) == 4  # each: one to learn the embedding, one for all its dimensions


class Sentence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.mix = nn.Embedding(10, 6), nn.Linear(6, 4, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mix(self.embedding(ids)).mean(1)


def test_sentences_of_two_lengths() -> None:
    pairs = BiLRP(LRP(Sentence().double()))(torch.tensor([[1, 2, 3]]), {"ids": torch.tensor([[4, 5]])})
    assert pairs.relevance.shape == (1, 3, 2)
    assert_close(pairs.relevance.sum((1, 2)), pairs.similarity, rtol=1e-8)
    first, second, most = pairs.strongest(1)[0]
    assert most == float(pairs.relevance[0, first, second])
    assert abs(most) == float(pairs.relevance.abs().max())
    pytest.importorskip("matplotlib")
    figure = pairs.plot(["a", "b", "c"], ["d", "e"])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["d", "e"]
    assert torch.equal(torch.as_tensor(axis.images[0].get_array().data), pairs.relevance[0])
    with pytest.raises(ImageError, match="names of the parts"):
        pairs.plot(torch.rand(4, 4).numpy(), torch.rand(4, 4).numpy())


def test_lines_end_in_the_patches_of_the_strongest_pairs() -> None:
    pytest.importorskip("matplotlib")
    pairs = BiLRP(LRP(network(), EpsilonPlus()), patch=2)(A, B)
    figure = pairs.plot(A[0, 0].numpy(), B[0, 0].numpy(), pairs=3)
    lines = [artist for artist in figure.artists if hasattr(artist, "xy1")]
    assert len(lines) == 3
    p, q, _ = pairs.strongest(1)[0]
    assert lines[-1].xy1 == ((p % 2) * 2 + 0.5, (p // 2) * 2 + 0.5)
    assert lines[-1].xy2 == ((q % 2) * 2 + 0.5, (q // 2) * 2 + 0.5)


def test_refusals() -> None:
    lrp = LRP(network())
    with pytest.raises(InputError, match="takes an LRP"):
        BiLRP(network())
    with pytest.raises(InputError, match="neither"):
        BiLRP(lrp, similarity="angle")
    with pytest.raises(InputError, match="does not divide"):
        BiLRP(lrp, patch=3)(A, B)
    with pytest.raises(InputError, match="equal size"):
        BiLRP(lrp, patch=2)(A, B[:1])
    with pytest.raises(TargetError, match="needs an embedding"):
        BiLRP(LRP(network()[:2]))(A, B)
