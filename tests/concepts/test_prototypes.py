"""Prototypes of explanations, and what is unlike them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.compare import assert_close
from torch import nn

from relprop import LRP
from relprop.composites import EpsilonPlus, EpsilonPlusFlat
from relprop.concepts import Channels, Prototypes
from relprop.errors import InputError
from relprop.models import demo
from relprop.models.demo.pictures import draw, paste_watermark

X = torch.rand(30, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(30) % 3


def analyzer(**options: Any) -> LRP:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)]
    return LRP(nn.Sequential(*layers).double(), EpsilonPlus(), **options)


def fitted(n: int = 2, nearest: int = 3) -> Prototypes:
    return Prototypes(analyzer(), "1", n=n, nearest=nearest).fit([(X[:13], Y[:13]), (X[13:], Y[13:])])


def test_they_are_mixtures_of_concept_vectors() -> None:
    found = fitted(n=1)
    vectors = Channels().sums(analyzer(normalize_output=False)(X, target=Y, layers="1").layers["1"])
    assert list(found.classes) == [0, 1, 2]
    for c, known in found.classes.items():
        own = vectors[c == Y]
        assert_close(known.mixture.means[0], own.mean(0), rtol=1e-9)
        assert_close(known.scores, (-known.mixture.log_density(own)).sort().values, rtol=1e-7)
        near = (own - own.mean(0)).norm(dim=1).argsort()[:3]
        assert known.nearest[0].tolist() == (c == Y).nonzero()[near, 0].tolist()


def test_a_comparison_is_with_the_nearest_of_its_class() -> None:
    found, labels = fitted(), Y[:7]
    vectors = Channels().sums(analyzer(normalize_output=False)(X[:7], target=labels, layers="1").layers["1"])
    told = found.compare(X[:7], labels)
    assert_close(told.vectors, vectors, rtol=1e-9)
    for b in range(7):
        known = found.classes[int(labels[b])]
        joint = known.mixture.joint(vectors[b : b + 1])[0]
        assert int(told.prototype[b]) == int(joint.argmax())
        assert_close(told.difference[b], vectors[b] - known.mixture.means[joint.argmax()], rtol=1e-7)
        assert float(told.score[b]) == pytest.approx(-float(joint.logsumexp(0)), rel=1e-7)
        lower = (known.scores < told.score[b] - 1e-9).double().mean()
        assert float(told.rank[b]) == pytest.approx(float(lower), abs=1.5 / len(known.scores))
    feature, difference = told.strongest(2, 1)[0]
    assert abs(difference) == pytest.approx(float(told.difference[2].abs().max()))
    assert difference == float(told.difference[2, feature])


def test_without_labels_it_is_the_largest_output() -> None:
    lrp = analyzer()
    predicted = lrp(X).target
    found = Prototypes(lrp, "1", n=1).fit([X])
    assert set(found.classes) == set(predicted.tolist())
    assert found.compare(X).classes.tolist() == predicted.tolist()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "prototypes.safetensors"
    found = fitted()
    found.save(file)
    read = Prototypes(analyzer(), "1", n=2, nearest=3).load(file)
    assert torch.equal(read.compare(X[:4], 1).score, found.compare(X[:4], 1).score)
    assert torch.equal(read.classes[2].nearest, found.classes[2].nearest)
    read.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="a different layer do not mix"):
        Prototypes(analyzer(), "0", n=2, nearest=3).load(file)
    with pytest.raises(InputError, match="a different composite do not mix"):
        Prototypes(LRP(analyzer().model, EpsilonPlusFlat()), "1", n=2, nearest=3).load(file)


def test_refusals() -> None:
    wrong = {
        "Class 0: 10 vectors.*too few for 11": lambda: fitted(n=11),
        "no batches": lambda: Prototypes(analyzer(), "1").fit([]),
        "prototypes of class 2, only of": lambda: Prototypes(analyzer(), "1", n=1).fit([(X, Y % 2)]).compare(X, 2),
        "Prototypes are of classes": lambda: fitted().compare(X, lambda y: y),
        "at least 1": lambda: fitted(n=0),
    }
    for message, call in wrong.items():
        with pytest.raises(InputError, match=message):
            call()


def test_stars_without_the_watermark_are_outliers_and_its_channels_say_so() -> None:
    """The prototypes know only stars with the mark; what a plain star lacks is channel 5, which reads it."""
    rng = np.random.default_rng(0)

    def inputs(pictures: list) -> torch.Tensor:
        return demo.to_input(np.stack([picture.image for picture in pictures]))

    lrp, star = LRP(demo.load_model(), EpsilonPlusFlat()), demo.CLEVER_HANS
    data = inputs([paste_watermark(rng, draw(rng, star)) for _ in range(48)])
    found = Prototypes(lrp, "features.block2.relu", n=2).fit([(data, torch.full((48,), star))])
    plain = [draw(rng, star) for _ in range(12)]
    without, with_mark = (
        found.compare(inputs(some), star) for some in (plain, [paste_watermark(rng, picture) for picture in plain])
    )
    assert float(without.rank.min()) > 0.95
    assert 0.2 < float(with_mark.rank.mean()) < 0.8
    lacks = without.difference.mean(0).argsort()[:3].tolist()
    assert 5 in lacks
    gaps = [float(some.difference[:, 5].mean()) for some in (without, with_mark)]
    assert gaps[0] < -0.2
    assert abs(gaps[1]) < 0.3 * abs(gaps[0])
