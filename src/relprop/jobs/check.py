"""The job of `relprop check`: whether a model can be explained, by what, and whether the explanation adds up."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import (
    RECOMMENDED,
    Given,
    Kind,
    check_composite,
    composite_names,
    make_composite,
    name_for,
)
from relprop.errors import CaptureError, RelpropError, UnexplainedError
from relprop.explanations.ledger import Entry, Ledger
from relprop.jobs.composites import make_analyzer
from relprop.jobs.layers import SIZE
from relprop.jobs.picture_plan import count_outputs
from relprop.models import load_model, load_text, open_picture
from relprop.targets import TargetLike, embedding_length

Verdict = Literal["fine", "doubtful", "refused"]
BALANCED = 1e-3
"""An account that is off by more of what came to it does not balance."""


@dataclass(frozen=True)
class Line:
    """All operators of one kind under one rule.

    Attributes:
        operator: what they compute. rule: how they are explained. count: how many there are.
        imbalance: of the worst account. growth: of relevance, at most. kept: by sinks, of what came in.
    """

    operator: str
    rule: str
    count: int
    imbalance: float
    growth: float
    kept: float


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        verdict: `"fine"`; `"doubtful"`: explained, but relevance explodes, vanishes or does not add up; `"refused"`: an
            operator has no rule, or the model cannot be captured.
        lines: by operator and rule. arrived: at the inputs, of 1 that started. sinks: what each kept of that.
        trouble: what is wrong. advice: what to do about it.
    """

    model: str
    composite: str
    verdict: Verdict
    lines: tuple[Line, ...] = ()
    arrived: float = 0.0
    sinks: tuple[tuple[str, float], ...] = ()
    trouble: str = ""
    advice: str = ""


def check_model(
    model: str, composite: str = RECOMMENDED, size: int | None = None, picture: Any = None, text: str | None = None
) -> Checked:
    """Explain one input with audited books, and sum them up.

    Args:
        model: its specification.
        composite: by name.
        size: of pictures, where the model does not say.
        picture: the path of one; None: noise, which is the same every time.
        text: a sentence, for language models.

    Raises:
        RelpropError: the model cannot be loaded or does not run.
    """
    kind: Kind = "pictures" if text is None else "text"
    check_composite(composite, kind)
    asking = _Pictures(model, size, picture) if text is None else _Text(model, text)
    name = name_for(composite, asking.loaded.model)
    try:
        ledger = asking.books(name)
    except (UnexplainedError, CaptureError) as error:
        return Checked(
            model, name, "refused", trouble=str(error), advice="docs/extending.md says how to teach operators"
        )
    trouble = _trouble(ledger)
    advice = _advice(asking, name, composite_names(kind)) if trouble else ""
    started = ledger.output or 1.0
    return Checked(
        model,
        name,
        "doubtful" if trouble else "fine",
        tuple(_lines(ledger)),
        ledger.input / started,
        tuple((sink, amount / started) for sink, amount in ledger.sinks.items() if abs(amount / started) > BALANCED),
        trouble,
        advice,
    )


class _Pictures:
    """A classifier of pictures, and one picture."""

    def __init__(self, model: str, size: int | None, picture: Any) -> None:
        self.loaded = load_model(model, size=size)
        self.x = self.loaded.preprocess(_noise(size) if picture is None else open_picture(picture))
        count_outputs(self.loaded, self.x)

    def books(self, composite: str) -> Ledger:
        lrp, _ = make_analyzer(self.loaded, composite, self.x)
        return _audited(lrp, (self.x,), None)


class _Text:
    """A language model, and one sentence."""

    def __init__(self, model: str, text: str) -> None:
        self.loaded = load_text(model)
        inputs = self.loaded.encode(text)
        self.inputs = (inputs["input_ids"], inputs["attention_mask"])

    def books(self, composite: str) -> Ledger:
        chosen = make_composite(composite, Given(self.loaded.model), "text")
        lrp = LRP(self.loaded.model, chosen, example_inputs=self.inputs)
        return _audited(lrp, self.inputs, embedding_length if self.loaded.kind == "encoder" else None)


def _audited(lrp: LRP, inputs: tuple[Tensor, ...], target: TargetLike) -> Ledger:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Relevance|Of relevance)")  # it is what is returned
        ledger = lrp(*inputs, target=target, audit=True).ledger
    assert ledger is not None
    return ledger


def _noise(size: int | None) -> Any:
    from PIL import Image

    side = size or SIZE
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _trouble(ledger: Ledger) -> str:
    if ledger.imbalance > BALANCED:
        worst = max(ledger.entries, key=lambda entry: entry.imbalance)
        where = f"{worst.module} ({worst.operator})" if worst.module else worst.operator
        return f"Relevance does not add up at {where}, under {worst.rule}: {worst.imbalance:.1e} of it is missing."
    return ledger.trouble


def _advice(asking: Any, given: str, names: Iterable[str]) -> str:
    """Composites with which nothing is wrong."""
    fine = [name for name in names if name != given and _is_fine(asking, name)]
    return f"Nothing is wrong with --composite {', '.join(fine)}" if fine else "No composite by name does better"


def _is_fine(asking: Any, name: str) -> bool:
    try:
        return not _trouble(asking.books(name))
    except RelpropError:
        return False


def _lines(ledger: Ledger) -> list[Line]:
    """The accounts by operator and rule, in the order in which relevance comes by."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in ledger.entries:
        groups.setdefault((entry.operator, str(entry.rule)), []).append(entry)
    return [
        Line(
            operator,
            rule,
            len(entries),
            max(entry.imbalance for entry in entries),
            max(entry.growth for entry in entries),
            sum(sum(e.sinks.values()) for e in entries) / (sum(abs(e.received) for e in entries) or 1.0),
        )
        for (operator, rule), entries in groups.items()
    ]
