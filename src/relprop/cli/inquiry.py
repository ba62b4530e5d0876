"""Commands that ask and write nothing: `check`, `rules`, `composites`, `models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relprop.cli.once import Once
from relprop.cli.options import CompositeName, Model, Size
from relprop.cli.reporting import reporting, say
from relprop.composites.names import RECOMMENDED
from relprop.explanations.shown import one_line, visible

CODES = {"fine": 0, "doubtful": 1, "refused": 3}
"""What `relprop check` exits with; 2 is for whatever cannot be asked at all."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sentence = Annotated[
    str | None, typer.Option("--text", metavar="SENTENCE", help="Check a language model, on this sentence.")
]
Picture = Annotated[
    Path | None, typer.Option("--image", metavar="FILE", help="Check on this picture; by default on noise.")
]
Part = Annotated[str | None, typer.Argument(help="A part of the name.", show_default=False)]


def examples(*lines: str) -> str:
    """A paragraph of examples for a command's help, one a line."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def add_to(app: typer.Typer) -> None:
    """Give an application these commands."""
    app.command(
        cls=Once,
        epilog=examples(
            "relprop check --model demo",
            "relprop check --model timm:vit_tiny_patch16_224 --json",
            "relprop check --model hf:folder/with/a/model --text 'A fine film.'",
        )
        + "\n\nExit codes: 0 fine, 1 explained but not to be trusted, 2 cannot be asked, 3 refused.",
    )(check)
    app.command(epilog=examples("relprop rules", "relprop rules gamma", "relprop rules --json"))(rules)
    app.command(epilog=examples("relprop composites", "relprop composites plus"))(composites)
    app.command(epilog=examples("relprop models", "relprop models resnet", "relprop models vit --json"))(models)


def check(
    model: Model,
    composite: CompositeName = RECOMMENDED,
    size: Size = None,
    image: Picture = None,
    text: Sentence = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a model can be explained: which operator has which rule, what explodes or is refused, what helps."""
    with reporting():
        from relprop.jobs.check import check_model

        found = check_model(model, composite, size, image, text)
        if as_json:
            say(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        else:
            _show(found, Console())
    if CODES[found.verdict]:
        raise typer.Exit(CODES[found.verdict])


def _show(found: Any, console: Console) -> None:
    if found.lines:
        table = _table("operator", "rule", "times", "off by", "grows", "kept")
        for line in found.lines:
            numbers = (str(line.count), f"{line.imbalance:.0e}", f"{line.growth:.3g}", f"{line.kept:.1%}")
            table.add_row(one_line(line.operator), Text(line.rule), *numbers)
        console.print(table)
        sinks = ", ".join(f"{one_line(name)} {share:.1%}" for name, share in found.sinks)
        console.print(
            Text(f"Of relevance {found.arrived:.1%} reached the input; sinks: {sinks or 'none'}.", style="dim")
        )
    word = {"fine": "fine", "doubtful": "not to be trusted", "refused": "refused"}[found.verdict]
    style = {"fine": "bold green", "doubtful": "bold yellow", "refused": "bold red"}[found.verdict]
    console.print(Text(f"{visible(found.model)} with {found.composite}: {word}", style=style), soft_wrap=True)
    for said in filter(None, (found.trouble, found.advice)):
        console.print(Text(visible(said)), soft_wrap=True)


def rules(part: Part = None, as_json: AsJson = False) -> None:
    """List the rules: what they compute, and their parameters."""
    with reporting():
        from relprop.jobs.inquiry import rules_known

        found = [rule for rule in rules_known() if _has(part, rule.name)]
        _listed(found, as_json, ("rule", "parameters", "what it does"), ("name", "parameters", "about"), part)


def composites(part: Part = None, as_json: AsJson = False) -> None:
    """List the composites that --composite takes, with what they are made of."""
    with reporting():
        from relprop.jobs.inquiry import composites_known

        found = [each for each in composites_known() if _has(part, each.name)]
        _listed(found, as_json, ("--composite", "for", "what it is"), ("name", "kinds", "about"), part)


def models(part: Part = None, as_json: AsJson = False) -> None:
    """List the sources of models, and with a part of a name the models that they know by that."""
    with reporting():
        from relprop.jobs.inquiry import models_known

        found = models_known(part)
        _listed(found, as_json, ("--model", "from"), ("name", "source"), part)


def _has(part: str | None, name: str) -> bool:
    return part is None or part.casefold() in name.casefold()


def _listed(found: list[Any], as_json: bool, heads: tuple[str, ...], fields: tuple[str, ...], part: str | None) -> None:
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
    elif found:
        table = _table(*heads)
        for each in found:
            table.add_row(*(Text(str(getattr(each, name))) for name in fields))
        Console().print(table)
    if not found:
        typer.echo(f"nothing has {part!r} in its name", err=True)
        raise typer.Exit(1)


def _table(*heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
    for head in heads:
        right = head in ("times", "off by", "grows", "kept")
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    return table
