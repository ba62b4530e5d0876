"""Kinds of targets: worked numbers, identities to 1e-12, what is refused before any work, and the sign."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import InputTimesGradient
from relprop.errors import InputError, TargetError
from relprop.rules import ZeroRule
from relprop.targets import (
    Contrast,
    Difference,
    Logit,
    LogOdds,
    LogProbability,
    Mask,
    Output,
    Probability,
    Reference,
    Seed,
    Similarity,
    Span,
    TopK,
    as_target,
)

Z = torch.tensor([[1.0, -3.0, 2.0], [0.5, 4.0, -1.0]], dtype=torch.float64)
WIDE = torch.randn(64, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4


def shares(target: Any, z: Tensor = Z) -> list[list[float]]:
    chosen = as_target(target)
    chosen.check(len(z), z.shape[1:])
    found: list[list[float]] = chosen.value(z).tolist()
    return found


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Difference(0, 2), [[1, 0, -2], [0.5, 0, 1]]),
        (Difference(None, torch.tensor([1, 0])), [[0, 3, 2], [-0.5, 4, 0]]),
        (Contrast(0, "rest"), [[1, 1.5, -1], [0.5, -2, 0.5]]),  # less half of each other one
        (Contrast(0, "runner-up"), [[1, 0, -2], [0.5, -4, 0]]),
        (Contrast(2, against=1), [[0, 3, 2], [0, -4, -1]]),
        (TopK(2), [[1, 0, 2], [0.5, 4, 0]]),
        (Mask(torch.tensor([False, True, True])), [[0, -3, 2], [0, 4, -1]]),
        (Mask(torch.tensor([0.0, 1.0, 1.0]), mean=True), [[0, -1.5, 1], [0, 2, -0.5]]),
        (2 * Logit(1) - Logit(0), [[-1, -6, 0], [-0.5, 8, 0]]),
        (-Logit(1) / 2, [[0, 1.5, 0], [0, -2, 0]]),
        (Reference(5.0, 1), [[0, -3, 0], [0, 4, 0]]),
    ],
)
def test_shares_by_hand(target: Any, expected: list[list[float]]) -> None:
    assert shares(target) == expected


def test_log_odds_are_what_the_book_says() -> None:
    """log p/(1 − p) from the softmax itself, and H(π) from the others' probabilities."""
    p = WIDE.softmax(1)
    for t in range(9):
        target = LogOdds(t)
        others = torch.cat([p[:, :t], p[:, t + 1 :]], 1) / (1 - p[:, t : t + 1])
        entropy = -(others * others.log()).sum(1)
        others_sum = torch.cat([p[:, :t], p[:, t + 1 :]], 1).sum(1)
        assert_each_close(target.amount(WIDE), (p[:, t] / others_sum).log(), rtol=1e-12, atol=1e-12)
        assert_each_close(target.sinks(WIDE)["entropy"], -entropy, rtol=1e-12, atol=1e-12)
        assert_each_close(target.value(WIDE).sum(1), target.amount(WIDE) + entropy, rtol=1e-12, atol=1e-12)


def test_probabilities_are_those_of_the_softmax() -> None:
    p = WIDE.softmax(1)
    entropy = -(p * p.log()).sum(1)
    for t in range(9):
        assert_each_close(Probability(t).amount(WIDE), p[:, t], rtol=1e-12, atol=1e-15)
        assert_each_close(LogProbability(t).amount(WIDE), p[:, t].log(), rtol=1e-12, atol=1e-12)
        assert_each_close(LogProbability(t).sinks(WIDE)["entropy"], -entropy, rtol=1e-12, atol=1e-12)
        remainder = p[:, t] * (1 - p[:, t].log() - entropy)
        assert_each_close(Probability(t).sinks(WIDE)["remainder"], remainder, rtol=1e-12, atol=1e-12)


