"""What may break under a job: torn files, flipped bits, full disks, killed processes, a second process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time

import pytest
from support.jobs import COUNT, SHARD, files_of, forked

import relprop.jobs
from relprop.errors import JobError
from relprop.jobs.datasets import disk
from relprop.jobs.datasets.disk import locked

pytest.importorskip("pyarrow")


def test_a_torn_file_is_made_anew(job, tmp_path, done, undisturbed):
    part = tmp_path / "out" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(JobError, match="torn"):
        relprop.jobs.open(tmp_path / "out").table()
    with pytest.warns(UserWarning, match=r"part-000001.parquet is torn"):
        finished = job()
    assert finished.explained == SHARD
    assert files_of(tmp_path / "out") == undisturbed


def test_a_flipped_bit_is_noticed(tmp_path, done):
    """Wherever in the file it is, rows are those that were written, or there are none."""
    part = tmp_path / "out" / "part-000000.parquet"
    data = part.read_bytes()

    def read():
        try:
            return [repr(row.columns) for row in relprop.jobs.open(tmp_path / "out")]
        except JobError as error:
            return "torn" if "torn" in str(error) else error

    written, found = read(), []
    for place in range(4, len(data), 61):
        part.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        found.append(read())
    assert all(each in (written, "torn") for each in found)
    assert found.count("torn") > len(found) / 2


def test_a_full_disk_ends_it_cleanly(job, tmp_path, undisturbed, monkeypatch):
    written = []

    def fsync(number):
        written.append(number)
        if len(written) == 7:  # samples, manifest, and a file and a folder for each
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "fsync", fsync)
        with pytest.raises(JobError, match=r"the disk is full.*run the same job again"):
            job()
    assert list(files_of(tmp_path / "out")) == ["manifest.json", "part-000000.parquet", "samples.parquet"]
    assert job().explained == COUNT - SHARD
    assert files_of(tmp_path / "out") == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, where the system lets one be made."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "relprop-test", place], capture_output=True)
    if made.returncode:
        pytest.skip(f"no disk can be mounted: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(file):
    """Write until the disk is full."""
    with open(file, "wb", buffering=0) as open_file, contextlib.suppress(OSError):
        while open_file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("sink", ["parquet", "zarr"])
def test_a_disk_that_is_full_indeed(job, small_disk, tmp_path, sink):
    job("expected", sink=sink)
    expected, out, other = files_of(tmp_path / "expected"), small_disk / "out", small_disk / "other"

    def in_the_second_shard(progress):
        if progress.done == SHARD + 4:
            while not (out / "part-000000.parquet").exists():  # a thread writes it
                time.sleep(0.01)
            fill(other)

    with pytest.raises(JobError, match=r"the disk is full: .* does not fit .*make room and run the same job again"):
        job(out, sink=sink, progress=in_the_second_shard)
    assert os.statvfs(small_disk).f_bavail == 0
    there = files_of(out)
    assert there.items() < expected.items()
    assert [name for name in there if name.startswith("part")] == ["part-000000.parquet"]
    with pytest.raises(JobError, match="the disk is full"):
        job(out, sink=sink)  # it still is
    assert files_of(out) == there
    other.unlink()
    assert job(out, sink=sink).explained == COUNT - SHARD
    assert files_of(out) == expected


def test_a_full_disk_takes_nothing_away(job, tmp_path, done, undisturbed, monkeypatch):
    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", fsync)
    with pytest.raises(JobError, match="the disk is full"):
        job(retry=True)  # a whole file is to be replaced
    assert files_of(tmp_path / "out") == undisturbed


def test_what_killed_processes_left_is_taken_away(job, tmp_path, done, undisturbed):
    """By a whole job all of it, by a part what lies in its shards: others may be at work on theirs."""
    left = [tmp_path / "out" / f".writing-123-{name}" for name in ("part-000000.parquet", "part-000001.parquet")]
    for path in left:
        path.touch()
    job(shard="0/2")
    assert [path.exists() for path in left] == [False, True]
    job()
    assert files_of(tmp_path / "out") == undisturbed


def test_a_limit_on_files_ends_it_cleanly(job, tmp_path, undisturbed):
    resource = pytest.importorskip("resource")
    largest = max(len(data) for name, data in undisturbed.items() if name.startswith("part"))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))
        try:
            job()
        except JobError as error:
            (tmp_path / "said").write_text(str(error))

    assert os.waitpid(forked(limited), 0)[1] == 0
    assert "the disk is full" in (tmp_path / "said").read_text()
    assert not list((tmp_path / "out").glob(".writing*"))
    job()
    assert files_of(tmp_path / "out") == undisturbed


def test_one_process_a_folder(job, tmp_path):
    into, out_of = os.pipe()
    stop_in, stop_out = os.pipe()

    def holds():
        with locked(tmp_path / "out"):
            os.write(out_of, b"x")
            os.read(stop_in, 1)

    child = forked(holds)
    os.read(into, 1)
    try:
        with pytest.raises(JobError, match=rf"process {child} on .* works in .*out: wait"):
            job()
        with pytest.raises(JobError, match=rf"process {child}"):
            job(shard="0/2")
    finally:
        os.write(stop_out, b"x")
        os.waitpid(child, 0)
    assert job().done == COUNT
