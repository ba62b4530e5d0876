"""docs/evidence.md from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from relprop.evaluation import Contest
from relprop.evaluation.entrants import ANALYZERS

INTRODUCTION = """# Evidence

Which method explains best, by what the models themselves say. Written by `make evidence`: do not edit.
[Evaluation](evaluation.md) has the formulas, and how to do the same with a model of your own; [Which
composite](which-composite.md) says what follows.

- **SRG**: symmetric relevance gain, the area between the output's curves while parts are occluded, least relevant first
  and most relevant first; the tracked value is the logit, or whatever is explained. 0 is chance.
- **relative**: the SRG over what the whole input is above the wholly occluded one, where it is.
- **AOPC**: how far the output falls on average, most relevant first.
- **Gini**: 0 if all parts get the same relevance, 1 if one gets all. It says nothing of being right.
- **mark**: the share of positive relevance where it is known to belong, of samples of which that is known.

± is the standard error over samples. *gain* is the SRG less that of the first method in the table, sample by sample,
with its standard error: methods of one model see the same samples, so that they can differ more clearly than their own
errors say. ≈ marks those within one standard error of the first by that difference. *random* relevance and a *centre*
prior know nothing of the model. What `recommended(model)` gives is in bold. relprop's `InputTimesGradient`,
`IntegratedGradients`, `GradCAM` and `Occlusion` are Captum's InputXGradient, IntegratedGradients, LayerGradCam and
FeatureAblation, as tests show, and stand here once.
"""

TITLES = {"srg": "SRG", "relative_srg": "relative", "aopc": "AOPC", "gini": "Gini", "mass": "mark"}
ELSEWHERE_TOLD = """## Language models

A language model on prompts with known answers has [a page of its own](evidence-language.md).
"""
FIGURES = ("srg", "mass")
ELSEWHERE = {"random", "centre", *ANALYZERS}


@dataclass(frozen=True, eq=False)
class Found:
    """One model's section.

    Attributes:
        about: model and samples in words.
        contest: what was measured.
        recommended: the row of `recommended(model)`.
        why: said where that is not among the first.
    """

    name: str
    about: str
    contest: Contest
    recommended: str
    why: str = ""


def is_composite(name: str) -> bool:
    """No analyzer of another kind, no baseline, nothing of Captum's."""
    return name not in ELSEWHERE and not name.startswith("captum:")


def render(found: Mapping[str, Found], grid: Any = None, missing: Mapping[str, str] | None = None) -> str:
    """The whole page."""
    parts = [INTRODUCTION, f"torch {version('torch')}, float32.\n"]
    if found:
        parts.append(verdict(found, grid))
    for each in found.values():
        parts += [f"## {each.name[0].upper()}{each.name[1:]}\n", f"{each.about}\n", told(each), table(each)]
        parts.append(_setting(each.contest))
    if grid is not None:
        parts.append(pointing(grid))
    for key, reason in (missing or {}).items():
        parts.append(f"## {key}\n\nNot measured: {reason}.\n")
    return "\n".join([*parts, ELSEWHERE_TOLD])


def table(found: Found) -> str:
    """A row for each method, the largest SRG first; then those that do not run."""
    contest, evaluation = found.contest, found.contest.evaluation
    metrics = list(evaluation.better)
    standings = contest.standings("srg")
    lines = [f"| method | {' | '.join(TITLES[m] for m in metrics)} | gain |", "|---|" + "---:|" * (len(metrics) + 1)]
    for standing in standings:
        name = standing.method
        mean, error = evaluation.gain(name, standings[0].method, "srg")
        gain = "" if name == standings[0].method else f"{mean:+.3f} ± {error:.3f}{' ≈' if standing.near else ''}"
        cells = [*(evaluation.cell(name, m) for m in metrics), gain]
        shown = f"**{name}**" if name == found.recommended else name
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    if contest.failed:
        text += "\nThese do not run on this model: " + "; ".join(
            f"{n} ({_short(r)})" for n, r in contest.failed.items()
        )
        text += ".\n"
    return text


def _short(reason: str) -> str:
    reason = reason.strip().rstrip(".").replace("|", "/")
    return reason if len(reason) < 110 else f"{reason[:107]}..."


