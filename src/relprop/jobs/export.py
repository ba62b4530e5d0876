"""The job of `relprop export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relprop.analyzers.artifact import Artifact, load_artifact
from relprop.analyzers.artifact.write import FROM_INPUT, check_path
from relprop.composites.names import check_composite
from relprop.jobs.composites import make_analyzer
from relprop.jobs.files import check_folder
from relprop.jobs.layers import SIZE
from relprop.jobs.picture_plan import count_outputs
from relprop.models import load_model
from relprop.targets.names import resolve_target


@dataclass(frozen=True)
class ExportOptions:
    """The command line's arguments, as they were given."""

    model: str
    out: Path
    composite: str
    target: str | None = None
    layers: tuple[str, ...] = ()
    size: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Exported:
    """A file that was written, read again where relprop reads it; `explains` says which output."""

    path: Path
    size: int
    artifact: Artifact | None
    explains: str


def export_model(options: ExportOptions) -> Exported:
    """Write the file, and read it again.

    Raises:
        RelpropError: the model or the composite does not exist, they do not fit, or the file cannot be written.
    """
    check_composite(options.composite, "pictures")
    out = check_path(options.out)
    check_folder(out.parent, [out], options.overwrite)
    loaded = load_model(options.model, size=options.size)
    from PIL import Image

    x = loaded.preprocess(Image.new("RGB", (SIZE, SIZE), "grey"))
    outputs = count_outputs(loaded, x)
    target: Any = options.target
    if options.target is not None and options.target != FROM_INPUT:
        target = resolve_target(options.target, loaded.classes, outputs)
    lrp, explains = make_analyzer(loaded, options.composite, x)
    lrp.export(out, target=target, layers=list(options.layers))
    return Exported(out, out.stat().st_size, load_artifact(out) if out.suffix == ".pt2" else None, explains)
