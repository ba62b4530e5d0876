"""Reference samples from a job: those that collecting finds, part by part."""

from __future__ import annotations

import pytest
import torch
from support.jobs import write_model, write_pictures

import relprop.jobs
from relprop import LRP
from relprop.composites import EpsilonGammaFlat, EpsilonPlus
from relprop.concepts import References
from relprop.errors import InputError, JobError
from relprop.models import load_model

pytest.importorskip("pyarrow")

COUNT, PASS = 22, 4
LAYER = "2"
FIELDS = ("sample", "score", "neuron", "label")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    source = write_pictures(folder / "pictures", COUNT)
    return {
        "model": write_model(folder),
        "source": source,
        "pass_size": PASS,
        "shard_size": 2 * PASS,
        "layers": [LAYER],
    }


@pytest.fixture(scope="module")
def lrp(options) -> LRP:
    loaded = load_model(options["model"])
    return LRP(loaded.model, EpsilonGammaFlat(), classes=loaded.classes)


def agree(found, expected):
    assert found.count == expected.count
    assert found.classes.keys() == expected.classes.keys()
    tables = [(found.top, expected.top), *((found.classes[c], expected.classes[c]) for c in expected.classes)]
    for ours, theirs in tables:
        for name in FIELDS:
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["label", "predicted"])
@pytest.mark.parametrize("sink", ["parquet", "zarr"])
def test_they_are_those_that_collecting_finds(options, lrp, tmp_path, target, sink):
    kept = {"keep": ("scores", "places"), "target": target, "sink": sink}
    for i in (1, 0):
        relprop.jobs.run(**options, **kept, out=tmp_path / f"part{i}", shard=f"{i}/2")
    relprop.jobs.merge([tmp_path / "part1", tmp_path / "part0"], tmp_path / "out")
    found = relprop.jobs.open(tmp_path / "out").references(lrp, LAYER, k=5, per_class=3)
    samples = relprop.jobs.Samples(load_model(options["model"]), options["source"])
    batches = samples.batches(PASS) if target == "label" else (x for x, _ in samples.batches(PASS))
    expected = References(lrp, LAYER, k=5, per_class=3).collect(batches)
    agree(found.store, expected.store)
    ours, theirs = found.of(3, samples, 2), expected.of(3, samples, 2)
    assert [each.sample for each in ours] == [each.sample for each in theirs]
    torch.testing.assert_close(ours[0].field, theirs[0].field)
    found.save(tmp_path / "references.safetensors")
    again = References(lrp, LAYER, k=5, per_class=3, path=tmp_path / "references.safetensors")
    agree(again.store, expected.store)


def test_what_is_missing_is_said(options, lrp, tmp_path):
    relprop.jobs.run(**options, out=tmp_path / "scores")
    with pytest.raises(
        InputError, match=r"kept no places of '2': run it with layers=\['2'\] and keep=\['scores', 'places'\]"
    ):
        relprop.jobs.open(tmp_path / "scores").references(lrp, LAYER)
    kept = {"keep": ("scores", "places")}
    relprop.jobs.run(**options, **kept, target="left", out=tmp_path / "left")
    with pytest.raises(InputError, match="the job explained target='left'"):
        relprop.jobs.open(tmp_path / "left").references(lrp, LAYER)
    relprop.jobs.run(**options, **kept, out=tmp_path / "out")
    other = LRP(lrp.model, EpsilonPlus())
    with pytest.raises(InputError, match="the job was run with another composite than this analyzer's"):
        relprop.jobs.open(tmp_path / "out").references(other, LAYER)
    with pytest.raises(JobError, match="keep names 'places', of the scores"):
        relprop.jobs.run(**options, keep=("places",), out=tmp_path / "places")
