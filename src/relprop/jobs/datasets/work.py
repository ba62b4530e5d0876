"""Work on a folder: what is missing in it is read, explained and written, shard by shard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from relprop.errors import JobError
from relprop.jobs.datasets.columns import columns_of
from relprop.jobs.datasets.explainers import explainer_of
from relprop.jobs.datasets.explaining import Explainer, Read, Row, read
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.manifest import NAME, Manifest, samples_of
from relprop.jobs.datasets.parts import Failure, Parts, failures, part_files
from relprop.jobs.datasets.passes import Pass, passes_of
from relprop.jobs.datasets.samples import Index, Source
from relprop.jobs.datasets.stopping import Stopping
from relprop.jobs.datasets.writing import Writer

Found = tuple[Read, Tensor | None]
Watcher = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        done: samples with rows. total: all of this job, or of this share.
        failed: those of this run that could not be explained.
        rate: samples a second, in this run. left: seconds to go, by that rate; None while it is not known.
    """

    done: int
    total: int
    failed: int
    rate: float
    left: float | None


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        folder: of the results.
        done: samples with rows in it, of `total` of this job, or of this share.
        explained: of them in this run. seconds: how long that took.
        failed: samples that have no explanation.
        stopped: the signal that ended the run early, or None.
    """

    folder: Path
    done: int
    total: int
    explained: int
    seconds: float
    failed: list[Failure]
    stopped: str | None = None


def prepare(job: Job, source: Source, *, retry: bool = False) -> tuple[Parts, Explainer]:
    """The folder, which has been written to or was found to hold the same, and the analyzer.

    Args:
        job: what is asked for.
        source: of the samples.
        retry: samples that failed may have been repaired meanwhile.

    Raises:
        JobError: the folder holds something else.
    """
    needed("pyarrow", "a job over a dataset")
    index = source.index()
    explainer = explainer_of(job, source, index)
    columns = columns_of(job, explainer.layers, explainer.methods, tokens=source.text)
    manifest = Manifest.of(job, source, index, explainer, columns)
    folder = job.folder
    if (folder / NAME).exists():
        there = Manifest.read(folder)
        if retry and there.data != manifest.data and _only_repaired(index, folder):
            there = replace(there, data=manifest.data)
            there.write(folder, index)
        manifest.refuse_other(there, folder, index)
    else:
        strange = part_files(folder) if folder.exists() else []
        if strange:
            raise JobError(f"{folder} holds {strange[0].name} but no {NAME}: give another folder")
        manifest.write(folder, index)
    return Parts(folder, manifest), explainer


def _only_repaired(now: Index, folder: Path) -> bool:
    """Whether the samples are those of a folder, but for the sizes of some that could not be explained."""
    then = samples_of(folder)
    if list(now.keys) != list(then.keys) or list(now.labels) != list(then.labels):
        return False
    failed = {failure.index for failure in failures(part_files(folder))}
    return all(i in failed for i, (a, b) in enumerate(zip(now.sizes, then.sizes, strict=True)) if a != b)


class Run:
    """The shards of one run, and the count of what is done.

    Args:
        job: what is asked for.
        parts: the folder.
        shards: numbers of those to be looked after.
        progress: is called behind each pass.
        retry: explain samples again that failed before.
    """

    def __init__(
        self, job: Job, parts: Parts, shards: Iterable[int], progress: Watcher | None = None, *, retry: bool = False
    ) -> None:
        self._job, self._parts, self._shards, self._progress = job, parts, list(shards), progress
        self._retry = retry
        self._total = sum(len(parts.manifest.numbers(shard)) for shard in self._shards)
        self._known: dict[int, dict[int, Row]] = {}
        self._to_do: dict[int, Sequence[int]] = {}
        self._explained = self._failed = 0
        self._started = time.monotonic()

    def over(self, source: Source, explainer: Explainer, stopping: Stopping) -> Finished:
        """Explain what is missing."""
        for shard in self._shards:
            known, missing = self._parts.missing(shard, retry=self._retry)
            if missing:
                self._to_do[shard] = missing if known else self._parts.manifest.numbers(shard)
        self._done = self._total - sum(map(len, self._to_do.values()))
        self._started = time.monotonic()
        with Writer(self._parts) as writer:
            for current, found in read_ahead(self._passes(), source, explainer, self._job):
                if current.shard not in self._known:
                    self._known[current.shard] = self._parts.missing(current.shard, retry=self._retry)[0]
                new = explainer.rows(current, found, first=self._done == 0 and 0 in self._shards)
                self._known[current.shard] |= {row["index"]: row for row in new}
                self._count(new)
                if current.last or stopping.by is not None:
                    self._keep(current.shard, writer)
                if stopping.by is not None:
                    break
        failed = list(failures(path for path in map(self._parts.path, self._shards) if path.exists()))
        seconds = time.monotonic() - self._started
        stopped = stopping.by if self._done < self._total else None
        return Finished(self._parts.folder, self._done, self._total, self._explained, seconds, failed, stopped)

    def _passes(self) -> Iterator[Pass]:
        manifest, size = self._parts.manifest, self._job.pass_size
        for shard, wanted in self._to_do.items():
            yield from passes_of(shard, manifest.numbers(shard).start, wanted, size)

    def _keep(self, shard: int, writer: Writer) -> None:
        """Have a shard written. One that is retried keeps its old file until all of it is there anew."""
        rows = self._known.pop(shard)
        if len(rows) < len(self._parts.manifest.numbers(shard)) and self._retry and self._parts.path(shard).exists():
            return
        writer.write(shard, rows)

    def _count(self, rows: list[Row]) -> None:
        self._explained += len(rows)
        self._done += len(rows)
        self._failed += sum(row["error"] is not None for row in rows)
        if self._progress is not None:
            rate = self._explained / max(time.monotonic() - self._started, 1e-9)
            left = (self._total - self._done) / rate
            self._progress(Progress(self._done, self._total, self._failed, rate, left))


def read_ahead(
    passes: Iterable[Pass], source: Source, explainer: Explainer, job: Job
) -> Iterator[tuple[Pass, list[Found]]]:
    """Each pass with its samples, which threads read while earlier passes are explained; at most `batch_size` wait."""
    waiting: deque[tuple[Pass, list[Future[Found]]]] = deque()
    held = 0
    with ThreadPoolExecutor(job.workers, "relprop-read") as pool:
        try:
            for each in passes:
                waiting.append((each, [pool.submit(read, source, explainer, number) for number in each.wanted]))
                held += len(each.wanted)
                while held > job.batch_size:
                    first, futures = waiting.popleft()
                    held -= len(first.wanted)
                    yield first, [future.result() for future in futures]
            while waiting:
                first, futures = waiting.popleft()
                yield first, [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)
