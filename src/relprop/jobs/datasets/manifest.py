"""What a folder of results was made with, and the refusal to mix it with anything else."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from relprop.concepts.references import fingerprint_of
from relprop.errors import JobError
from relprop.jobs.datasets.columns import is_large
from relprop.jobs.datasets.disk import write_whole
from relprop.jobs.datasets.explaining import Explainer
from relprop.jobs.datasets.extras import needed
from relprop.jobs.datasets.job import Job
from relprop.jobs.datasets.samples import Index, Source

NAME, SAMPLES = "manifest.json", "samples.parquet"
FORMAT = 1
ASKED = "evaluation "
"""In front of what metrics and methods were asked."""
SHOWN = 3
"""Samples that an error names."""


@dataclass(frozen=True)
class Manifest:
    """What results depend on, and how they lie in the folder.

    It says nothing of when and where, so that the same job writes the same bytes.

    Attributes:
        made_with: whatever changes results; only the same goes into one folder.
        samples: how many there are. data: a digest of their keys, sizes and labels.
        shard_size: how many are in one file.
        columns: their names.
        classes: names of the outputs, if they have some.
        layers: whose channels have scores.
        explains: which output is explained.
        sink: where large columns are: `"parquet"`, or `"zarr"`.
    """

    made_with: Mapping[str, str]
    samples: int
    data: str
    shard_size: int
    columns: Sequence[str]
    classes: Sequence[str] | None
    layers: Sequence[str]
    explains: str
    sink: str = "parquet"
    format: int = field(default=FORMAT)

    @property
    def shards(self) -> int:
        """How many files there are to be."""
        return -(-self.samples // self.shard_size)

    def numbers(self, shard: int) -> range:
        """The samples of a file."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.samples))

    @classmethod
    def of(cls, job: Job, source: Source, index: Index, explainer: Explainer, columns: Sequence[str]) -> Manifest:
        """That of a job."""
        libraries = {name: version(name) for name in ("relprop", "torch", "numpy", "pillow", "pyarrow")}
        printed = fingerprint_of(explainer.lrp)
        made = {
            "model": job.model,
            "weights": printed["model"],
            "composite": explainer.composite,
            "rules": printed["composite"],
            "settings": printed["settings"],
            "preprocessing": explainer.preprocessing,
            "target": job.target if job.against is None else f"{job.target} against {job.against}",
            "dtype": job.dtype,
            "device": explainer.device.type,
            "processor": platform.machine(),
            "pass_size": str(explainer.together),
            "source": source.kind,
            **libraries,
        }
        made |= {f"{ASKED}{name}": json.dumps(value) for name, value in explainer.evaluation.items()}
        return cls(
            made,
            len(index),
            index.digest,
            job.shard_size,
            list(columns),
            explainer.classes,
            explainer.layers,
            explainer.explains,
            job.sink,
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            JobError: there is none, or it is of another version.
        """
        try:
            said: dict[str, Any] = json.loads((folder / NAME).read_text("utf-8"))
        except OSError as error:
            raise JobError(f"{folder} holds no results of a job: {NAME} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise JobError(f"{folder / NAME} is no manifest: {error}") from error
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise JobError(f"{folder / NAME} has another format than this version of relprop writes, {FORMAT}")
        return cls(**said)

    @property
    def in_parquet(self) -> list[str]:
        """The columns that are in files of Parquet."""
        return [name for name in self.columns if self.sink == "parquet" or not is_large(name)]

    @property
    def evaluation(self) -> dict[str, Any]:
        """How metrics and methods were asked; empty if none were."""
        named = {name: value for name, value in self.made_with.items() if name.startswith(ASKED)}
        return {name.removeprefix(ASKED): json.loads(value) for name, value in named.items()}

    def write(self, folder: Path, index: Index) -> None:
        """Write it, and which samples there are. The manifest comes last: where it is, all is."""
        arrow, parquet = needed("pyarrow", "a job over a dataset"), needed("pyarrow.parquet", "a job over a dataset")
        columns = [arrow.array(index.keys, arrow.string()), arrow.array(index.sizes, arrow.int64())]
        table = arrow.table([*columns, arrow.array(index.labels, arrow.string())], names=["key", "size", "label"])
        buffer = arrow.BufferOutputStream()
        parquet.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        write_whole(folder / SAMPLES, buffer.getvalue().to_pybytes())
        write_whole(folder / NAME, (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode())

    def refuse_other(self, there: Manifest, folder: Path, index: Index | None = None) -> None:
        """Refuse a folder that holds other things.

        Args:
            there: the folder's manifest.
            folder: that it lies in.
            index: the samples of this manifest, to say which of them differ.

        Raises:
            JobError: with what differs.
        """
        mine, theirs = self._facts, there._facts
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if not names:
            return
        told = "; ".join(f"{n}: {_short(theirs.get(n))} there, {_short(mine.get(n))} here" for n in names)
        if "data" in names and index is not None:
            told += f" ({_changes(index, samples_of(folder))})"
        raise JobError(
            f"{folder} holds results of something else, which do not mix ({told}). Give another folder, or delete this "
            "one"
        )

    @property
    def _facts(self) -> dict[str, str]:
        rest = {name: repr(value) for name, value in asdict(self).items() if name != "made_with"}
        return {**self.made_with, **rest}


def samples_of(folder: Path) -> Index:
    """The samples of a folder's results.

    Raises:
        JobError: the file is missing or torn.
    """
    parquet = needed("pyarrow.parquet", "reading results")
    try:
        table = parquet.read_table(folder / SAMPLES)
    except (OSError, ValueError) as error:
        raise JobError(f"{folder / SAMPLES} cannot be read: {error}") from error
    return Index(*(table[name].to_pylist() for name in ("key", "size", "label")))


def _changes(now: Index, then: Index) -> str:
    """Which samples were added, changed or removed."""
    before = {key: (size, label) for key, size, label in zip(then.keys, then.sizes, then.labels, strict=True)}
    after = {key: (size, label) for key, size, label in zip(now.keys, now.sizes, now.labels, strict=True)}
    found = {
        "new": [key for key in after if key not in before],
        "changed": [key for key in after if key in before and after[key] != before[key]],
        "gone": [key for key in before if key not in after],
    }
    told = [f"{word}: {_some(keys)}" for word, keys in found.items() if keys]
    moved = next((a for a, b in zip_longest(now.keys, then.keys) if a != b), None)
    return "; ".join(told) or f"another order from {moved} on"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _short(text: str | None) -> str:
    line = " ".join(str(text).split())
    return line if len(line) < 60 else f"{line[:57]}..."
