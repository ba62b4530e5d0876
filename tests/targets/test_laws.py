"""One table of targets, and what holds for each of them.

A row is a target, and the model whose output it speaks of: logits (B, 5), maps (B, 4, 3, 3), or tokens (B, 6, 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.compare import assert_each_close
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import (
    Analyzer,
    Gradient,
    IntegratedGradients,
    InterpolationAugmentation,
    NoiseAugmentation,
    Occlusion,
)
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
from relprop.targets.positions import Positions

B = 3
CLASSES = ["ant", "bee", "cat", "dog", "elk"]


def seeded(module: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for p in module.parameters():
        nn.init.normal_(p, std=0.4)
    return module.double().eval()


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "logits": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), (6,)),
    "maps": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)), (2, 5, 5)),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7)), (6, 4)),
}
IDS = torch.tensor([[0, 3, 6, 2, 2, 1], [1, 1, 0, 5, 4, 3], [2, 0, 3, 1, 6, 6]])
REGION = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
REGIONS = torch.stack([REGION, REGION.T, ~REGION])
PER_SAMPLE = torch.tensor([4, 0, 2])
PLACES = torch.tensor([[0, 1, 2], [3, 0, -1], [2, 2, 2]])


@dataclass(frozen=True)
class Row:
    """A target, and what it is for one sample alone if it holds something for each sample of the batch."""

    target: Any
    model: str = "logits"
    one: Callable[[int], Any] | None = None


ROWS = {
    "largest": Row(None),
    "logit": Row(1),
    "name": Row(Logit("dog")),
    "per sample": Row(PER_SAMPLE, one=lambda b: PER_SAMPLE[b : b + 1]),
    "one-hot": Row(torch.eye(5)[PER_SAMPLE], one=lambda b: torch.eye(5)[PER_SAMPLE[b : b + 1]]),
    "difference": Row(Difference(0, 3)),
    "difference of names": Row(Difference("cat", "dog")),
    "difference, per sample": Row(Difference(PER_SAMPLE, 1), one=lambda b: Difference(PER_SAMPLE[b : b + 1], 1)),
    "contrast": Row(Contrast(2, against=4)),
    "contrast, rest": Row(Contrast("bee", against="rest")),
    "contrast, runner-up": Row(Contrast(None)),
    "log-odds": Row(LogOdds(3)),
    "log-odds, per sample": Row(LogOdds(PER_SAMPLE), one=lambda b: LogOdds(PER_SAMPLE[b : b + 1])),
    "probability": Row(Probability("ant")),
    "log-probability": Row(LogProbability()),
    "top 3": Row(TopK(3)),
    "mask of logits": Row(Mask(torch.tensor([0.0, 1.0, 2.0, 0.0, -1.0]))),
    "similarity": Row(Similarity(rand(5))),
    "similarity, each": Row(Similarity(rand(B, 5)), one=lambda b: Similarity(rand(B, 5)[b])),
    "dot": Row(Similarity(rand(5), dot=True)),
    "reference": Row(Reference(2.5, 1)),
    "references": Row(Reference(rand(B), 1), one=lambda b: Reference(rand(B)[b], 1)),
    "sum": Row(2 * Logit(1) - Logit(0)),
    "sum with sinks": Row(LogOdds("cat") / 2 + Probability(0) - Reference(1.0, 2)),
    "output": Row(Output(0, Difference(1, 2))),
    "map": Row((2, 1, -1), "maps"),
    "map, rest": Row(Contrast((2, 1, 0), "rest", dim=1), "maps"),
    "map, log-odds": Row(LogOdds((0, 2, 2), dim=1), "maps"),
    "map, per sample": Row(Positions(PLACES), "maps", lambda b: Positions(PLACES[b : b + 1])),
    "region": Row(Mask(REGION, of=2), "maps"),
    "region, mean": Row(Mask(REGION, of=-1, mean=True), "maps"),
    "regions": Row(Mask(REGIONS, of=1), "maps", lambda b: Mask(REGIONS[b], of=1)),
    "regions and classes": Row(
        Mask(REGIONS, of=torch.tensor([0, 3, 2])),
        "maps",
        lambda b: Mask(REGIONS[b], of=[0, 3, 2][b]),
    ),
    "label": Row(Mask.of_label(REGIONS.long() * 3, 3), "maps", lambda b: Mask.of_label(REGIONS[b].long() * 3, 3)),
    "token": Row((4, 5), "tokens"),
    "token, difference": Row(Difference((4, 5), (4, 1)), "tokens"),
    "token, difference of places": Row(Difference((4, 5), (3, 1)), "tokens"),
    "token, log-odds": Row(LogOdds((-1, 5)), "tokens"),
    "token, probability": Row(Probability((0, 2)), "tokens"),
    "token, sum": Row(2 * Logit((3, 1)) - LogProbability((3, 0)), "tokens"),
    "token, reference": Row(Reference(0.5, (3, 1)), "tokens"),
    "span": Row(Span(IDS, 2, 5), "tokens", lambda b: Span(IDS[b], 2, 5)),
    "span, log-probability": Row(
        Span(IDS, 1, log_probability=True), "tokens", lambda b: Span(IDS[b], 1, log_probability=True)
    ),
}


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    return ROWS[request.param]


_MODELS: dict[str, nn.Module] = {}
_LRPS: dict[tuple[str, Any], LRP] = {}


def model_of(row: Row) -> nn.Module:
    """The row's model, made once, so that all analyzers share what was captured of it."""
    if row.model not in _MODELS:
        _MODELS[row.model] = seeded(MODELS[row.model][0]())
    return _MODELS[row.model]


