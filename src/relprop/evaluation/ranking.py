"""What a contest returns: who is first, by how much, and who cannot be told from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from relprop.errors import InputError, MissingExtraError
from relprop.evaluation.bootstrap import interval, resampled
from relprop.evaluation.result import Evaluation
from relprop.explanations.files import replacing


@dataclass(frozen=True)
class Standing:
    """A method's place by one score.

    Attributes:
        method: its name.
        mean: over the samples that have a score; low, high: its interval.
        behind: the mean difference to the first, sample by sample, never positive where higher is better;
            behind_low, behind_high: its interval.
        near: within one standard error of the first, by the error of that difference.
        wins: the share of draws of the samples in which it is first.
    """

    method: str
    mean: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float
    near: bool
    wins: float


@dataclass(frozen=True, eq=False)
class Contest:
    """Scores of methods, ranked. It prints as a table, draws itself, saves as JSON.

    Intervals are of a paired bootstrap: samples are drawn again with replacement, the same for all methods. They say
    what other samples of the same kind might give, not what other models would.

    Attributes:
        evaluation: scores of all samples, and what was asked.
        failed: method -> why it has no score.
        same: method -> an earlier one with the same relevance, whose scores are its own.
        seconds: method -> how long relevance took, of all samples.
        baselines: methods that know nothing of the model.
        confidence: of the intervals.
        resamples: how often the samples were drawn.
    """

    evaluation: Evaluation
    failed: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    confidence: float = 0.95
    resamples: int = 2000

    @property
    def score(self) -> str:
        """The one that ranks: the first."""
        return next(iter(self.evaluation.better))

    def standings(self, score: str | None = None) -> list[Standing]:
        """Methods by their means, the best first; those without a score are left out.

        Args:
            score: one of those that were asked for. None: the first.

        Raises:
            InputError: it tells no good from bad, or no method has it.
        """
        return _standings(self, self.score if score is None else score)

    def ranking(self, score: str | None = None) -> list[str]:
        """Names of methods, the best first.

        Args:
            score: as in `standings`.
        """
        return [standing.method for standing in self.standings(score)]

    def near(self, score: str | None = None) -> list[str]:
        """The first method, and those within one standard error of it.

        Args:
            score: as in `standings`.
        """
        return [standing.method for standing in self.standings(score) if standing.near]

    def __str__(self) -> str:
        found = self.standings()
        others = [name for name in self.evaluation.better if name != self.score]
        table = Table(box=None, pad_edge=False)
        table.add_column("", justify="right")
        table.add_column("method", no_wrap=True)
        for head in (self.score, f"{self.confidence:.0%} interval", "behind the first", "first in", *others, "seconds"):
            table.add_column(head, justify="right", no_wrap=True)
        for place, standing in enumerate(found, 1):
            table.add_row(*self._cells(place, standing, others))
        console = Console(width=120 + 24 * len(others), color_system=None)
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().splitlines()]
        return "\n".join([*lines, *self._notes()])

    def _cells(self, place: int, s: Standing, others: list[str]) -> list[str]:
        gap = "" if place == 1 else f"{s.behind:+.3f}{_between(s.behind_low, s.behind_high, '+')}"
        took = self.seconds.get(s.method)
        return [
            f"{place}{'≈' if s.near and place > 1 else ' '}",
            s.method,
            f"{s.mean:.3f}",
            _between(s.low, s.high).strip(),
            gap,
            f"{s.wins:.0%}",
            *(self.evaluation.cell(s.method, name) for name in others),
            "" if took is None else f"{took:.1f}",
        ]

    def _notes(self) -> list[str]:
        notes = ["≈: within one standard error of the first, by their difference sample by sample."]
        for other in dict.fromkeys(self.same.values()):
            alike = [name for name, seen in self.same.items() if seen == other]
            notes.append(f"The same relevance as {other}: {', '.join(alike)}.")
        notes += [f"{name}: did not run: {reason}" for name, reason in self.failed.items()]
        return [*notes, ", ".join(f"{name}: {value}" for name, value in self.evaluation.setting.items())]

    def plot(self, axes: Any = None) -> Any:
        """Draw means and intervals, a row for each method and a panel for each score.

        Args:
            axes: a matplotlib `Axes` for each score that tells good from bad. None: a new figure.

        Returns:
            The matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is missing.
        """
        scores = [name for name, better in self.evaluation.better.items() if better is not None]
        order = self.ranking()[::-1]
        if axes is None:
            axes = _panels(len(scores), len(order))
        axes = list(axes)
        for axis, score in zip(axes, scores, strict=True):
            of = {standing.method: standing for standing in self.standings(score)}
            for row, method in enumerate(order):
                if method not in of:
                    continue
                s = of[method]
                knows = method not in self.baselines
                colour = "tab:gray" if not knows else "tab:red" if s.near else "tab:blue"
                axis.plot([s.low, s.high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
                axis.plot([s.mean], [row], "o", color=colour, markersize=5)
            axis.axvline(0, color="black", linewidth=0.6)
            axis.set_title(score, fontsize=10)
            axis.grid(axis="x", alpha=0.3)
        axes[0].set_yticks(range(len(order)), order, fontsize=8)
        axes[0].set_ylim(-0.6, len(order) - 0.4)
        axes[0].figure.supxlabel(
            f"mean, {self.confidence:.0%} interval; red: first, or within one standard error; grey: knows no model",
            fontsize=8,
        )
        return axes[0].figure

    def to_json(self, path: str | Path) -> Path:
        """Write scores of all samples, standings and what was asked; `Contest.from_json` reads it.

        Args:
            path: of the file, which appears whole or not at all.

        Raises:
            RelpropError: it cannot be written.
        """
        path = Path(path)
        told = [name for name, better in self.evaluation.better.items() if better is not None]
        content = {
            "standings": {name: [_plain(vars(s)) for s in self.standings(name)] for name in told},
            "failed": dict(self.failed),
            "same": dict(self.same),
            "seconds": dict(self.seconds),
            "baselines": list(self.baselines),
            "confidence": self.confidence,
            "resamples": self.resamples,
            **self.evaluation.to_dict(),
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> Contest:
        """What `to_json` wrote.

        Args:
            path: of the file.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {name: content[name] for name in ("failed", "same", "seconds", "confidence", "resamples")}
        return cls(Evaluation.from_dict(content), **known, baselines=tuple(content["baselines"]))


