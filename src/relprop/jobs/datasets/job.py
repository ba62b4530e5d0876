"""What a job over a dataset is asked for: a value, from a file of TOML or from keyword arguments."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from relprop.errors import JobError
from relprop.evaluation.metrics import METRICS
from relprop.jobs.datasets.extras import needed

KEPT = ("heatmap", "scores", "places", "relevance")
"""What `keep` may name."""
WITH_MASKS = ("mass", "rank", "pointing")
"""Metrics that need to know where relevance should lie."""
ENGINES = ("local", "ray")
SINKS = ("parquet", "zarr")
DTYPES = ("float32", "float64", "bfloat16", "float16")
WHOLE = ("size", "steps", "patch", "seed", "pass_size", "shard_size", "batch_size", "workers", "analyzers")
"""Options that are whole numbers."""
PREDICTED, LABEL = "predicted", "label"


@dataclass(frozen=True)
class Job:
    """One analyzer, one dataset, one folder.

    Attributes:
        model: its specification, as `relprop.models.load_model` takes it.
        source: where the samples are, see `relprop.jobs.datasets.sources`.
        out: the folder for what is found.
        composite: its name. None: what the command line takes.
        target: `"predicted"`, `"label"` (the sample's own), or a class by name or number.
        against: another class, `"rest"` or `"runner-up"`; None: nothing.
        layers: whose channels get scores. None of them: the last convolution.
        keep: columns beside the small ones, of `KEPT`.
        metrics: names of `relprop.evaluation.METRICS`, such as `"srg"`: a column for each. They take many passes.
        contest: methods that are held against each other by `metrics`, of which the first ranks (none: SRG); names as
            in `relprop.evaluation.contest`. None of them: no contest.
        masks: a folder of pictures, white where relevance should lie, `KEY.png` for a sample `KEY`; for `WITH_MASKS`.
        steps, patch, seed: of metrics and contests. patch: side of what is occluded together; None: a 16th.
        column: of a table, an archive or a file of arrays: what holds the samples. None: the usual names.
        label_column: what holds their labels. None: the usual names.
        size: side of the model's square input. mean, std: of its preprocessing.
        device: where the model runs. dtype: of its numbers, one of `DTYPES`.
        pass_size: samples on one pass of the model. Numbers depend on it in their last digit, so that a folder holds
            one pass size only; a pass with fewer samples is filled up.
        shard_size: samples in one file of results, a multiple of `pass_size`.
        batch_size: samples that are read ahead, and in memory at once. workers: threads that read.
        sink: `"parquet"`, or `"zarr"`: large columns as chunks of arrays, the others as Parquet.
        engine: `"local"`, or `"ray"`: several analyzers. analyzers: how many.
    """

    model: str
    source: str
    out: str
    composite: str | None = None
    target: str = PREDICTED
    against: str | None = None
    layers: tuple[str, ...] = ()
    keep: tuple[str, ...] = ("heatmap", "scores")
    metrics: tuple[str, ...] = ()
    contest: tuple[str, ...] = ()
    masks: str | None = None
    steps: int = 25
    patch: int | None = None
    seed: int = 0
    column: str | None = None
    label_column: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    device: str = "cpu"
    dtype: str = "float32"
    pass_size: int = 16
    shard_size: int = 256
    batch_size: int = 64
    workers: int = 2
    sink: str = "parquet"
    engine: str = "local"
    analyzers: int = 1

    def __post_init__(self) -> None:
        for name, among in (("engine", ENGINES), ("sink", SINKS), ("dtype", DTYPES)):
            if getattr(self, name) not in among:
                raise JobError(f"{name}={getattr(self, name)!r} is none of {', '.join(among)}")
        strange = [name for name in self.metrics if name not in METRICS]
        if strange:
            raise JobError(f"metrics names {strange[0]!r}; a job knows {', '.join(METRICS)}")
        unmasked = [name for name in self.metrics if name in WITH_MASKS]
        if unmasked and self.masks is None:
            raise JobError(f"metrics names {unmasked[0]!r}, which needs masks=, a folder of where relevance should lie")
        if self.contest and METRICS[self.scored_by[0]].better is None:
            raise JobError(f"metrics begins with {self.scored_by[0]!r}, which tells no good from bad and cannot rank")
        strange = [name for name in self.keep if name not in KEPT]
        if strange:
            raise JobError(f"keep names {strange[0]!r}; what can be kept is {', '.join(KEPT)}")
        for name in WHOLE:
            value = getattr(self, name)
            if value is None and name in ("size", "patch"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < (0 if name == "seed" else 1):
                raise JobError(f"{name}={value!r}: give a whole number from {0 if name == 'seed' else 1} on")
        if "places" in self.keep and "scores" not in self.keep:
            raise JobError("keep names 'places', of the scores: name 'scores', too")
        if self.shard_size % self.pass_size:
            raise JobError(
                f"shard_size={self.shard_size} is no multiple of pass_size={self.pass_size}: passes lie inside shards"
            )
        if self.target == LABEL and self.against is not None:
            raise JobError("against compares with the predicted class or with a given one: leave target='label' out")

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The metrics of a contest."""
        return self.metrics or (("srg",) if self.masks is None else ("srg", "mass"))

    @property
    def folder(self) -> Path:
        """`out`, as a path."""
        return Path(self.out).expanduser()


def make_job(**options: Any) -> Job:
    """A job of keyword arguments, or of what a file says.

    Raises:
        JobError: an option does not exist, is missing, or has an impossible value.
    """
    known = [field.name for field in fields(Job)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise JobError(f"a job has no option {name!r}; {meant}")
    missing = [name for name in ("model", "source", "out") if options.get(name) is None]
    if missing:
        raise JobError(f"a job needs {' and '.join(missing)}")
    return Job(**{name: _plain(name, value) for name, value in options.items()})


def read_job(path: str | Path) -> dict[str, Any]:
    """The options in a file of TOML. Paths in it are read from the working directory, as on the command line.

    Raises:
        JobError: the file is missing, or is no TOML.
        MissingExtraError: Python 3.10, and tomli is not installed.
    """
    library = needed("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading a job from TOML")
    try:
        found: Mapping[str, Any] = library.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise JobError(f"the job {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise JobError(f"the job {path} is no TOML: {error}") from error
    return dict(found)


def _plain(name: str, value: Any) -> Any:
    """Lists as tuples, paths and numbers of classes as text; `JobError` where the kind is another one."""
    if value is None:
        return None
    if name in ("layers", "keep", "metrics", "contest", "mean", "std"):
        several = [value] if isinstance(value, (str, int, float)) else list(value)
        return tuple(float(each) if name in ("mean", "std") else str(each) for each in several)
    if name in WHOLE:
        return value
    if not isinstance(value, (str, int, Path)):
        raise JobError(f"{name}={value!r}: give text")
    return str(value)
