"""Folders of one job in one: what several processes did each by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relprop.errors import JobError
from relprop.jobs.datasets.disk import locked
from relprop.jobs.datasets.explaining import Row
from relprop.jobs.datasets.manifest import NAME, Manifest, samples_of
from relprop.jobs.datasets.parts import Failure, Parts, failures
from relprop.jobs.datasets.work import Finished


def merge(folders: Sequence[str | Path], out: str | Path) -> Finished:
    """Put folders of one job into one, which has the bytes of a job that was not divided.

    It does not matter in which order and in which groups: of two rows of a sample the one without an error stays, and
    of two without an error either, as they are the same.

    Args:
        folders: each holds the results of one share of the job, or of several.
        out: the folder for all; it may be one of them, and may be merged itself.

    Raises:
        JobError: the folders hold results of different jobs, or a file is torn.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    if not paths:
        raise JobError("there is nothing to merge: give the folders of the job's shares")
    into = Path(out).expanduser()
    manifest = Manifest.read(paths[0])
    for path in paths[1:]:
        Manifest.read(path).refuse_other(manifest, paths[0], samples_of(path))
    with locked(into):
        if (into / NAME).exists():
            manifest.refuse_other(Manifest.read(into), into)
            paths = [into, *(path for path in paths if path.resolve() != into.resolve())]
        else:
            manifest.write(into, samples_of(paths[0]))
        done = sum(_merge_shard(shard, paths, into, manifest) for shard in range(manifest.shards))
        parts = Parts(into, manifest)
        failed: list[Failure] = list(failures(p for p in map(parts.path, range(manifest.shards)) if p.exists()))
    return Finished(into, done, manifest.samples, 0, 0.0, failed)


def _merge_shard(shard: int, paths: Sequence[Path], into: Path, manifest: Manifest) -> int:
    """Bring one shard into the folder; how many rows it has there."""
    several = [Parts(path, manifest) for path in paths]
    whole = [parts for parts in several if parts.is_whole(shard)]
    there = Parts(into, manifest)
    clean = [parts for parts in whole if not any(True for _ in failures([parts.path(shard)]))]
    if clean:
        if clean[0].folder != into:
            there.copy(shard, clean[0])
        there.begun(shard).unlink(missing_ok=True)
        return len(manifest.numbers(shard))
    found: dict[int, Row] = {}
    for parts in several:
        for number, row in parts.rows(shard).items():
            if number not in found or (found[number].get("error") and not row.get("error")):
                found[number] = row
    if found:
        there.write(shard, found)
    return len(found)
