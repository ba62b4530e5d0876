"""What `tune` returns: a composite, its code, and what it gained on samples that it was not chosen by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relprop.composites import Composite
from relprop.errors import MissingExtraError
from relprop.evaluation.ranking import Contest, Standing
from relprop.explanations.files import replacing

TUNED, RECOMMENDED = "tuned", "recommended"


@dataclass(frozen=True)
class Tried:
    """One composite of a search.

    Attributes:
        parameters: of the preset.
        score: its mean over the samples of the search; None where it cannot run there.
    """

    parameters: Mapping[str, Any]
    score: float | None


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best composite of a search. It prints what was gained, draws the search, saves as JSON.

    Attributes:
        composite: ready to use.
        code: the same in Python, of `relprop.composites`.
        parameters: those of the preset.
        tried: all that was tried, in order.
        searched: its scores and those of `recommended(model)` on the samples that it was chosen by.
        held_out: the same on the others, which say what it is worth.
        start: the print of what `recommended(model)` is.
    """

    composite: Composite
    code: str
    parameters: Mapping[str, Any]
    tried: Sequence[Tried]
    searched: Contest
    held_out: Contest
    start: str

    @property
    def score(self) -> str:
        """What was searched for."""
        return self.held_out.score

    @property
    def gain(self) -> tuple[float, float]:
        """Mean and standard error of the difference to `recommended(model)`, sample by sample, where held out."""
        return self.held_out.evaluation.gain(TUNED, RECOMMENDED, self.score)

    @property
    def better(self) -> bool:
        """Whether the gain on held out samples is more than one standard error of it."""
        gain, error = self.gain
        sign = 1.0 if self.held_out.evaluation.better[self.score] == "higher" else -1.0
        return sign * gain > (0.0 if math.isnan(error) else error)

    def __str__(self) -> str:
        lines = [f"{self.code}", f"{self.score}, of which {len(self.tried)} composites were tried:"]
        for name, part in (("searched", self.searched), ("held out", self.held_out)):
            lines.append(f"  {name}, {part.evaluation.setting['samples']} samples: {self._line(part)}")
        if not self.better:
            lines.append(f"No gain that other samples show: stay with recommended(model), {self.start}.")
        return "\n".join(lines)

    def _line(self, part: Contest) -> str:
        of: dict[str, Standing] = {s.method: s for s in part.standings()}
        gain, error = part.evaluation.gain(TUNED, RECOMMENDED, self.score)
        gained = f"{gain:+.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
        return f"{of[TUNED].mean:.3f}, recommended {of[RECOMMENDED].mean:.3f}, gain {gained}"

    def plot(self, axis: Any = None) -> Any:
        """Draw the scores of what was tried, in order, and the best so far.

        Args:
            axis: a matplotlib `Axes`. None: a new figure.

        Returns:
            The matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is missing.
        """
        if axis is None:
            axis = _axis()
        lower = self.held_out.evaluation.better[self.score] == "lower"
        found = [(k, t.score) for k, t in enumerate(self.tried) if t.score is not None]
        best = found[0][1]
        sofar = [best := (min if lower else max)(best, score) for _, score in found]
        axis.plot([k for k, _ in found], [score for _, score in found], "o", color="tab:blue", markersize=4)
        axis.step([k for k, _ in found], sofar, where="post", color="tab:red", label="best so far")
        start = self.searched.evaluation.mean(RECOMMENDED, self.score)
        axis.axhline(start, color="black", linewidth=0.8, linestyle="--", label="recommended")
        axis.set_xlabel("tried")
        axis.set_ylabel(f"{self.score}, mean of the samples of the search")
        axis.legend(fontsize=8)
        return axis.figure

    def to_json(self, path: str | Path) -> Path:
        """Write the code, what was tried, and all scores.

        Args:
            path: of the file, which appears whole or not at all.

        Raises:
            RelpropError: it cannot be written.
        """
        path = Path(path)
        gain, error = self.gain
        content = {
            "code": self.code,
            "parameters": dict(self.parameters),
            "recommended": self.start,
            "gain": {"mean": gain, "error": None if math.isnan(error) else error, "better": self.better},
            "tried": [{"parameters": dict(t.parameters), "score": t.score} for t in self.tried],
            "searched": self.searched.evaluation.to_dict(),
            "held_out": self.held_out.evaluation.to_dict(),
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        return path


def _axis() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing a search needs matplotlib: pip install 'relprop[images]'") from error
    return Figure(figsize=(5.5, 3.4), layout="constrained").subplots()
