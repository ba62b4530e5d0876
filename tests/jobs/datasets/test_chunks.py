"""Results in chunks of Zarr: the rows of Parquet, the same guarantees, and files that Zarr's own readers open."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from support.jobs import BROKEN, COUNT, PASS, SHARD, files_of, write_model

import relprop.jobs
from relprop.errors import InputError, JobError

pytest.importorskip("pyarrow")
pc = pytest.importorskip("pyarrow.compute")

KEEP = ("heatmap", "scores", "relevance")
CHUNK = 8
"""Rows of a chunk: what 64 and the shard size can both be divided by."""


@pytest.fixture(scope="module")
def whole(model, originals, tmp_path_factory):
    """The folder of an undisturbed job."""
    out = tmp_path_factory.mktemp("zarr") / "out"
    options = {"model": model, "source": originals, "pass_size": PASS, "shard_size": SHARD, "keep": KEEP}
    relprop.jobs.run(**options, sink="zarr", out=out)
    return out


@pytest.fixture
def zarr_job(job):
    """The job with this sink, into a folder of that name."""
    return lambda out="out", **changed: job(out, sink="zarr", keep=KEEP, **changed)


def plain(row):
    return {name: getattr(value, "tolist", lambda v=value: v)() for name, value in row.columns.items()}


def test_rows_are_those_of_parquet(whole, job, tmp_path):
    job("parquet", keep=KEEP)
    expected, found = relprop.jobs.open(tmp_path / "parquet"), relprop.jobs.open(whole)
    assert found.columns == expected.columns
    for ours, theirs in zip(found, expected, strict=True):
        assert plain(ours) == plain(theirs)
    assert found[BROKEN]["heatmap"] is found[BROKEN]["relevance"] is found[BROKEN]["scores:2"] is None
    for i in (17, 3, -1):
        assert plain(found[i]) == plain(expected[i])
    assert found.table().equals(expected.table())
    names = ["scores:2", "key", "heatmap_scale"]
    assert found.table(names).equals(expected.table(names))
    right = pc.field("label") == "right"
    assert [plain(row) for row in found.where(right)] == [plain(row) for row in expected.where(right)]
    assert plain(found.where(right)[4]) == plain(expected.where(right)[4])
    np.testing.assert_array_equal(found.means("heatmap")[None], expected.means("heatmap")[None])
    with pytest.raises(InputError, match="no column 'scores:3'"):
        found.table(["scores:3"])
    size = sum(path.stat().st_size for path in whole.glob("part-*"))
    assert size < sum(path.stat().st_size for path in (tmp_path / "parquet").glob("part-*"))


def test_zarr_opens_it(whole):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(whole / "arrays.zarr"), mode="r")
    rows = list(relprop.jobs.open(whole))
    assert group["heatmap"].shape == (COUNT, 8, 8)
    assert group["heatmap"].chunks == (CHUNK, 8, 8)
    assert group["heatmap"].dtype == np.float16
    units = np.asarray(group["heatmap"][:], np.float32) * np.asarray(group["heatmap_scale"][:])[:, None, None]
    for i, row in enumerate(rows):
        arrays = units[i], group["relevance"][i], group["scores/2"][i]
        if i == BROKEN:
            assert all(np.isnan(array).all() for array in arrays)
            continue
        for array, expected in zip(arrays, (row.heatmap, row.relevance, row.scores()), strict=True):
            np.testing.assert_array_equal(array, expected)
    assert json.loads(group.attrs["relprop.results"])["composite"] == "epsilon-gamma-flat"


def test_xarray_opens_it(whole):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    found = xarray.open_zarr(whole / "arrays.zarr", chunks=None)
    assert found["relevance"].dims == ("sample", "channel", "y", "x")
    assert found["heatmap"].dims == ("sample", "y", "x")
    np.testing.assert_array_equal(found["relevance"][3], relprop.jobs.open(whole)[3].relevance)


def test_reading_ahead_parts_and_merging_change_no_byte(zarr_job, whole, tmp_path):
    expected = files_of(whole)
    names = {name.rpartition("/")[0] for name in expected}
    assert names == {
        "",
        *(f"arrays.zarr{name}" for name in ("", "/heatmap", "/heatmap_scale", "/relevance", "/scores", "/scores/2")),
    }
    zarr_job("ahead", batch_size=7, workers=3)
    assert files_of(tmp_path / "ahead") == expected
    for i in (1, 0):
        zarr_job(f"part{i}", shard=f"{i}/2")
    relprop.jobs.merge([tmp_path / "part1", tmp_path / "part0"], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == expected


def test_a_signal_keeps_what_is_done(zarr_job, whole, tmp_path):
    def after_some(progress):
        if progress.done >= SHARD + PASS:
            os.kill(os.getpid(), signal.SIGTERM)

    assert zarr_job(progress=after_some).done == SHARD + PASS
    assert (tmp_path / "out" / "begun-000001.parquet").exists()
    assert zarr_job().explained == COUNT - SHARD - PASS
    assert files_of(tmp_path / "out") == files_of(whole)


def test_a_retry_reads_what_is_there(zarr_job, pictures, tmp_path):
    broken = sorted(pictures.rglob("*.png"))[BROKEN]
    zarr_job()
    broken.write_bytes(sorted(pictures.rglob("*.png"))[0].read_bytes())
    finished = zarr_job(retry=True)
    assert (finished.explained, finished.failed) == (1, [])
    zarr_job("repaired from the start")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "repaired from the start")


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_torn_chunk_is_made_anew(zarr_job, whole, tmp_path, harm):
    zarr_job()
    chunk = tmp_path / "out" / "arrays.zarr" / "heatmap" / "1.0.0"
    data = chunk.read_bytes()
    chunk.unlink() if harm == "gone" else chunk.write_bytes(data[:-9])
    with pytest.raises(JobError, match=r"part-000001.parquet is torn|1\.0\.0"):
        relprop.jobs.open(tmp_path / "out").heatmaps()
    with pytest.warns(UserWarning, match=r"part-000001.parquet is torn \(its chunk heatmap/1.0.0 is not whole\)"):
        assert zarr_job().explained == SHARD
    assert files_of(tmp_path / "out") == files_of(whole)


def test_a_flipped_bit_is_noticed(zarr_job, tmp_path):
    zarr_job()
    chunk = tmp_path / "out" / "arrays.zarr" / "scores" / "2" / "0.0"
    data = chunk.read_bytes()
    for place in range(0, len(data), 29):
        chunk.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(
            JobError, match=r"part-000000.parquet is torn \(its chunk scores/2/0.0 is not what was written"
        ):
            relprop.jobs.open(tmp_path / "out")[2]
    chunk.write_bytes(data)
    assert relprop.jobs.open(tmp_path / "out")[2].scores().shape == (5,)


def test_sinks_do_not_mix(zarr_job, job, tmp_path, done):
    with pytest.raises(JobError, match="sink: 'parquet' there, 'zarr' here"):
        job(sink="zarr")


def test_pictures_of_several_sizes_are_refused(tmp_path, pictures):
    from PIL import Image

    spec = write_model(tmp_path / "any")
    net = tmp_path / "any" / "net.py"
    text = net.read_text().replace("resize=8, crop=(8, 8), ", "")
    net.write_text(
        text.replace("nn.Flatten(), nn.Linear(80, 3)", "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)")
    )
    options = {"model": spec, "source": pictures, "pass_size": PASS, "shard_size": SHARD, "sink": "zarr"}
    paths = sorted(pictures.rglob("*.png"))
    for number in (2, SHARD + 2):  # beside others in its shard, and a shard of its own
        first = paths[number].read_bytes()
        for path in paths[SHARD:] if number > SHARD else [paths[number]]:
            Image.open(paths[0]).resize((12, 7)).save(path)
        with pytest.raises(JobError, match=r"has shape \(3, 7, 12\) and others another one.*sink='parquet'"):
            relprop.jobs.run(**options, out=tmp_path / f"out{number}")
        assert number == 2 or (tmp_path / f"out{number}" / "part-000000.parquet").exists()
        paths[number].write_bytes(first)