def test_outputs_that_are_masked_get_nothing() -> None:
    z = torch.tensor([[1.0, -torch.inf, 2.0, 0.5]])
    for target in (LogOdds(0), LogProbability(0), Probability(2)):
        s, y = target.value(z), target.amount(z) - sum(target.sinks(z).values())
        assert s[0, 1] == 0
        assert_each_close(s.sum(1), y)


def test_a_reference_is_a_part_of_the_last_bias() -> None:
    """In parts of f − r a linear model's inputs get `w_i x_i / |f − r|`, its bias `b`, and the reference −r."""
    torch.manual_seed(0)
    model, x, r = nn.Linear(4, 2).double(), torch.rand(3, 4, dtype=torch.float64), 1.25
    lrp = LRP(model, ZeroRule(stabilizer=0.0))
    expl = lrp(x, target=Reference(r, 1), audit=True)
    f = model(x)[:, 1].detach()
    expected = x * model.weight[1].detach() / (f - r).abs().unsqueeze(1)
    assert_each_close(expl.relevance, expected, rtol=1e-12, atol=1e-12)
    assert_each_close(expl.amount, f - r, rtol=1e-12, atol=1e-12)
    assert expl.ledger.sinks["reference"] == pytest.approx(float((-r / (f - r).abs()).sum()), rel=1e-12)
    assert expl.ledger.sinks["bias"] == pytest.approx(float((model.bias[1].detach() / (f - r).abs()).sum()), rel=1e-12)
    assert expl.ledger[0].operator == "target"


def test_similarity_of_an_embedding_of_zeros_is_zero() -> None:
    target = Similarity(torch.tensor([1.0, 2.0]))
    assert torch.equal(Seed(target)(torch.zeros(1, 2))[0], torch.zeros(1, 2))


