"""A job in parts, and the parts put together: the bytes of a job that was not divided."""

from __future__ import annotations

import os
import signal

import pytest
from support.jobs import files_of, write_model, write_pictures

import relprop.jobs
from relprop.errors import JobError

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    source = write_pictures(folder / "pictures", 22)
    sorted(source.rglob("*.png"))[9].write_bytes(b"no picture")
    return {"model": write_model(folder), "source": source, "pass_size": 2, "shard_size": 4}


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    relprop.jobs.run(**options, out=out)
    return files_of(out)


def test_merging_is_associative_and_commutative(options, whole, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    done = [relprop.jobs.run(**options, out=out, shard=f"{i}/3").done for i, out in enumerate((a, b, c))]
    assert sum(done) == 22
    assert all(not set(files_of(a)) & set(files_of(other)) - {"manifest.json", "samples.parquet"} for other in (b, c))
    assert relprop.jobs.merge([a, b, c], tmp_path / "abc").done == 22
    relprop.jobs.merge([c, b], tmp_path / "cb")
    relprop.jobs.merge([tmp_path / "cb", a], tmp_path / "cba")
    relprop.jobs.merge([a, b], tmp_path / "ab")
    finished = relprop.jobs.merge([c], tmp_path / "ab")
    assert [failure.index for failure in finished.failed] == [9]
    for name in ("abc", "cba", "ab"):
        assert files_of(tmp_path / name) == whole


def test_parts_in_one_folder_need_no_merging(options, whole, tmp_path):
    for i in (1, 0):
        relprop.jobs.run(**options, out=tmp_path / "out", shard=f"{i}/2")
    assert files_of(tmp_path / "out") == whole


def test_a_merge_of_interrupted_parts_goes_on(options, whole, tmp_path):
    def stop(progress):
        os.kill(os.getpid(), signal.SIGTERM)

    relprop.jobs.run(**options, out=tmp_path / "a", progress=stop)
    relprop.jobs.run(**options, out=tmp_path / "b", shard="1/2")
    assert relprop.jobs.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").done == 2 + 10
    assert relprop.jobs.run(**options, out=tmp_path / "out").explained == 22 - 12
    assert files_of(tmp_path / "out") == whole


def test_of_two_rows_that_without_an_error_stays(options, tmp_path):
    source = tmp_path / "pictures"
    write_pictures(source, 6)
    broken = sorted(source.rglob("*.png"))[1]
    good = broken.read_bytes()
    options = options | {"source": source}
    relprop.jobs.run(**options, out=tmp_path / "good")
    broken.write_bytes(b"x" * len(good))  # of the same size: it could not be read on one of the machines
    relprop.jobs.run(**options, out=tmp_path / "bad")
    assert len(relprop.jobs.open(tmp_path / "bad").failed) == 1
    for order in (("good", "bad"), ("bad", "good")):
        out = tmp_path / "-".join(order)
        assert relprop.jobs.merge([tmp_path / name for name in order], out).failed == []
        assert files_of(out) == files_of(tmp_path / "good")


def test_parts_of_different_jobs_do_not_mix(options, tmp_path):
    relprop.jobs.run(**options, out=tmp_path / "a", shard="0/2")
    relprop.jobs.run(**options, out=tmp_path / "b", shard="1/2", composite="epsilon-plus")
    with pytest.raises(JobError, match="composite"):
        relprop.jobs.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(JobError, match="nothing to merge"):
        relprop.jobs.merge([], tmp_path / "out")
    with pytest.raises(JobError, match="holds no results"):
        relprop.jobs.merge([tmp_path], tmp_path / "out")