def setting(row: Row, normalize: Any = "magnitude", **options: Any) -> tuple[LRP, Tensor]:
    """An analyzer of the row's model, made once, and an input."""
    if (row.model, normalize) not in _LRPS:
        model = model_of(row)
        _LRPS[row.model, normalize] = LRP(model, ZeroRule(), normalize_output=normalize, classes=CLASSES, **options)
    return _LRPS[row.model, normalize], rand(B, *MODELS[row.model][1])


def target_of(row: Row) -> Any:
    return as_target(row.target, CLASSES)


def output_of(row: Row) -> Tensor:
    lrp, x = setting(row)
    with torch.no_grad():
        return lrp.model(x)


def scaled(tensor: Tensor, by: Tensor) -> Tensor:
    return tensor * by.reshape(-1, *[1] * (tensor.dim() - 1))


def test_shares_and_sinks_sum_to_the_amount(row: Row) -> None:
    target, z = target_of(row), output_of(row)
    target.check(B, z.shape[1:])
    s, y = target.value(z), target.amount(z)
    assert s.shape == z.shape
    assert y.shape == (B,)
    assert_each_close(s.flatten(1).sum(1) + sum(target.sinks(z).values()), y, rtol=1e-12, atol=1e-12)


def test_normalized_it_sums_to_one_by_sign(row: Row) -> None:
    target, z = target_of(row), output_of(row)
    s, y = target.value(z), target.amount(z)
    assert (y != 0).all()
    for normalize, by in ((True, 1 / y), ("magnitude", 1 / y.abs()), (False, torch.ones_like(y))):
        start, _ = Seed(target, normalize)(z)
        assert_each_close(start, scaled(s, by), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalize", ["magnitude", True, False])
def test_what_starts_follows_from_the_amount(row: Row, normalize: Any) -> None:
    target, z = target_of(row), output_of(row)
    start = target.seed(z, target.index(z), normalize=normalize).reshape(B, -1).sum(1)
    sinks = sum(target.sinks(z).values()) * target.scale(z, normalize)
    assert_each_close(target.started(target.amount(z), normalize), start + sinks, rtol=1e-12, atol=1e-12)


def test_a_change_is_the_difference_of_amounts(row: Row) -> None:
    target, z = target_of(row), output_of(row)
    other = z + 0.1 * rand(*z.shape)
    assert_each_close(target.change(z, other), target.amount(z) - target.amount(other), rtol=1e-12, atol=1e-12)


def test_a_batch_is_its_samples(row: Row) -> None:
    lrp, x = setting(row)
    whole = lrp(x, target=row.target)
    for b in range(B):
        one = lrp(x[b : b + 1], target=row.target if row.one is None else row.one(b))
        assert_each_close(one.relevance[0], whole.relevance[b], rtol=1e-9, atol=1e-12)
        assert_each_close(one.amount[0], whole.amount[b], rtol=1e-12, atol=1e-12)


def test_books_balance(row: Row) -> None:
    """Amount = inputs + sinks, and the target's own sinks are among them by name."""
    lrp, x = setting(row, False)
    expl = lrp(x, target=row.target, audit=True)
    kept, target = expl.ledger.sinks, target_of(row)
    assert expl.ledger.imbalance < 1e-12
    assert expl.ledger.output == pytest.approx(float(expl.amount.sum()), rel=1e-12, abs=1e-12)
    assert float(expl.relevance.sum()) + sum(kept.values()) == pytest.approx(expl.ledger.output, rel=1e-9, abs=1e-9)
    assert_each_close(expl.amount, target.amount(output_of(row)), rtol=1e-12, atol=1e-12)
    for name, share in target.sinks(output_of(row)).items():
        assert kept[name] == pytest.approx(float(share.sum()), rel=1e-9)
    signed = setting(row)[0](x, target=row.target, audit=True).ledger
    assert signed.output == pytest.approx(float(expl.amount.sign().sum()), abs=1e-9)
    assert signed.imbalance < 1e-12


def test_it_is_linear_in_the_relevance_that_starts(row: Row) -> None:
    """A function that returns the target's shares is explained the same."""
    lrp, x = setting(row, False)
    target = target_of(row)
    assert_each_close(lrp(x, target=row.target).relevance, lrp(x, target=target.value).relevance, rtol=1e-9, atol=1e-12)


def test_half_precision_starts_with_float32_and_the_rest_keeps_its_dtype(row: Row) -> None:
    target, z = target_of(row), output_of(row)
    for dtype, kept in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        start, _ = Seed(target)(z.to(dtype))
        assert start.dtype == kept
        assert start.isfinite().all()


def test_what_it_chose_can_be_held(row: Row) -> None:
    target, z = target_of(row), output_of(row)
    held = target.held(z)
    assert_each_close(held.amount(z), target.amount(z), rtol=1e-12, atol=1e-12)
    assert_each_close(held.coefficients(z), target.coefficients(z), rtol=1e-9, atol=1e-12)


def test_coefficients_are_the_derivative(row: Row) -> None:
    """By central differences."""
    target, z = target_of(row), output_of(row)
    direction = rand(*z.shape)
    step = 1e-6
    slope = (target.amount(z + step * direction) - target.amount(z - step * direction)) / (2 * step)
    assert_each_close((target.coefficients(z) * direction).flatten(1).sum(1), slope, rtol=1e-6, atol=1e-8)


def test_it_prints_itself(row: Row) -> None:
    lrp, x = setting(row)
    said = str(target_of(row))
    assert "object at" not in said
    assert "tensor(" not in said
    assert lrp(x, target=row.target).explains == said


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk", [None, 4])
def test_each_is_a_call_for_each(model: str, chunk: int | None) -> None:
    rows = [row for row in ROWS.values() if row.model == model]
    lrp, x = setting(rows[0])
    together = lrp.each(x, targets=[row.target for row in rows], chunk=chunk, layers="0")
    for row, found in zip(rows, together, strict=True):
        single = lrp(x, target=row.target, layers="0")
        assert_each_close(found.relevance, single.relevance, rtol=1e-9, atol=1e-12)
        assert_each_close(found.layers["0"], single.layers["0"], rtol=1e-9, atol=1e-12)
        assert_each_close(found.amount, single.amount, rtol=1e-12, atol=1e-12)
        assert found.explains == single.explains


def test_each_audits(row: Row) -> None:
    lrp, x = setting(row)
    first, second = lrp.each(x, targets=[row.target, row.target], audit=True)
    assert first.ledger.output == second.ledger.output == lrp(x, target=row.target, audit=True).ledger.output


COMPILED = {
    "logits": ["logit", "per sample", "difference", "contrast, runner-up", "log-odds", "sum with sinks", "similarity"],
    "maps": ["map", "map, rest", "region"],
    "tokens": ["token", "token, log-odds", "token, difference of places", "span"],
}


@pytest.mark.parametrize("model", MODELS)
def test_compiled_is_the_same(model: str) -> None:
    rows = [ROWS[name] for name in COMPILED[model]]
    lrp, x = setting(rows[0])
    compiled = LRP(lrp.model, ZeroRule(), classes=CLASSES).compile(backend="eager")
    for row in rows:
        expected, found = lrp(x, target=row.target), [compiled(x, target=row.target) for _ in range(2)][-1]
        assert_each_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)
        assert_each_close(found.amount, expected.amount, rtol=1e-12, atol=1e-12)
    assert compiled._compiler is not None
    assert not compiled._compiler.failed


