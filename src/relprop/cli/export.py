"""The job of `relprop export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relprop.analyzers.artifact import load as load_artifact
from relprop.analyzers.artifact.write import FROM_INPUT, check_path
from relprop.cli.layers import SIZE
from relprop.jobs.composites import check_composite, make_analyzer
from relprop.jobs.files import check_folder
from relprop.jobs.plan import count_outputs
from relprop.models import load
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


def write_artifact(options: ExportOptions) -> str:
    """Write the file, and say what is in it.

    Raises:
        RelpropError: the model or the composite does not exist, they do not fit, or the file cannot be written.
    """
    check_composite(options.composite)
    out = check_path(options.out)
    check_folder(out.parent, [out], options.overwrite)
    loaded = load(options.model, size=options.size)
    from PIL import Image

    x = loaded.preprocess(Image.new("RGB", (SIZE, SIZE), "grey"))
    outputs = count_outputs(loaded, x)
    target: Any = options.target
    if options.target is not None and options.target != FROM_INPUT:
        target = resolve_target(options.target, loaded.classes, outputs)
    make_analyzer(loaded, options.composite, x).export(out, target=target, layers=list(options.layers))
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    return f"{out}: {size}\n{load_artifact(out)!r}" if out.suffix == ".pt2" else f"{out}: {size}"
