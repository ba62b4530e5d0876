"""What the demo model's channels mean: the watermark's reference samples show the watermark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from relprop import LRP
from relprop.composites import EpsilonPlusFlat
from relprop.concepts import CRP, Neurons, References, ReferenceSample, TopNFeatures, atlas, collect, cropped
from relprop.concepts.atlas import as_picture, share_of
from relprop.concepts.crops import field_of_view
from relprop.errors import ImageError, InputError
from relprop.models import demo
from relprop.models.demo.pictures import Drawing, draw_many

LAYER, MARK = "features.block2.relu", 5
"""Channel 5 is the first that tests/concepts/test_crp.py finds from relevance with and without the mark."""


@dataclass(frozen=True)
class Seen:
    lrp: LRP
    pictures: list[Drawing]
    x: Tensor
    by: dict[str, References]


@pytest.fixture(scope="module")
def seen() -> Seen:
    pictures = draw_many(np.random.default_rng(3), 96)
    x = demo.to_input(np.stack([p.image for p in pictures]))
    labels = torch.tensor([p.label for p in pictures])
    lrp = LRP(demo.load_model(), EpsilonPlusFlat())
    by = {kind: References(lrp, LAYER, kind=kind, k=8, dataset="96 drawings") for kind in ("relevance", "activation")}
    collect(zip(x.split(24), labels.split(24), strict=True), list(by.values()))
    return Seen(lrp, pictures, x, by)


@pytest.fixture
def figures() -> Iterator[None]:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield
    pyplot.close("all")


def in_the_mark(found: ReferenceSample, relevance: Tensor, seen: Seen) -> float:
    mask = torch.from_numpy(seen.pictures[found.sample].artefact_mask)
    positive = relevance.sum(0).clamp(min=0)
    return float(positive[mask].sum() / positive.sum())


@pytest.mark.parametrize(("kind", "least"), [("relevance", 0.7), ("activation", 0.25)])
def test_references_of_the_marks_channel_show_the_mark(seen: Seen, kind: str, least: float) -> None:
    found = seen.by[kind].of(MARK, seen.x, 8)
    assert all(reference.label == demo.CLEVER_HANS for reference in found)
    wholes = [in_the_mark(r, r.relevance, seen) for r in found]
    fields = [in_the_mark(r, r.field, seen) for r in found]
    assert np.mean(wholes) > least, wholes
    assert min(fields) > 0.75, fields
    area = float(np.mean([seen.pictures[r.sample].artefact_mask.mean() for r in found]))
    assert area < 0.1, "the mark is most of the picture"
    assert seen.by[kind].statistics(MARK, 1)[0][0] == demo.CLEVER_HANS


def test_crops_lie_on_the_mark(seen: Seen) -> None:
    for found in seen.by["relevance"].of(MARK, seen.x, 8):
        view = field_of_view(found.field)
        height, width = view.rows[1] - view.rows[0], view.columns[1] - view.columns[0]
        assert height < 24
        assert width < 24
        assert seen.pictures[found.sample].artefact_mask[slice(*view.rows), slice(*view.columns)].mean() > 0.4
        assert cropped(found).shape == (height, width, 3)


def test_an_atlas_has_a_row_for_each_concept(seen: Seen, figures: None) -> None:
    star = next(s for s in demo.load_samples() if s.label == demo.CLEVER_HANS and s.artefact_mask.any())
    x = torch.cat([seen.x[:1], demo.to_input(star.image[None])])
    concepts = CRP(seen.lrp, LAYER, TopNFeatures(3))(x, target=demo.CLEVER_HANS)
    figure = atlas(concepts, seen.by["relevance"], seen.x, x, sample=1, n=4, classes=demo.CLASSES)
    rows = np.reshape(figure.axes, (3, 6))
    features = concepts.features[:, 1].tolist()
    assert features[0] == MARK
    assert [row[1].get_ylabel().split("\n")[0] for row in rows] == [str(f) for f in features]
    shares = share_of(concepts, 1)
    assert rows[0][1].get_ylabel().split("\n")[1] == f"{shares[0]:.0%}"
    assert shares[0] == pytest.approx(float(concepts.scores[1, MARK] / concepts.scores[1].sum()))
    first = seen.by["relevance"].store.top.sample[features[1], 0]
    assert rows[1][2].get_title().endswith(f"#{first}")
    assert np.array_equal(rows[0][2].images[0].get_array(), cropped(seen.by["relevance"].of(MARK, seen.x, 1)[0]))
    whole = atlas(concepts, seen.by["activation"], seen.x, x, sample=1, n=2, crop=False)
    assert whole.axes[2].images[0].get_array().shape == (64, 64, 3)
    figure.canvas.draw()


def test_refusals(seen: Seen, figures: None) -> None:
    concepts = CRP(seen.lrp, LAYER, TopNFeatures(1))(seen.x[:1], target=4)
    other = References(seen.lrp, LAYER, group=Neurons())
    with pytest.raises(
        InputError, match=r"Channels\(\) of 'features.block2.relu', the reference samples those of Neur"
    ):
        atlas(concepts, other, seen.x, seen.x[:1])
    with pytest.raises(ImageError, match="give show="):
        as_picture(torch.rand(4, 8, 8))
    assert as_picture(torch.zeros(1, 2, 2)).tolist() == [[[0] * 3] * 2] * 2
