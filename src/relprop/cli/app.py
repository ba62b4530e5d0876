"""The commands and their options. What they do is in `relprop.jobs`, what they print in the reports beside this."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from relprop.cli.answer_options import Answer, AsJson, Chat, Contrasts, Longest, Prompts, UnitName
from relprop.cli.contest import add as add_contest
from relprop.cli.datasets import add_commands as add_datasets
from relprop.cli.inquiry import add_to as add_inquiries
from relprop.cli.inquiry import examples
from relprop.cli.once import Once
from relprop.cli.options import (
    Against,
    BatchSize,
    Clip,
    Colormap,
    CompositeName,
    Device,
    ExportFile,
    ExportTarget,
    Folder,
    Images,
    LayerName,
    LayerNames,
    Mean,
    Model,
    OneTarget,
    Overwrite,
    PrintJson,
    Quiet,
    Replace,
    Report,
    SimilarTo,
    Size,
    Std,
    Targets,
    Texts,
    Top,
)
from relprop.cli.reporting import reporting, say
from relprop.cli.tune import add as add_tune
from relprop.composites.names import RECOMMENDED, composite_names
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

CODES = "Exit codes: 0 done, 2 cannot be done, for the reason that is printed; those of check are in its help."

app = typer.Typer(help=HELP, epilog=CODES, no_args_is_help=True, pretty_exceptions_enable=False)
add_inquiries(app)


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


@app.command(
    cls=Once,
    epilog=examples(
        "relprop explain cat.jpg --model torchvision:resnet50@DEFAULT --out explanations",
        "relprop explain holiday/ --model timm:vit_tiny_patch16_224@pretrained --target tabby --against runner-up",
        "relprop explain --model hf:folder/with/a/model --text 'A fine film.'",
        "relprop explain --model hf:folder/with/a/model --prompt 'The capital of France is'",
    )
    + "\n\n"
    + EPILOG,
)
def explain(
    model: Model,
    images: Images = None,
    text: Texts = None,
    composite: CompositeName = RECOMMENDED,
    target: Targets = None,
    against: Against = None,
    similar_to: SimilarTo = None,
    prompt: Prompts = None,
    answer: Answer = None,
    contrast: Contrasts = None,
    chat: Chat = None,
    unit: UnitName = "tokens",
    longest: Longest = 32,
    as_json: AsJson = False,
    out: Folder = Path("relprop-out"),
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    cmap: Colormap = "seismic",
    clip: Clip = None,
    report: Report = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Explain pictures, text or answers: write heatmaps or coloured pages and the relevance, and print what was said.

    Without pictures, the demo model explains its own samples.
    """
    with reporting():
        asked: Any = {"model": model, "composite": composite, "out": out, "device": device, "overwrite": overwrite}
        of_pictures = {"--size": size, "--mean": mean, "--std": std, "--clip": clip}
        if prompt or chat or answer is not None or contrast:
            others = {"pictures": images, "--text": text, "--target": target, "--against": against} | of_pictures
            _explain_answers(
                {"prompts": prompt, "chat": chat, "answer": answer, "contrast": contrast},
                asked | {"unit": unit, "longest": longest},
                [name for name, value in (others | {"--similar-to": similar_to}).items() if value],
                as_json=as_json,
                quiet=quiet,
            )
            return
        asked |= {"targets": tuple(target or ()), "against": against}
        if text:
            if images:
                raise RelpropError("give pictures or --text, not both")
            if any(value is not None for value in of_pictures.values()):
                raise RelpropError("--size, --mean, --std and --clip are for pictures, not for --text")
            if report:
                raise RelpropError("--report is for pictures; --text writes a page for each sentence as it is")
            _explain_texts(text, asked | {"similar_to": similar_to}, quiet, as_json)
            return
        if similar_to is not None:
            raise RelpropError("--similar-to needs --text")
        numbers = {"mean": _numbers(mean, "--mean"), "std": _numbers(std, "--std")}
        drawn = {"size": size, "cmap": cmap, "clip": clip, "batch_size": batch_size, "report": report}
        _explain_pictures(images, asked | numbers | drawn, quiet, as_json)


