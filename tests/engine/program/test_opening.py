"""Questions about single positions go through the head together, and each is explained as by a call of its own."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close
from torch import Tensor, nn

from relprop import LRP
from relprop.composites import AttnLRP, Composite, EpsilonPlus
from relprop.engine.ops.affine import AffineStep
from relprop.engine.program import answer as room
from relprop.rules import EpsilonRule, FunctionRule
from relprop.targets import Contrast, Logit

B, T, D, V = 2, 6, 5, 9


class Tagger(nn.Module):
    """Logits (B, T, V) of a sequence; with `after`, something behind the head."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding, self.gru, self.head = nn.Embedding(V, D), nn.GRU(D, D, batch_first=True), nn.Linear(D, V)
        self.after = nn.Identity() if after is None else after

    def forward(self, ids: Tensor) -> Tensor:
        return self.after(self.head(self.gru(self.embedding(ids))[0]))


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


def tagger(after: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return Tagger(after).double().eval()


TARGETS = [(5, 1), (2, 0), (-1, 3), Logit((2, 4)) - Logit((2, 5)), Contrast((0, 7), Logit((0, 2)))]
COMPOSITES = {"attnlrp": AttnLRP(), "epsilon": Composite(EpsilonRule(0.1)), "plus": EpsilonPlus(bias="distribute")}


def through_the_head(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions in each message that goes back through a layer with V outputs."""
    seen: list[int] = []
    pull = AffineStep.pull

    def watched(self: AffineStep, message: object, tape: object) -> object:
        part = message.R if message.R is not None else message.c
        if part.dim() == 3 and part.shape[-1] == V:
            seen.append(part.shape[1])
        return pull(self, message, tape)

    monkeypatch.setattr(AffineStep, "pull", watched)
    return seen


@pytest.mark.parametrize("normalize", ["magnitude", False])
@pytest.mark.parametrize("chunk", [None, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_each_is_a_call_of_its_own(
    composite: str, chunk: int | None, normalize: bool | str, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrp = LRP(tagger(), COMPOSITES[composite], normalize_output=normalize)
    alone = [lrp(ids, target=target) for target in TARGETS]
    seen = through_the_head(monkeypatch)
    for one, expected in zip(lrp.each(ids, targets=TARGETS, chunk=chunk), alone, strict=True):
        assert_close(one.relevance, expected.relevance, rtol=1e-10)
        assert_close(one.amount, expected.amount, rtol=1e-12)
        assert (one.target is None and expected.target is None) or torch.equal(one.target, expected.target)
    assert seen == [len(TARGETS)]  # all of them at once, at their positions alone


@pytest.mark.parametrize("case", ["another position", "layers", "a softmax behind the head"])
def test_where_it_does_not_serve_the_whole_head_is_passed(
    case: str, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrp = LRP(tagger(nn.Tanh() if "behind" in case else None), AttnLRP())
    several = [(1, 2), Logit((0, 1)) + Logit((3, 1))] if case == "another position" else [(1, 2), (3, 1)]
    layers = "gru" if case == "layers" else None
    alone = [lrp(ids, target=target) for target in several]
    seen = through_the_head(monkeypatch)
    for one, expected in zip(lrp.each(ids, targets=several, layers=layers, chunk=1), alone, strict=True):
        assert_close(one.relevance, expected.relevance, rtol=1e-10)
    assert seen == [T, T]


def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each batch has."""
    found: list[int] = []
    batch = room.Run.batch

    def watched(self: room.Run, questions: list[object], *args: object) -> object:
        found.append(len(questions))
        return batch(self, questions, *args)

    monkeypatch.setattr(room.Run, "batch", watched)
    return found


def test_few_tokens_are_explained_together(ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_TOKENS", 3 * B * T)
    found, lrp = batches(monkeypatch), LRP(tagger(), AttnLRP())
    alone = lrp.each(ids, targets=TARGETS, chunk=1)
    assert found == []
    for one, expected in zip(lrp.each(ids, targets=TARGETS), alone, strict=True):
        assert_close(one.relevance, expected.relevance, rtol=1e-10)
    assert found == [3, 2]
    monkeypatch.setattr(room, "MOST_TOKENS", B * T - 1)
    lrp.each(ids, targets=TARGETS)
    assert found == [3, 2]


def test_what_is_no_text_and_rules_of_users_are_explained_one_by_one(
    ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batches(monkeypatch)
    LRP(nn.Linear(3, 2)).each(torch.rand(1, 3), targets=[0, 1])

    def looks(forward: object, inputs: tuple[Tensor, ...], output: Tensor, relevance: Tensor) -> Tensor:
        assert float(relevance.sum()) < float("inf")  # which a batch by vmap could not say
        return relevance

    model = tagger(nn.Tanh())
    LRP(model, AttnLRP(), modules={nn.Tanh: FunctionRule(looks)}).each(ids, targets=TARGETS)
    assert found == []