@pytest.mark.parametrize("analyzer", [Gradient, IntegratedGradients])
def test_derivatives_are_those_of_the_amount(row: Row, analyzer: Any) -> None:
    lrp, x = setting(row)
    options = {"steps": 2} if analyzer is IntegratedGradients else {}
    found = analyzer(model_of(row), classes=CLASSES, **options)(x, target=row.target)
    assert_each_close(found.amount, lrp(x, target=row.target).amount, rtol=1e-12, atol=1e-12)
    if analyzer is IntegratedGradients:
        assert found.relevance.isfinite().all()
        return
    leaf = x.clone().requires_grad_()
    target_of(row).amount(model_of(row)(leaf)).sum().backward()
    assert_each_close(found.relevance, leaf.grad, rtol=1e-8, atol=1e-12)


OTHERS: dict[str, Callable[[nn.Module, LRP], Analyzer]] = {
    "occlusion": lambda model, lrp: Occlusion(model, classes=CLASSES, patch=3),
    "noise around a gradient": lambda model, lrp: NoiseAugmentation(Gradient(model, classes=CLASSES), samples=2),
    "interpolation around LRP": lambda model, lrp: InterpolationAugmentation(lrp, steps=2),
}


@pytest.mark.parametrize("analyzer", OTHERS)
def test_other_analyzers_take_it_and_a_batch_is_its_samples(row: Row, analyzer: str) -> None:
    lrp, x = setting(row)
    other = OTHERS[analyzer](model_of(row), lrp)
    whole = other(x, target=row.target)
    assert whole.relevance.any()
    assert_each_close(whole.amount, lrp(x, target=row.target).amount, rtol=1e-12, atol=1e-12)
    for b in range(B):
        one = other(x[b : b + 1], target=row.target if row.one is None else row.one(b))
        assert_each_close(one.relevance, whole.relevance[b : b + 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sum with sinks", "region", "span", "contrast, runner-up"])
def test_an_artifact_keeps_target_and_setting(name: str, tmp_path: Any) -> None:
    import relprop

    row = ROWS[name]
    if row.one is not None:
        row = replace(row, target=row.one(0))
    lrp, x = setting(row)
    lrp.export(tmp_path / "a.pt2", (x,), target=row.target)
    again = relprop.load(tmp_path / "a.pt2")
    assert_each_close(again(x).relevance, lrp(x, target=row.target).relevance, rtol=1e-9, atol=1e-12)
    assert again.metadata.target == str(target_of(row))