def _explain_answers(
    asked: dict[str, Any], options: dict[str, Any], others: list[str], *, as_json: bool, quiet: bool
) -> None:
    if not asked["prompts"] and asked["chat"] is None:
        raise RelpropError("--answer and --contrast need --prompt or --chat")
    if others:
        raise RelpropError(
            f"--prompt and --chat go without {', '.join(others)}; --contrast is what an answer is against"
        )
    from relprop.cli.answer_report import run_answers

    run_answers(**asked, options=options, as_json=as_json, quiet=quiet)


def _explain_texts(texts: list[str], options: dict[str, Any], quiet: bool, as_json: bool) -> None:
    from relprop.cli.text_report import run_texts, sentences
    from relprop.jobs.text_plan import TextOptions

    run_texts(TextOptions(texts=sentences(texts), **options), quiet, as_json)


def _explain_pictures(images: list[Path] | None, options: dict[str, Any], quiet: bool, as_json: bool) -> None:
    if not images and options["model"] not in ("demo", "demo-vit"):
        raise RelpropError(
            "give at least one picture or folder, or --text SENTENCE, or --prompt TEXT; only --model demo brings "
            "pictures of its own"
        )
    from relprop.cli.report import run
    from relprop.jobs.picture_plan import PictureOptions

    run(PictureOptions(images=tuple(images or ()), **options), quiet, as_json)


@app.command(
    cls=Once,
    epilog=examples(
        "relprop concepts --model demo --layer features.block2.relu --top 2",
    )
    + "\n\n"
    + EPILOG,
)
def concepts(
    model: Model,
    images: Images = None,
    layer: LayerName = None,
    top: Top = 4,
    composite: CompositeName = RECOMMENDED,
    target: OneTarget = None,
    out: Folder = Path("relprop-out"),
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    size: Size = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: PrintJson = False,
) -> None:
    """Say which channels of a layer explain each picture, and write a sheet of where in the picture they do.

    Without pictures, the demo model explains its own samples.
    """
    with reporting():
        from relprop.cli.concept_report import show
        from relprop.jobs.concepts import FOUND, explain_concepts
        from relprop.jobs.picture_plan import PictureOptions

        if not images and model not in ("demo", "demo-vit"):
            raise RelpropError("give at least one picture or folder; only --model demo brings pictures of its own")
        targets = () if target is None else (target,)
        options = PictureOptions(
            tuple(images or ()), model, composite, out, targets, None, batch_size, device, size, overwrite=overwrite
        )
        found = explain_concepts(options, layer, top)
        if as_json:
            say((out / FOUND).read_text("utf-8").rstrip())
        else:
            show(found, out, quiet)


@app.command(
    cls=Once,
    epilog=examples(
        "relprop layers --model demo",
        "relprop layers --model torchvision:vgg16 --composite epsilon-plus-flat --json",
    )
    + "\n\n"
    + EPILOG,
)
def layers(
    model: Model,
    composite: CompositeName = RECOMMENDED,
    size: Size = None,
    as_json: PrintJson = False,
) -> None:
    """Print which rule each layer of a model gets."""
    with reporting():
        from relprop.jobs.layers import layer_records, layer_table

        if as_json:
            say(json.dumps(layer_records(model, composite, size), indent=2))
        else:
            say(layer_table(model, composite, size))


@app.command(
    cls=Once,
    epilog=examples(
        "relprop export --model demo --out demo.pt2",
        "relprop export --model demo --out demo.onnx --target star",
    )
    + "\n\n"
    + EPILOG,
)
def export(
    model: Model,
    out: ExportFile,
    composite: CompositeName = RECOMMENDED,
    target: ExportTarget = None,
    layers: LayerNames = None,
    size: Size = None,
    overwrite: Replace = False,
    as_json: PrintJson = False,
) -> None:
    """Write a program that returns output and relevance, and that runs where relprop is not installed."""
    with reporting():
        from relprop.jobs.export import ExportOptions, export_model

        exported = export_model(ExportOptions(model, out, composite, target, tuple(layers or ()), size, overwrite))
        if as_json:
            known = {"file": str(exported.path), "bytes": exported.size, "explains": exported.explains}
            say(json.dumps(known | {"target": target, "layers": list(layers or ())}, indent=2))
            return
        say(f"{exported.path}: {exported.size / 1e6:.1f} MB")
        if exported.artifact is not None:
            say(repr(exported.artifact))
        if exported.explains != "output":
            say(f"Its output is {exported.explains}.")


add_datasets(app)
add_contest(app, EPILOG)
add_tune(app, EPILOG)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RelpropError(f"{option} takes numbers with commas between them, not {text!r}") from error
