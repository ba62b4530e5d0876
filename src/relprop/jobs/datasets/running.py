"""`run`: a job from its options to its results, on this machine or on several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relprop.errors import JobError
from relprop.jobs.datasets.disk import locked
from relprop.jobs.datasets.job import Job, make_job, read_job
from relprop.jobs.datasets.on_ray import work_on_ray
from relprop.jobs.datasets.shares import share_of
from relprop.jobs.datasets.sources import open_source
from relprop.jobs.datasets.stopping import Stopping
from relprop.jobs.datasets.work import Finished, Run, Watcher, prepare


def run(
    job: Job | str | Path | None = None,
    *,
    shard: str | None = None,
    retry: bool = False,
    progress: Watcher | None = None,
    **options: Any,
) -> Finished:
    """Explain a dataset into a folder, and go on where an earlier run of the same job ended, however it ended.

    Args:
        job: a `Job`, or a file of TOML with its options. None: the keyword arguments are the options.
        shard: the part `"i/n"` of the job, i from 0: every n-th file of results.
        retry: explain samples again that failed before.
        progress: is called behind each pass.
        options: of `Job`; beside a file they take the place of what it says.

    Raises:
        JobError: the folder holds other results or is in use, or the disk is full.
        RelpropError: the model, the composite or the target does not exist.
    """
    if not isinstance(job, Job):
        job = make_job(**({} if job is None else read_job(job)) | options)
    elif options:
        raise JobError("give a Job, or options of one, not both")
    share = share_of(shard)
    source = open_source(job.source, job.column, job.label_column)
    with locked(job.folder, shard), Stopping() as stopping:
        parts, explainer = prepare(job, source, retry=retry)
        shards = share.of(parts.manifest.shards)
        parts.clean(None if shard is None else shards)
        if job.engine == "ray":
            return work_on_ray(job, parts, shards, stopping, progress, retry=retry)
        return Run(job, parts, shards, progress, retry=retry).over(source, explainer, stopping)
