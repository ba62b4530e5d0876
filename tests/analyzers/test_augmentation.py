"""Analyzers around another one: means over changed inputs, against loops that are written out."""

from __future__ import annotations

import math

import pytest
import torch
from support.compare import assert_close
from support.networks import Tokens, cnn
from torch import Tensor, nn

from relprop import LRP
from relprop.analyzers import (
    Analyzer,
    Gradient,
    InputTimesGradient,
    IntegratedGradients,
    InterpolationAugmentation,
    NoiseAugmentation,
    SmoothGrad,
    TranslationAugmentation,
)
from relprop.composites import EpsilonPlus
from relprop.errors import InputError
from relprop.targets import Contrast

X = torch.rand(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net() -> nn.Module:
    torch.manual_seed(5)
    return cnn().double().eval()


def lrp(model: nn.Module) -> LRP:
    return LRP(model, EpsilonPlus(), normalize_output=False)


AROUND = {
    "noise": lambda inner: NoiseAugmentation(inner, samples=3, noise=0.5),
    "interpolation": lambda inner: InterpolationAugmentation(inner, reference=0.5, steps=3),
    "translation": lambda inner: TranslationAugmentation(inner, shift=1),
}
ANALYZERS = {"LRP": lrp, "Gradient": Gradient, "SmoothGrad": lambda model: SmoothGrad(model, samples=2)}

around_any = [
    pytest.mark.parametrize("around", AROUND.values(), ids=AROUND),
    pytest.mark.parametrize("inner", ANALYZERS.values(), ids=ANALYZERS),
]


def with_marks(test):  # type: ignore[no-untyped-def]
    for mark in around_any:
        test = mark(test)
    return test


@with_marks
def test_a_batch_is_a_loop_over_its_samples_and_calls_repeat(around, inner) -> None:  # type: ignore[no-untyped-def]
    analyzer: Analyzer = around(inner(net()))
    expl = analyzer(X)
    assert torch.equal(analyzer(X).relevance, expl.relevance)
    for i in range(len(X)):
        assert_close(analyzer(X[i : i + 1]).relevance[0], expl.relevance[i], rtol=1e-12)
    assert_close(expl.output, net()(X), rtol=1e-12)
    assert torch.equal(expl.target, net()(X).argmax(1))
    assert_close(expl.amount, net()(X).amax(1), rtol=1e-12)
    assert expl.explains == "the largest output of each sample"


def test_noise_is_averaged() -> None:
    model, generator = net(), torch.Generator().manual_seed(7)
    spread = X.flatten(1).amax(1) - X.flatten(1).amin(1)
    total = torch.zeros_like(X)
    for _ in range(4):
        noise = torch.randn(X.shape[1:], generator=generator).double()
        total += lrp(model)(X + 0.2 * spread.reshape(-1, 1, 1, 1) * noise, target=1).relevance / 4
    found = NoiseAugmentation(lrp(model), samples=4, noise=0.2, seed=7)(X, target=1)
    assert_close(found.relevance, total, rtol=1e-12)
    other = NoiseAugmentation(lrp(model), samples=4, noise=0.2, seed=8)(X, target=1)
    assert (other.relevance - found.relevance).norm() > 1e-3 * total.norm()


def test_around_a_gradient_they_are_smoothgrad_and_integrated_gradients() -> None:
    model = net()
    noise, path = {"samples": 3, "noise": 0.3, "seed": 2}, {"reference": torch.rand(8, 8).double(), "steps": 5}
    smooth, way = NoiseAugmentation(Gradient(model), **noise), InterpolationAugmentation(Gradient(model), **path)
    assert_close(smooth(X, target=2).relevance, SmoothGrad(model, **noise)(X, target=2).relevance, rtol=1e-12)
    assert_close(way(X, target=2).relevance, IntegratedGradients(model, **path)(X, target=2).relevance, rtol=1e-12)


def test_relevance_on_a_way_is_averaged_as_it_is() -> None:
    """Input times gradient is a share of the output already: it is not multiplied again."""
    model = net()
    expected = sum(InputTimesGradient(model)(X * t, target=1).relevance for t in (0.25, 0.75)) / 2
    found = InterpolationAugmentation(InputTimesGradient(model), steps=2)(X, target=1)
    assert_close(found.relevance, expected, rtol=1e-12)


def test_translations_are_shifted_back() -> None:
    model, total = net(), torch.zeros_like(X)
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            moved = lrp(model)(X.roll((dy, dx), (2, 3)), target=0).relevance
            total += moved.roll((-dy, -dx), (2, 3)) / 9
    found = TranslationAugmentation(lrp(model), shift=3, step=2)(X, target=0)
    assert_close(found.relevance, total, rtol=1e-12)
    signal = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).double()
    x = torch.rand(2, 2, 8).double()
    expected = sum(Gradient(signal)(x.roll(d, 2), target=0).relevance.roll(-d, 2) for d in (-1, 0, 1)) / 3
    found = TranslationAugmentation(Gradient(signal), shift=1)(x, target=0)
    assert_close(found.relevance, expected, rtol=1e-12)


