"""kill -9 at random points: nothing is lost, nothing is there twice, and every byte is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.jobs import files_of, forked, write_model, write_pictures

import relprop.jobs
from relprop.jobs.datasets.disk import locked
from relprop.jobs.datasets.job import make_job
from relprop.jobs.datasets.sources import open_source
from relprop.jobs.datasets.stopping import Stopping
from relprop.jobs.datasets.work import Run, prepare

pytest.importorskip("pyarrow")

COUNT = 24


def begin(model: str, pictures: Path, out: Path, sink: str):
    """A job that has not explained anything yet, and what explains it, as often as it is called."""
    job = make_job(model=model, source=pictures, out=out, pass_size=2, shard_size=4, batch_size=4, sink=sink)
    out.mkdir()
    source = open_source(job.source)
    parts, explainer = prepare(job, source)

    def work() -> None:
        with locked(out):
            parts.clean(None)
            Run(job, parts, range(parts.manifest.shards)).over(source, explainer, Stopping())

    return work


@pytest.mark.parametrize(
    ("kills", "sink"),
    [
        (10, "parquet"),
        (8, "zarr"),
        pytest.param(100, "parquet", marks=pytest.mark.slow),
        pytest.param(100, "zarr", marks=pytest.mark.slow),
    ],
)
def test_kill_9_loses_and_repeats_nothing(tmp_path, kills, sink):
    model, pictures = write_model(tmp_path / "model"), write_pictures(tmp_path / "pictures", COUNT)
    undisturbed = begin(model, pictures, tmp_path / "undisturbed", sink)
    started = time.monotonic()
    undisturbed()
    took = time.monotonic() - started
    expected = files_of(tmp_path / "undisturbed")
    rng = random.Random(kills)
    out, hit = tmp_path / "out", 0
    work = begin(model, pictures, out, sink)
    while hit < kills:
        child = forked(work)
        time.sleep(rng.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        there = {name: data for name, data in files_of(out).items() if ".writing-" not in name}
        assert there.items() <= expected.items()  # whole or not there
        if os.WIFSIGNALED(ended):
            hit += 1
            continue
        assert files_of(out) == expected  # it was done before the shot: once more
        for path in out.glob("part-*"):
            path.unlink()
    work()
    assert files_of(out) == expected
    assert [row["index"] for row in relprop.jobs.open(out)] == list(range(COUNT))
