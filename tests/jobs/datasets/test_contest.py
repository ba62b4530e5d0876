"""A contest as a job: the numbers of `contest` on all samples at once, whatever happened on the way."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from support.jobs import files_of, write_model, write_pictures

import relprop.jobs
from relprop.errors import InputError, JobError, RelpropError
from relprop.evaluation import Patches, contest
from relprop.evaluation.entrants import ANALYZERS
from relprop.jobs.datasets.contestants import RandomRows
from relprop.models import load_model, open_picture

pytest.importorskip("pyarrow")
pc = pytest.importorskip("pyarrow.compute")

COUNT, PASS, SHARD = 16, 4, 4
METHODS = ("epsilon-plus", "zero", "input-times-gradient", "fickle", "never")
SCORES = ("srg", "gini")


def fickle(model):
    """The gradient, which cannot explain dark pictures."""

    def explain(model, inputs, target):
        if bool((inputs.mean((1, 2, 3)) < -0.03).any()):
            raise ValueError("too dark\nto see")
        return ANALYZERS["gradient"](model).explain(inputs, target=target).relevance

    return explain


def never(model):
    raise TypeError("no model like this")


@pytest.fixture(scope="module", autouse=True)
def entered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relprop.evaluation.entrants.ANALYZERS", {**ANALYZERS, "fickle": fickle, "never": never})
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    source = write_pictures(folder / "pictures", COUNT)
    evaluation = {"contest": METHODS, "metrics": SCORES, "steps": 4, "patch": 2}
    return {"model": write_model(folder), "source": source, "pass_size": PASS, "shard_size": SHARD} | evaluation


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    relprop.jobs.run(**options, out=out)
    return out


@pytest.fixture(scope="module")
def at_once(options):
    """The same contest on a batch of all samples."""
    loaded = load_model(options["model"])
    x = torch.cat([loaded.preprocess(open_picture(path)) for path in sorted(options["source"].rglob("*.png"))])
    low, high = loaded.preprocess.low[0], loaded.preprocess.high[0]
    known = {"groups": Patches(size=2), "steps": 4, "batch": PASS, "low": low, "high": high}
    return contest(loaded.model, x, None, METHODS, SCORES, **known)


def test_numbers_are_those_of_the_contest(whole, at_once):
    found = relprop.jobs.open(whole).contest()
    assert found.evaluation.setting == at_once.evaluation.setting
    assert (
        list(found.evaluation.scores) == list(at_once.evaluation.scores) == ["random", "centre", "epsilon-plus", "zero"]
    )
    for method, scores in at_once.evaluation.scores.items():
        for score, expected in scores.items():
            torch.testing.assert_close(found.evaluation.scores[method][score], expected, rtol=1e-5, atol=1e-7)
    assert found.same == at_once.same == {"input-times-gradient": "zero"}
    assert at_once.failed == {"fickle": "ValueError: too dark", "never": "TypeError: no model like this"}
    dark = relprop.jobs.open(whole).table(["refused"])["refused"].to_pylist()
    count = sum(any(text.startswith("fickle: ") for text in each) for each in dark)
    assert 0 < count < COUNT
    assert found.failed == at_once.failed | {"fickle": f"{count} of {COUNT} samples: ValueError: too dark"}
    for ours, theirs in zip(found.standings(), at_once.standings(), strict=True):
        assert ours.method == theirs.method
        assert (ours.low, ours.high, ours.wins) == pytest.approx((theirs.low, theirs.high, theirs.wins), rel=1e-4)
    assert str(found).splitlines()[1].split()[:2] == ["1", found.ranking()[0]]


def test_a_method_that_one_sample_stops_scores_the_others(whole, at_once, options):
    """Those of its pass are asked again, each on copies of itself."""
    frame = relprop.jobs.open(whole).pandas(["contest:fickle:srg", "contest:zero:srg"])
    loaded = load_model(options["model"])
    x = torch.cat([loaded.preprocess(open_picture(path)) for path in sorted(options["source"].rglob("*.png"))])
    bright = x.mean((1, 2, 3)) >= -0.03
    assert frame["contest:fickle:srg"].notna().tolist() == bright.tolist()
    assert any(0 < int(part.sum()) < PASS for part in bright.split(PASS))
    expected = contest(loaded.model, x[bright], None, ["fickle"], ["srg"], groups=Patches(size=2), steps=4)
    scores = torch.tensor(frame["contest:fickle:srg"].to_numpy())[bright]
    torch.testing.assert_close(scores, expected.evaluation.scores["fickle"]["srg"], rtol=1e-4, atol=1e-6)


def test_in_parts_and_interrupted_it_has_the_same_bytes(options, whole, tmp_path):
    """The part with the last samples comes first, so that what is random has to be found anew."""
    expected = files_of(whole)
    for i in (1, 0):
        relprop.jobs.run(**options, out=tmp_path / f"part{i}", shard=f"{i}/2")
    relprop.jobs.merge([tmp_path / "part1", tmp_path / "part0"], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == expected

    def after_some(progress):
        if progress.done >= SHARD + PASS:
            os.kill(os.getpid(), signal.SIGTERM)

    finished = relprop.jobs.run(**options, out=tmp_path / "out", progress=after_some)
    assert finished.stopped == "SIGTERM"
    assert relprop.jobs.open(tmp_path / "out").contest().evaluation.setting["samples"] == finished.done < COUNT
    assert relprop.jobs.run(**options, out=tmp_path / "out").explained == COUNT - finished.done
    assert files_of(tmp_path / "out") == expected


def test_the_contest_of_a_class(whole):
    found = relprop.jobs.open(whole)
    left = found.where(pc.field("label") == "left").contest()
    assert left.evaluation.setting["samples"] == COUNT // 2
    rows = found.pandas(["label", "contest:zero:srg"])
    expected = rows[rows["label"] == "left"]["contest:zero:srg"].tolist()
    assert left.evaluation.scores["zero"]["srg"].tolist() == expected
    with pytest.raises(InputError, match="no sample has an explanation"):
        found.where(pc.field("label") == "up").contest()


def test_masks_are_those_of_the_samples(options, tmp_path):
    """A third of the samples have none, and no score by it."""
    paths = sorted(options["source"].rglob("*.png"))
    masks = torch.zeros(COUNT, 8, 8, dtype=torch.bool)
    for i, path in enumerate(paths):
        if i % 3:
            mask = np.zeros((8, 8), np.uint8)
            mask[:3, i % 5 :] = 255
            masks[i] = torch.from_numpy(mask > 127)
            place = tmp_path / "masks" / path.parent.name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(place / f"{path.stem}.bmp")
    asked = options | {"contest": METHODS[:3], "metrics": (), "masks": tmp_path / "masks"}
    relprop.jobs.run(**asked, out=tmp_path / "out")
    found = relprop.jobs.open(tmp_path / "out").contest().evaluation
    assert list(found.better) == ["srg", "mass"]
    loaded = load_model(options["model"])
    x = torch.cat([loaded.preprocess(open_picture(path)) for path in paths])
    known = {"groups": Patches(size=2), "steps": 4, "batch": PASS}
    expected = contest(loaded.model, x, None, METHODS[:3], None, masks, **known).evaluation
    for method, scores in expected.scores.items():
        for score, values in scores.items():
            torch.testing.assert_close(found.scores[method][score], values, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert found.scores["zero"]["mass"].isnan().tolist() == [i % 3 == 0 for i in range(COUNT)]
    relprop.jobs.run(
        **(asked | {"contest": (), "metrics": ["mass"], "composite": "epsilon-plus"}), out=tmp_path / "metric"
    )
    column = torch.tensor(relprop.jobs.open(tmp_path / "metric").pandas()["metric:mass"].to_numpy())
    torch.testing.assert_close(column, found.scores["epsilon-plus"]["mass"], equal_nan=True)
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(
        tmp_path / "masks" / paths[1].parent.name / f"{paths[1].stem}.bmp"
    )
    with pytest.raises(JobError, match="preprocessing"):
        relprop.jobs.run(**asked, out=tmp_path / "out")


def test_random_rows_are_those_of_one_draw(monkeypatch):
    monkeypatch.setattr("relprop.jobs.datasets.contestants.DRAWN", 7)
    expected = torch.rand((40, 5, 3), generator=torch.Generator().manual_seed(3))
    rows = RandomRows(3)
    for first in (4, 8, 20, 0, 36, 12):
        assert torch.equal(rows.rows(first, (4, 5, 3)), expected[first : first + 4])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"contest": "zro"}, "nobody is named 'zro'"),
        ({"metrics": ["gini", "srg"]}, "'gini', which tells no good from bad"),
        ({"metrics": ["mass"]}, "metrics names 'mass', which needs masks="),
        ({"masks": "."}, "has no mask for any sample: KEY.png"),
        ({"steps": 0}, "steps=0: give a whole number from 1 on"),
        ({"seed": -1}, "seed=-1: give a whole number from 0 on"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(options, tmp_path, changed, told):
    with pytest.raises(RelpropError, match=told):
        relprop.jobs.run(**(options | changed), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not files_of(tmp_path / "out")


def test_other_settings_do_not_mix(options, whole):
    with pytest.raises(JobError, match="evaluation steps: 4 there, 5 here"):
        relprop.jobs.run(**(options | {"steps": 5}), out=whole)
    with pytest.raises(JobError, match="columns"):
        relprop.jobs.run(**(options | {"contest": METHODS[:2]}), out=whole)


def test_without_a_contest_it_says_how_to_hold_one(options, tmp_path):
    relprop.jobs.run(**(options | {"contest": (), "metrics": ()}), out=tmp_path / "out")
    with pytest.raises(InputError, match=r"held no contest: run it with contest=\[...\]"):
        relprop.jobs.open(tmp_path / "out").contest()