def test_what_is_explained_is_fixed_by_the_unchanged_input() -> None:
    """With much noise the largest output is another one; the one that is explained is not."""
    model, wild = net(), {"samples": 4, "noise": 20.0}
    first = model(X).argmax(1)
    assert any((model(X + 20 * torch.randn(X.shape[1:]).double()).argmax(1) != first).any() for _ in range(20))
    for analyzer in (lrp(model), Gradient(model)):
        around = NoiseAugmentation(analyzer, **wild)
        assert_close(around(X).relevance, around(X, target=first).relevance, rtol=1e-12)
    runner_up = model(X).topk(2).indices[:, 1]
    around, pairs = NoiseAugmentation(Gradient(model), **wild), torch.stack([first, runner_up], 1).tolist()
    expected = [around(X[i : i + 1], target=Contrast(a, against=b)).relevance for i, (a, b) in enumerate(pairs)]
    assert_close(around(X, target=Contrast(None, against="runner-up")).relevance, torch.cat(expected), rtol=1e-12)


def test_one_around_another_and_options_that_say_what_is_explained() -> None:
    model = net()
    nested = TranslationAugmentation(NoiseAugmentation(lrp(model), samples=2), shift=1)(X, target=1)
    assert nested.relevance.shape == X.shape
    found = NoiseAugmentation(lrp(model), noise=0.0, samples=2)(
        X, target=(1, 1, 1), start="3", conditions={"0": "stop"}
    )
    assert not found.relevance.any()
    plain = NoiseAugmentation(lrp(model), noise=0.0, samples=2)(X, target=(1, 1, 1), start="3")
    assert_close(plain.relevance, lrp(model)(X, target=(1, 1, 1), start="3").relevance, rtol=1e-12)


class Weighted(nn.Module):
    """Two inputs, of which one masks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = (x.sum(2) + mask).softmax(1)
        return self.head((scores[..., None] * x).sum(1))


def test_masks_are_left_alone() -> None:
    model, x, mask = Weighted().double(), torch.rand(2, 5, 4).double(), torch.zeros(2, 5).double()
    mask[:, 3:] = -math.inf
    expl = NoiseAugmentation(Gradient(model), samples=3)(x, mask, target=1)
    assert expl.by_input["x"].isfinite().all()
    assert not expl.by_input["x"][:, 3:].any()
    assert expl.by_input["x"][:, :3].any()


def test_instances_of_a_bag_get_noise_of_their_own() -> None:
    class Bag(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**2).mean(0, keepdim=True)

    x = torch.zeros(6, 4)
    x[:, 0] = 1.0
    relevance = NoiseAugmentation(Gradient(Bag()), samples=1, noise=1.0)(x, target=1).relevance
    assert len(set(relevance[:, 1].tolist())) == 6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model: NoiseAugmentation(model), "takes an analyzer"),
        (lambda model: NoiseAugmentation(Gradient(model), samples=0), "samples >= 1"),
        (lambda model: InterpolationAugmentation(Gradient(model), steps=0), "steps >= 1"),
        (lambda model: TranslationAugmentation(Gradient(model), shift=-1), "shift >= 0"),
        (lambda model: InterpolationAugmentation(Gradient(model), reference=torch.rand(3))(X), "does not broadcast"),
        (lambda model: InterpolationAugmentation(Gradient(model), reference=(0.0, 1.0))(X), "2 references for 1"),
        (lambda model: NoiseAugmentation(lrp(model))(X, layers=True), "For layers= ask its analyzer itself, LRP"),
        (lambda model: NoiseAugmentation(lrp(model))(X, audit=True), "For audit="),
        (lambda _: TranslationAugmentation(Gradient(nn.Linear(3, 2)))(torch.rand(2, 3)), "Nothing can be shifted"),
    ],
)
def test_what_makes_no_sense(make, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=says):
        make(net())


def test_token_ids_have_analyzers_of_their_own() -> None:
    model, ids = Tokens().eval(), torch.randint(0, 11, (2, 6))
    with pytest.raises(InputError, match="SmoothGrad and IntegratedGradients change the embeddings"):
        NoiseAugmentation(Gradient(model))(ids, torch.ones(2, 6, dtype=torch.long))
    analyzer = SmoothGrad(model, samples=2)
    both = analyzer(ids, torch.ones(2, 6, dtype=torch.long), target=1).relevance
    alone = analyzer(ids[1:], torch.ones(1, 6, dtype=torch.long), target=1).relevance
    assert_close(both[1:], alone, rtol=1e-5)
