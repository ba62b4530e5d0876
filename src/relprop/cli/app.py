"""The commands and their options. What they do is in `relprop.jobs`, what they print in the reports beside this."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from relprop.cli.once import Once
from relprop.cli.reporting import reporting, say
from relprop.composites.names import DEFAULTS, composite_names
from relprop.errors import RelpropError
from relprop.models.sources import forms

HELP = "Explain what a model sees in pictures and reads in text, by layer-wise relevance propagation."

# One paragraph each in the help of every command.
SPECS = (
    f"Models: {', '.join(forms())}. WEIGHTS is a .safetensors, .pt or .pth file, or a name that "
    "the source knows, such as DEFAULT for torchvision and pretrained for timm."
).replace("[", "\\[")  # brackets are markup there
COMPOSITES = f"Composites: {', '.join(composite_names('pictures'))}. For text: {', '.join(composite_names('text'))}."
EPILOG = f"{SPECS}\n\n{COMPOSITES}"

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Option(metavar="SPEC", help="The model, see below.")]
CompositeName = Annotated[str, typer.Option(metavar="NAME", help="Which rules go to which layers, see below.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the model's square input, in pixels.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"relprop {version('relprop')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
]


@app.callback()
def _root(version: Version = False) -> None: ...


@app.command(cls=Once, epilog=EPILOG)
def explain(
    model: Model,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, and folders of pictures.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="Explain text instead; more than once, or - for the lines of stdin."),
    ] = None,
    composite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which rules go to which layers, see below; by default "
            f"{DEFAULTS['pictures']}, and {DEFAULTS['text']} for text.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Class to explain, by index or name, or next token; by default the predicted one."),
    ] = None,
    similar_to: Annotated[
        str | None,
        typer.Option(metavar="SENTENCE", help="Text, encoders: explain the similarity to this sentence."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("relprop-out"),
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are explained at once.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = "cpu",
    size: Size = None,
    mean: Annotated[str | None, typer.Option(help="Mean for each channel, as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation for each channel.")] = None,
    cmap: Annotated[str, typer.Option(help="matplotlib colormap; a diverging one.")] = "seismic",
    clip: Annotated[
        float | None,
        typer.Option(help="Percentile of |relevance| that gets the full colour; by default the maximum."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist; otherwise they stop the job.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")] = False,
) -> None:
    """Explain pictures or text: write heatmaps or coloured pages and the relevance, and say what was predicted.

    Without pictures, the demo model explains its own samples.
    """
    with reporting():
        if text:
            if images:
                raise RelpropError("give pictures or --text, not both")
            if size is not None or mean is not None or std is not None or clip is not None:
                raise RelpropError("--size, --mean, --std and --clip are for pictures, not for --text")
            from relprop.cli.text_report import run_texts, sentences
            from relprop.jobs.text_plan import TextOptions

            chosen, texts = composite or DEFAULTS["text"], sentences(text)
            run_texts(TextOptions(texts, model, out, chosen, target, similar_to, device, overwrite), quiet)
            return
        if similar_to is not None:
            raise RelpropError("--similar-to needs --text")
        if not images and model != "demo":
            raise RelpropError(
                "give at least one picture or folder, or --text SENTENCE; only --model demo brings pictures of its own"
            )
        from relprop.cli.report import run
        from relprop.jobs.picture_plan import PictureOptions

        options = PictureOptions(
            images=tuple(images or ()),
            model=model,
            composite=composite or DEFAULTS["pictures"],
            target=target,
            out=out,
            batch_size=batch_size,
            device=device,
            size=size,
            mean=_numbers(mean, "--mean"),
            std=_numbers(std, "--std"),
            cmap=cmap,
            clip=clip,
            overwrite=overwrite,
        )
        run(options, quiet)


@app.command(cls=Once, epilog=EPILOG)
def layers(
    model: Model,
    composite: CompositeName = DEFAULTS["pictures"],
    size: Size = None,
) -> None:
    """Print which rule each layer of a model gets."""
    with reporting():
        from relprop.jobs.layers import layer_table

        say(layer_table(model, composite, size))


@app.command(cls=Once, epilog=EPILOG)
def export(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .pt2 file, which torch runs, or an .onnx file.")],
    composite: CompositeName = DEFAULTS["pictures"],
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to explain, by index or name; input: one for each picture, given at each call; "
            "by default the predicted one."
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also return relevance at these layers, names or globs; more than once."),
    ] = None,
    size: Size = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a program that returns output and relevance, and that runs where relprop is not installed."""
    with reporting():
        from relprop.jobs.export import ExportOptions, export_model

        exported = export_model(ExportOptions(model, out, composite, target, tuple(layers or ()), size, overwrite))
        say(f"{exported.path}: {exported.size / 1e6:.1f} MB")
        if exported.artifact is not None:
            say(repr(exported.artifact))
        if exported.explains != "output":
            say(f"Its output is {exported.explains}.")


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RelpropError(f"{option} takes numbers with commas between them, not {text!r}") from error