def test_a_span_adds_the_tokens_up() -> None:
    ids, z = torch.tensor([3, 1, 0, 2]), torch.randn(2, 4, 5, dtype=torch.float64)
    y = z[:, 1, 0] + z[:, 2, 2]
    assert_each_close(Span(ids, 2).amount(z), y, rtol=1e-12)
    logs = z.log_softmax(-1)
    assert_each_close(Span(ids, 2, log_probability=True).amount(z), logs[:, 1, 0] + logs[:, 2, 2], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------ what is wrong

MAP, TOKENS = (4, 3, 3), (4, 5)
IDS = torch.tensor([0, 1, -100, 4])


@pytest.mark.parametrize(
    ("target", "shape", "says"),
    [
        (Difference(1, 1), (3,), "compared with itself"),
        (Difference(1, -2), (3,), "compared with itself"),
        (Difference(torch.tensor([0, 1]), 1), (3,), "In sample 1 output 1 is to be compared with itself"),
        (Contrast(2, against=2), (3,), "compared with itself"),
        (Difference(0, 3), (3,), "out of range"),
        (Difference("cat", "dog"), (3,), "is a name"),
        (Contrast(0, "rest"), (1,), "no other class"),
        (LogOdds(0), (1,), "no other class"),
        (LogOdds((0, 0, 0), dim=4), MAP, "no classes in dim=4"),
        (Probability((0, 0, 0), dim=0), MAP, "dimension 0 is the batch"),
        (TopK(4), (3,), "has 3 entries"),
        (Mask(torch.zeros(3)), (3,), "mask is empty"),
        (Mask(torch.tensor([[True, False, True], [False, False, False]])), (3,), "mask of sample 1 is empty"),
        (Mask(torch.tensor([1.0, -1.0, 0.0]), mean=True), (3,), "add up to 0"),
        (Mask(torch.tensor([1.0, torch.nan, 0.0])), (3,), "not finite"),
        (Mask(torch.ones(3, 3)), MAP, "give of=, the class"),
        (Mask(torch.ones(2, 3, 4), of=1), MAP, "does not cover"),
        (Mask(torch.ones(3, 3), of=4), MAP, "out of range"),
        (Mask(torch.ones(3), of=1), (3,), "takes a class of maps"),
        (Mask(torch.ones(3, 3), of=None) + Logit((0, 0, 0)), MAP, "give of="),
        (Span(IDS, 1), TOKENS, "a position that is ignored"),
        (Span(IDS, 0, 2), TOKENS, "predicted by nothing"),
        (Span(IDS, 2, 2), TOKENS, "1 <= first < last <= 4"),
        (Span(IDS[:3], 1), TOKENS, "do not fit an output"),
        (Span(torch.tensor([0, 5, 1, 1]), 1), TOKENS, "there are 5 outputs"),
        (Similarity(torch.ones(4)), (3,), "to be compared with outputs"),
        (Similarity(torch.zeros(3)), (3,), "similar to nothing"),
        (Reference(float("nan"), 0), (3,), "finite"),
        (Reference(torch.rand(3), 0), (3,), "one for each of 2 samples"),
        (Logit(1) - Logit(1), (3,), "weights cancel"),
        (torch.rand(2, 4), (3,), "relevance shaped like the output"),
        (torch.zeros(2, 3), (3,), "all 0"),
        (torch.eye(4)[:2], (3,), "relevance shaped like the output"),
    ],
)
def test_what_selects_nothing_is_refused_before_any_work(target: Any, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(TargetError, match=says):
        as_target(target).check(2, shape)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Difference(TopK(2), 1), "one entry"),
        (lambda: LogOdds(lambda y: y), "one entry"),
        (lambda: TopK(0), "at least 1"),
        (lambda: Logit(1.5), "give a class index or name"),
        (lambda: Mask([1, 0]), "takes a tensor"),
        (lambda: Mask.of_label(torch.tensor([[0, 255]]), 255), "marks positions that are ignored"),
        (lambda: Span(torch.rand(3), 1), "takes the token ids"),
        (lambda: Similarity(torch.tensor([1, 2])), "takes an embedding"),
        (lambda: Reference("3"), "takes a number"),
        (lambda: Output(1.5), "name or the number"),
        (lambda: Output(0, Output(1)), "names two outputs"),
        (lambda: (Output(0, 1) - Output(1, 1)).output, "Relevance is linear"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make: Any, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        make()


def test_the_largest_output_cannot_be_compared_with_itself() -> None:
    lrp = LRP(nn.Sequential(nn.Identity(), nn.Linear(3, 3)), ZeroRule())
    x = torch.rand(2, 3)
    with pytest.raises(TargetError, match="compared with itself"):
        lrp(x, target=Difference(None, lrp(x).target))


# ---------------------------------------------------------------------------------------------------------- the sign


def minus_four(**options: Any) -> tuple[LRP, Tensor]:
    """W = [1, −2, −3], x = 1: the logit is −4, and x_1 alone speaks for it."""
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, -3.0]]))
    return LRP(model, ZeroRule(stabilizer=0.0), **options), torch.ones(1, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.25, -0.5, -0.75]),
        ({"normalize_output": "magnitude"}, [0.25, -0.5, -0.75]),
        ({"normalize_output": True}, [-0.25, 0.5, 0.75]),
        ({"normalize_output": False}, [1, -2, -3]),
    ],
)
def test_what_is_positive_speaks_for_the_target(options: dict[str, Any], expected: list[float]) -> None:
    lrp, x = minus_four(**options)
    for target in (None, 0, Logit(0), torch.tensor([0]), torch.ones(1, 1), Output(0, 0), 3 * Logit(0) / 3):
        assert_each_close(lrp(x, target=target).relevance, torch.tensor([expected], dtype=torch.float64), rtol=1e-12)


def test_functions_and_relevance_are_taken_as_they_are() -> None:
    lrp, x = minus_four()
    for target in (lambda y: y / 4, torch.full((1, 1), -1.0, dtype=torch.float64)):
        expected = torch.tensor([[0.25, -0.5, -0.75]], dtype=torch.float64)
        assert_each_close(lrp(x, target=target).relevance, expected, rtol=1e-12)