@cache
def _standings(contest: Contest, score: str) -> list[Standing]:
    evaluation = contest.evaluation
    order = [m for m in evaluation.ranking(score) if not math.isnan(evaluation.mean(m, score))]
    if not order:
        raise InputError(f"no method has {score!r}, of any sample.")
    sign = 1.0 if evaluation.better[score] == "higher" else -1.0
    scores = torch.stack([evaluation.scores[m][score] for m in order])
    gaps = scores - scores[0]
    seed = int(evaluation.setting.get("seed", 0))
    drawn_means, drawn_gaps = resampled([scores, gaps], contest.resamples, seed)
    best = (sign * drawn_means).nan_to_num(-math.inf).argmax(0)
    wins = torch.bincount(best, minlength=len(order)).double() / contest.resamples
    ends = interval(drawn_means, contest.confidence)
    gap_ends = interval(drawn_gaps, contest.confidence)
    alone = (~scores.isnan()).sum(1) < 2  # one sample says nothing of others
    found = []
    for i, method in enumerate(order):
        gap, error = evaluation.gain(method, order[0], score)
        near = i == 0 or sign * gap + (0.0 if math.isnan(error) else error) >= 0
        numbers = (ends[0][i], ends[1][i], gap, gap_ends[0][i], gap_ends[1][i])
        low, high, behind, behind_low, behind_high = (float(x) for x in numbers)
        if alone[i]:
            low = high = behind_low = behind_high = math.nan
        mean = evaluation.mean(method, score)
        found.append(Standing(method, mean, low, high, behind, behind_low, behind_high, near, float(wins[i])))
    return found


def _between(low: float, high: float, sign: str = "") -> str:
    return "" if math.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has; None in the place of those that are none."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _panels(count: int, rows: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing a contest needs matplotlib: pip install 'relprop[images]'") from error
    figure = Figure(figsize=(2.6 + 3.2 * count, 1.2 + 0.24 * rows), layout="constrained")
    return figure.subplots(1, count, sharey=True, squeeze=False)[0]
