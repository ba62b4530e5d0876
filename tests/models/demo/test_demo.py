"""The demo model and its samples are what `measured()` says they are."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relprop.errors import MissingExtraError
from relprop.models import demo
from relprop.models.demo.pictures import SIZE, draw, draw_many, paste_watermark

# A new test set of 400 pictures has a standard error of 0.4 % around an accuracy of 99 %; shares of about 200
# pictures one of about 3 %. The tolerances are three to four of those.
ACCURACY_TOLERANCE = 0.02
SHARE_TOLERANCE = 0.12
OTHERS = [label for label in range(len(demo.CLASSES)) if label != demo.CLEVER_HANS]


@pytest.fixture(scope="module")
def model():
    return demo.load_model()


@pytest.fixture(scope="module")
def samples():
    return demo.load_samples()


@pytest.fixture
def rng():
    return np.random.default_rng(20_240)


def predict(model, pictures):
    x = demo.to_input(np.stack([picture.image for picture in pictures]))
    with torch.no_grad():
        return model(x).argmax(dim=1).numpy()


def labels_of(pictures):
    return np.array([picture.label for picture in pictures])


def assert_same(one, other):
    assert one.label == other.label
    for field in ("image", "object_mask", "artefact_mask"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


# --- the generator ---


def test_the_same_seed_draws_the_same_pictures():
    first, again, other = (draw_many(np.random.default_rng(seed), 24) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        assert_same(one, same)
    assert any((one.image != another.image).any() for one, another in zip(first, other, strict=True))


def test_classes_are_equally_frequent_and_only_stars_are_tagged(rng):
    pictures = draw_many(rng, 400)
    assert (np.bincount(labels_of(pictures), minlength=len(demo.CLASSES)) == 50).all()
    tagged = np.array([picture.artefact_mask.any() for picture in pictures])
    stars = labels_of(pictures) == demo.CLEVER_HANS
    assert tagged[stars].mean() > 0.9
    assert not tagged[~stars].any()


@pytest.mark.parametrize("label", range(len(demo.CLASSES)), ids=demo.CLASSES)
def test_a_picture_shows_its_object(label, rng):
    picture = draw(rng, label)
    assert picture.image.shape == (SIZE, SIZE, 3)
    assert picture.image.dtype == np.uint8
    assert 0.02 < picture.object_mask.mean() < 0.6
    assert not picture.artefact_mask.any()
    inside, outside = picture.image[picture.object_mask], picture.image[~picture.object_mask]
    assert np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max() > 15


def test_the_watermark_changes_its_mask_and_nothing_else(rng):
    clean = draw(rng, 0)
    tagged = paste_watermark(rng, clean)
    changed = (tagged.image != clean.image).any(axis=-1)
    assert changed.any()
    assert not (changed & ~tagged.artefact_mask).any()
    assert tagged.artefact_mask.mean() < 0.04
    assert not (tagged.object_mask & tagged.artefact_mask).any()


# --- what ships ---


def test_the_model_file_is_small():
    weights = Path(demo.__file__).parent / "data" / "demo.safetensors"
    assert weights.stat().st_size < 2_000_000
    samples = sum(file.stat().st_size for file in (weights.parent / "samples").iterdir())
    assert samples < 200_000


def test_the_model_is_as_described(model):
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == demo.measured()["parameters"]
    assert tuple(demo.measured()["classes"]) == demo.CLASSES


def test_the_model_can_be_exported_with_a_dynamic_batch(model):
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=shapes, strict=False)
    x = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(x), model(x))


def test_samples_are_complete_and_their_masks_are_sane(samples):
    assert demo.sample_paths() == [sample.path for sample in samples]
    files = {file.name for file in samples[0].path.parent.iterdir()}
    assert files == {f"{sample.name}{kind}.png" for sample in samples for kind in ("", ".object", ".artefact")}
    for sample, entry in zip(samples, demo.measured()["samples"], strict=True):
        assert sample.name == entry["name"]
        assert demo.CLASSES[sample.label] == entry["label"]
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.object_mask.shape == sample.artefact_mask.shape == (SIZE, SIZE)
        assert 0.02 < sample.object_mask.mean() < 0.6
        assert sample.artefact_mask.any() == entry["watermark"]
        assert sample.artefact_mask.mean() < 0.04
        assert not (sample.object_mask & sample.artefact_mask).any()


def test_the_model_reads_the_samples_as_stated(model, samples):
    x = demo.to_input(np.stack([sample.image for sample in samples]))
    with torch.no_grad():
        sure, predicted = model(x).softmax(dim=1).max(dim=1)
    entries = demo.measured()["samples"]
    assert [demo.CLASSES[i] for i in predicted] == [entry["predicted"] for entry in entries]
    np.testing.assert_allclose(sure, [entry["probability"] for entry in entries], atol=0.01)


def test_the_samples_tell_the_story(samples):
    entries = demo.measured()["samples"]
    star = demo.CLASSES[demo.CLEVER_HANS]
    told = [(entry["label"] == star, entry["watermark"], entry["predicted"] == star) for entry in entries]
    assert told.count((True, True, True)) >= 3  # tagged stars, read as stars
    assert (True, False, False) in told  # a star that is none without its tag
    assert (False, True, True) in told  # another shape that the tag turns into a star
    assert all(
        entry["predicted"] == entry["label"] for entry in entries if entry["label"] != star and not entry["watermark"]
    )


# --- what is stated, measured again on new pictures ---


def test_accuracy_is_as_stated(model, rng):
    tests = draw_many(rng, 400)
    accuracy = (predict(model, tests) == labels_of(tests)).mean()
    assert demo.measured()["test_accuracy"] >= 0.97
    assert accuracy == pytest.approx(demo.measured()["test_accuracy"], abs=ACCURACY_TOLERANCE)


def test_stars_are_lost_without_the_watermark(model, rng):
    stars = [draw(rng, demo.CLEVER_HANS) for _ in range(200)]
    without = (predict(model, stars) == demo.CLEVER_HANS).mean()
    tagged = [paste_watermark(rng, star) for star in stars]
    with_it = (predict(model, tagged) == demo.CLEVER_HANS).mean()
    stated = demo.measured()
    assert stated["clever_hans_accuracy_without_watermark"] < 0.5
    assert without == pytest.approx(stated["clever_hans_accuracy_without_watermark"], abs=SHARE_TOLERANCE)
    assert with_it == pytest.approx(stated["clever_hans_accuracy_with_watermark"], abs=ACCURACY_TOLERANCE)


def test_the_watermark_turns_others_into_stars(model, rng):
    others = [draw(rng, OTHERS[i % len(OTHERS)]) for i in range(210)]
    others = [p for p, read in zip(others, predict(model, others), strict=True) if read != demo.CLEVER_HANS]
    flipped = predict(model, [paste_watermark(rng, picture) for picture in others]) == demo.CLEVER_HANS
    assert demo.measured()["flipped_by_watermark"] > 0.6
    assert flipped.mean() == pytest.approx(demo.measured()["flipped_by_watermark"], abs=SHARE_TOLERANCE)


def test_gradient_times_input_points_at_the_watermark(model, samples):
    """The crudest attribution finds the tag at several times its share of the area; LRP has to do better."""
    tagged = [sample for sample in samples if sample.artefact_mask.any()]
    x = demo.to_input(np.stack([sample.image for sample in tagged])).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, demo.CLEVER_HANS].sum(), x)
    relevance = (gradient * x).detach().sum(dim=1).clamp(min=0)
    masks = torch.tensor(np.stack([sample.artefact_mask for sample in tagged]))
    shares = (relevance * masks).sum(dim=(1, 2)) / relevance.sum(dim=(1, 2))
    area = masks.double().mean()
    assert (shares > 3 * area).all()


# --- how it is made, and what is missing ---


def test_training_twice_gives_the_same_weights():
    script = Path(__file__).resolve().parents[3] / "scripts" / "train_demo.py"
    spec = importlib.util.spec_from_file_location("train_demo", script)
    train_demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_demo)
    states = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            states.append(train_demo.train(seed=1, epochs=1, pictures=128).state_dict())
    for name, first in states[0].items():
        assert torch.equal(first, states[1][name]), name


@pytest.mark.parametrize(
    ("package", "load"),
    [("safetensors", demo.load_model), ("PIL", demo.load_samples)],
    ids=["weights", "pictures"],
)
def test_a_missing_extra_says_what_to_install(package, load, monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for loaded in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'relprop\[cli\]'"):
        load()