def test_a_derivative_is_that_of_the_amount_whatever_its_sign() -> None:
    lrp, x = minus_four()
    for normalize, by in (("magnitude", 1.0), (True, 1.0), (False, -4.0)):
        found = InputTimesGradient(lrp.model, normalize_output=normalize)(x, target=0).relevance
        assert_each_close(found, torch.tensor([[1.0, -2.0, -3.0]], dtype=torch.float64) * by)


@pytest.mark.parametrize("normalize", [True, "magnitude", False])
def test_amounts_of_zero(normalize: Any) -> None:
    """An entry starts with 1, the limit of z / z; what cancels to 0 with its shares, which have no limit."""
    z = torch.tensor([[0.0, 2.0, 2.0]])
    start, _ = Seed(Logit(0), normalize)(z)
    assert start.tolist() == [[float(normalize is not False), 0, 0]]
    start, _ = Seed(Difference(1, 2), normalize)(z)
    assert start.tolist() == [[0, 2, -2]]


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="give 'magnitude', True or False"):
        LRP(nn.Linear(2, 2), normalize_output="abs")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ several outputs


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head, self.other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Sequential(nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x).relu()
        return {"logits": self.head(h), "quality": self.other(h)}


def test_a_target_may_name_its_output() -> None:
    model, x = TwoHeads().double().eval(), torch.rand(3, 4, dtype=torch.float64)
    lrp = LRP(model, ZeroRule())
    asked = [1, Output("quality", 0), Output(1, Difference(0, 1)), Difference(0, 2), Output("logits", 1)]
    quality = LRP(model, ZeroRule(), output="quality")
    expected = [lrp(x, target=1), quality(x, target=0), quality(x, target=Difference(0, 1))]
    expected += [lrp(x, target=Difference(0, 2)), lrp(x, target=1)]
    for found, single, target in zip(lrp.each(x, targets=asked), expected, asked, strict=True):
        assert_each_close(found.relevance, single.relevance, rtol=1e-10, atol=1e-12)
        assert_each_close(found.amount, single.amount, rtol=1e-12)
        called = lrp(x, target=target, audit=True)
        assert_each_close(called.relevance, single.relevance, rtol=1e-10, atol=1e-12)
        assert called.ledger.imbalance < 1e-12
    assert_each_close(lrp(x, target=Output("quality")).output["quality"], model(x)["quality"])
    summed = lrp(x, target=Output("quality", 0) - 2 * Output("quality", 1))
    assert_each_close(summed.relevance, quality(x, target=Logit(0) - 2 * Logit(1)).relevance, rtol=1e-10, atol=1e-12)


def test_a_target_may_name_its_output_in_an_artifact(tmp_path: Any) -> None:
    import relprop

    model, x = TwoHeads().double().eval(), torch.rand(3, 4, dtype=torch.float64)
    lrp = LRP(model, ZeroRule())
    lrp.export(tmp_path / "q.pt2", (x,), target=Output("quality", 1))
    expected = lrp(x, target=Output("quality", 1)).relevance
    assert_each_close(relprop.load(tmp_path / "q.pt2")(x).relevance, expected, rtol=1e-9, atol=1e-12)


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(InputError, match="outputs are logits, quality"):
        LRP(TwoHeads())(torch.rand(2, 4), target=Output("qualty", 0))


def test_names_of_classes_inside_of_targets() -> None:
    lrp = LRP(nn.Linear(3, 3), classes=["cat", "dog", "emu"])
    x = torch.rand(2, 3)
    assert_each_close(lrp(x, target=Difference("cat", "DOG")).relevance, lrp(x, target=Difference(0, 1)).relevance)
    assert lrp(x, target=Contrast("cat", "emu") - Logit("dog")).explains == "(output 0 against output 2) - output 1"
    with pytest.raises(TargetError, match="did you mean dog"):
        lrp(x, target=LogOdds("dig"))


def test_a_function_that_returns_a_score_is_told_what_to_use():
    with pytest.raises(TargetError, match=r"shaped like the output \(2, 4, 3, 3\), got shape \(2,\)\. .*Mask"):
        as_target(lambda z: z[:, 1].mean((1, 2))).value(torch.rand(2, 4, 3, 3))
