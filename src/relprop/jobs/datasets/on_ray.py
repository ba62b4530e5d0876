"""The same job by several analyzers of Ray Data, on one machine or on many that see the same folder.

Ray gives out shards, restarts workers that die and gives their shards to others. What is done lies in the folder, so
that nothing else has to remember it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.parts import Parts, failures
from relprop.jobs.datasets.sources import open_source
from relprop.jobs.datasets.stopping import Stopping
from relprop.jobs.datasets.work import Finished, Progress, Run, Watcher, prepare


class ShardWorker:
    """One analyzer, in a process of its own: numbers of shards in, what became of them out.

    Args:
        job: what is asked for.
        threads: of the model on a CPU, on whose number sums may depend.
        retry: explain samples again that failed before.
    """

    def __init__(self, job: Job, threads: int, retry: bool) -> None:
        torch.set_num_threads(threads)
        self._job, self._retry = job, retry
        self._source = open_source(job.source, job.column, job.label_column)
        self._parts, self._explainer = prepare(job, self._source)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Explain shards, and write them."""
        shards = [int(shard) for shard in batch["shard"]]
        runs = [Run(self._job, self._parts, [shard], retry=self._retry) for shard in shards]
        done = [run.over(self._source, self._explainer, Stopping()) for run in runs]
        return {
            "shard": shards,
            "explained": [each.explained for each in done],
            "failed": [len(each.failed) for each in done],
        }


def work_on_ray(
    job: Job, parts: Parts, shards: Sequence[int], stopping: Stopping, progress: Watcher | None, *, retry: bool
) -> Finished:
    """Explain what is missing of some shards. A signal ends it behind the shard that is finished next.

    Args:
        job: what is asked for.
        parts: the folder, which every worker sees under the same name.
        shards: their numbers.
        stopping: the signal.
        progress: is called behind each shard.
        retry: explain samples again that failed before.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    ray, data = needed("ray", "engine='ray'"), needed("ray.data", "engine='ray'")
    missing = {shard: len(parts.missing(shard, retry=retry)[1]) for shard in shards}
    to_do = [shard for shard in shards if missing[shard]]
    total = sum(len(parts.manifest.numbers(shard)) for shard in shards)
    done, explained, failed, started = total - sum(missing.values()), 0, 0, time.monotonic()
    if to_do:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        found = data.from_items([{"shard": shard} for shard in to_do], override_num_blocks=len(to_do)).map_batches(
            ShardWorker,
            fn_constructor_kwargs={"job": job, "threads": torch.get_num_threads(), "retry": retry},
            batch_size=1,
            concurrency=min(job.analyzers, len(to_do)),
            num_gpus=1 if torch.device(job.device).type == "cuda" else 0,
        )
        for row in found.iter_rows():
            explained, failed = explained + row["explained"], failed + row["failed"]
            done += row["explained"]
            if progress is not None:
                rate = explained / max(time.monotonic() - started, 1e-9)
                progress(Progress(done, total, failed, rate, (total - done) / rate if rate else None))
            if stopping.by is not None:
                break
    lost = list(failures(path for path in map(parts.path, shards) if path.exists()))
    stopped = stopping.by if done < total else None
    return Finished(parts.folder, done, total, explained, time.monotonic() - started, lost, stopped)