def _setting(contest: Contest) -> str:
    setting = contest.evaluation.setting
    return "".join(f"{name}: {value}; " for name, value in setting.items()).strip("; ") + ".\n"


def place(found: Found, metric: str) -> tuple[int, bool, bool | None]:
    """Of the recommended row among composites: its place, whether it is within one standard error of the first of them,
    and whether it is above all of Captum's methods."""
    contest = found.contest
    evaluation = contest.evaluation
    sign = 1.0 if evaluation.better[metric] == "higher" else -1.0
    composites = [m for m in contest.ranking(metric) if is_composite(m)]
    gap, error = evaluation.gain(found.recommended, composites[0], metric)
    near = composites[0] == found.recommended or sign * gap + (0.0 if math.isnan(error) else error) >= 0
    mine = sign * evaluation.mean(found.recommended, metric)
    captum = [m for m in contest.ranking(metric) if m.startswith("captum:")]
    above = all(sign * evaluation.mean(m, metric) < mine for m in captum) if captum else None
    return composites.index(found.recommended) + 1, near, above


def told(found: Found) -> str:
    """What the figures say of the recommended composite, and why where it is not among the first, or below Captum's."""
    figures = [m for m in FIGURES if m in found.contest.evaluation.better]
    lines = [f"- {TITLES[metric]}: {_sentence(found, metric)}" for metric in figures]
    poor = not all(near and above is not False for _, near, above in (place(found, metric) for metric in figures))
    reason = f"\n{found.why}\n" if found.why and poor else ""
    return "\n".join(lines) + "\n" + reason


def _sentence(found: Found, metric: str) -> str:
    evaluation = found.contest.evaluation
    number, near, above = place(found, metric)
    composites = [m for m in found.contest.ranking(metric) if is_composite(m)]
    text = f"**{found.recommended}**, which is recommended, has {evaluation.cell(found.recommended, metric)}"
    if number == 1:
        text += ", the first of all composites"
    else:
        gap, error = evaluation.gain(found.recommended, composites[0], metric)
        text += (
            f", place {number} of {len(composites)} composites, {'within' if near else 'not within'} one standard "
            f"error of the first, "
            f"{composites[0]} ({gap:+.3f} ± {error:.3f})"
        )
    captum = [m for m in found.contest.ranking(metric) if m.startswith("captum:")]
    if not captum:
        return text + "."
    best = captum[0]
    gap, error = evaluation.gain(found.recommended, best, metric)
    where = "above all of Captum's methods" if above else "not above all of Captum's methods"
    return f"{text}; {where}, of which {best.removeprefix('captum:')} is the best ({gap:+.3f} ± {error:.3f})."


def verdict(found: Mapping[str, Found], grid: Any) -> str:
    """The recommended composite on all models, in one table."""
    lines = [
        "## Which composite\n",
        "What `recommended(model)` gives, among all composites of the tables below, and beside Captum's methods:\n",
        "| model | recommended | figure | place | within one SE of the first | above all of Captum's |",
        "|---|---|---|---:|---|---|",
    ]
    for each in found.values():
        for metric in (m for m in FIGURES if m in each.contest.evaluation.better):
            number, near, above = place(each, metric)
            words = {True: "yes", False: "no", None: "none runs"}
            lines.append(
                f"| {each.name} | {each.recommended} | {TITLES[metric]} | {number} | {words[near]} | {words[above]} |"
            )
    return "\n".join(lines) + "\n"


def pointing(grid: Any) -> str:
    """The section of mosaics."""
    order = sorted(grid.scores, key=lambda name: -grid.line(name)[0])
    lines = [
        "## Mosaics of EfficientNet-Lite0\n",
        f"{grid.about} The grid pointing game's score is the share of positive relevance in the cell: 0.25 if it "
        f"lies anywhere alike, "
        "and so for the centre prior, to which all cells are one.\n",
        "| method | share in the cell |",
        "|---|---:|",
    ]
    for name in order:
        mean, error = grid.line(name)
        shown = f"**{name}**" if name == grid.recommended else name
        lines.append(f"| {shown} | {mean:.3f} ± {error:.3f} |")
    return "\n".join(lines) + "\n"
