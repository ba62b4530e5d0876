"""The options of the commands, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.completion import composite_completion, model_completion

Model = Annotated[str, typer.Option(metavar="SPEC", help="The model, see below.", autocompletion=model_completion)]
CompositeName = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Which rules go to which layers, see below.", autocompletion=composite_completion
    ),
]
Images = Annotated[list[Path] | None, typer.Argument(help="Pictures, and folders of pictures.", show_default=False)]
Texts = Annotated[
    list[str] | None,
    typer.Option(metavar="SENTENCE", help="Explain text instead; more than once, or - for the lines of stdin."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS",
        help="Class to explain, by index or name, or next token; more than once: each of them. By default the "
        "predicted one.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Explain why the target and not this class; rest: not the others, runner-up: not the best of them.",
    ),
]
SimilarTo = Annotated[
    str | None,
    typer.Option(metavar="SENTENCE", help="Text, encoders: explain the similarity to this sentence."),
]
OneTarget = Annotated[
    str | None,
    typer.Option(metavar="CLASS", help="Class to explain, by index or name; by default the predicted one."),
]
LayerName = Annotated[
    str | None,
    typer.Option(
        "--layer", metavar="NAME", help="Whose channels, see relprop layers; by default the last convolution."
    ),
]
Top = Annotated[int, typer.Option("--top", min=1, help="How many channels, those with the most relevance.")]
Folder = Annotated[Path, typer.Option(help="Folder for the results.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures that are explained at once.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the model's square input, in pixels.")]
Mean = Annotated[str | None, typer.Option(help="Mean for each channel, as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation for each channel.")]
Colormap = Annotated[str, typer.Option(help="matplotlib colormap; a diverging one.")]
Clip = Annotated[
    float | None,
    typer.Option(help="Percentile of |relevance| that gets the full colour; by default the maximum."),
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON in the place of a table.")]
Report = Annotated[
    bool,
    typer.Option(
        "--report", help="Also write report.html: a page with classes, layers, sinks, and whether to trust it."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist; otherwise they stop the job.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]
ExportFile = Annotated[Path, typer.Option(metavar="FILE", help="A .pt2 file, which torch runs, or an .onnx file.")]
ExportTarget = Annotated[
    str | None,
    typer.Option(
        help="Class to explain, by index or name; input: one for each picture, given at each call; "
        "by default the predicted one."
    ),
]
LayerNames = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also return relevance at these layers, names or globs; more than once."),
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
