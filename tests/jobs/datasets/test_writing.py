"""Shards are written behind the back of what explains, one at a time, and no error is lost."""

from __future__ import annotations

import threading

import pytest

from relprop.errors import JobError
from relprop.jobs.datasets.writing import Writer


class Disk:
    """Parts that write when they are told to, and fail at some shards."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad, self.written, self.go, self.begun = bad, [], threading.Event(), threading.Event()

    def write(self, shard, rows) -> None:
        self.begun.set()
        assert self.go.wait(10)
        if shard in self.bad:
            raise JobError(f"the disk is full: {shard}")
        self.written.append((shard, rows))


def test_it_writes_while_others_work_and_the_block_ends_behind_the_last():
    disk = Disk()
    with Writer(disk) as writer:
        writer.write(0, {0: {}})
        assert disk.begun.wait(10)
        assert disk.written == []  # and here the next shard is explained
        threading.Timer(0.05, disk.go.set).start()
        writer.write(1, {1: {}})  # has to wait for the first
        assert disk.written[0] == (0, {0: {}})
    assert [shard for shard, _ in disk.written] == [0, 1]


def test_an_error_shows_at_the_next_shard_or_at_the_end():
    disk = Disk(bad=(0, 2))
    disk.go.set()
    with Writer(disk) as writer:
        writer.write(0, {})
        with pytest.raises(JobError, match="full: 0"):
            writer.write(1, {})
    assert disk.written == []
    with pytest.raises(JobError, match="full: 2"), Writer(disk) as writer:
        writer.write(2, {})


def test_what_happened_first_is_told():
    disk = Disk(bad=(0,))
    disk.go.set()

    def work():
        with Writer(disk) as writer:
            writer.write(0, {})
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        work()
