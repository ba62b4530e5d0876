"""What an evaluation returns: a table, curves, a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from relprop.errors import InputError, MissingExtraError
from relprop.evaluation.occlusion import Curves
from relprop.explanations.files import replacing


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of explanations, per sample. It prints as a table: mean and standard error of methods and metrics.

    Attributes:
        scores: method -> metric -> (B,), NaN where a sample has none.
        better: metric -> `"higher"`, `"lower"`, or None where neither is.
        setting: what was asked: groups and how they score, fill, what is tracked, steps, seed, samples.
        curves: method -> occlusion curves, of metrics that need them.
    """

    scores: Mapping[str, Mapping[str, Tensor]]
    better: Mapping[str, str | None]
    setting: Mapping[str, Any]
    curves: Mapping[str, Curves] = field(default_factory=dict)

    def mean(self, method: str, metric: str) -> float:
        """Over the samples that have a score."""
        return float(self._of(method, metric).mean())

    def error(self, method: str, metric: str) -> float:
        """The mean's standard error: standard deviation over √n of the n samples that have a score."""
        found = self._of(method, metric)
        return float(found.std() / math.sqrt(len(found))) if len(found) > 1 else math.nan

    def gain(self, method: str, other: str, metric: str) -> tuple[float, float]:
        """Mean and standard error of the difference of two methods, sample by sample, which vary together."""
        both = self.scores[method][metric] - self.scores[other][metric]
        both = both[~both.isnan()]
        return float(both.mean()), float(both.std() / math.sqrt(len(both))) if len(both) > 1 else math.nan

    def ranking(self, metric: str) -> list[str]:
        """Methods, the best first; those without a score last.

        Raises:
            InputError: the metric tells no good from bad.
        """
        if self.better.get(metric) is None:
            raise InputError(f"{metric!r} tells no good from bad; {[m for m, b in self.better.items() if b]} do.")
        sign = -1 if self.better[metric] == "higher" else 1
        means = {method: sign * self.mean(method, metric) for method in self.scores}
        return sorted(means, key=lambda method: (math.isnan(means[method]), means[method]))

    def __str__(self) -> str:
        table = Table(box=None, pad_edge=False)
        table.add_column("method", no_wrap=True)
        arrows = {"higher": " ↑", "lower": " ↓", None: ""}
        for metric, better in self.better.items():
            table.add_column(metric + arrows[better], justify="right", no_wrap=True)
        for method in self.scores:
            table.add_row(method, *(self.cell(method, metric) for metric in self.better))
        console = Console(width=40 + 24 * len(self.better), color_system=None)
        with console.capture() as capture:
            console.print(table)
        lines = [line.rstrip() for line in capture.get().splitlines()]
        return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in self.setting.items())])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("method", *self.better))
        rows = "".join(
            f"<tr><td>{method}</td>{''.join(f'<td>{self.cell(method, metric)}</td>' for metric in self.better)}</tr>"
            for method in self.scores
        )
        return f"<table><tr>{head}</tr>{rows}</table>"

    def plot(self, axes: Any = None) -> Any:
        """Draw the curves: for each method most and least influential first, and the area between them.

        Args:
            axes: one matplotlib `Axes` for each method. None: a new figure.

        Returns:
            The matplotlib figure.

        Raises:
            InputError: no metric needed curves.
            MissingExtraError: matplotlib is missing.
        """
        if not self.curves:
            raise InputError("There are no curves to draw: evaluate(..., metrics=['srg']) makes them.")
        if axes is None:
            axes = _axes(len(self.curves))
        axes = list(axes)
        for axis, (method, curves) in zip(axes, self.curves.items(), strict=True):
            mif, lif = curves.mif.mean(0).tolist(), curves.lif.mean(0).tolist()
            x = curves.fractions.tolist()
            axis.fill_between(x, mif, lif, alpha=0.15, color="tab:blue", linewidth=0)
            axis.plot(x, mif, color="tab:red", label="most influential first")
            axis.plot(x, lif, color="tab:blue", label="least influential first")
            axis.set_title(f"{method}\nSRG {float(curves.srg.mean()):.2f}", fontsize=9)
            axis.set_xlabel("occluded")
        axes[0].set_ylabel(str(self.setting.get("track", "output")))
        axes[0].legend(fontsize=7)
        return axes[0].figure

    def to_json(self, path: str | Path) -> Path:
        """Write scores of all samples, curves and setting; `Evaluation.from_json` reads them.

        Args:
            path: of the file, which appears whole or not at all.

        Raises:
            RelpropError: it cannot be written.
        """
        path = Path(path)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """What `to_json` wrote.

        Args:
            path: of the file.
        """
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        """What `to_json` writes."""
        curves = {
            method: {"fractions": c.fractions.tolist(), "mif": c.mif.tolist(), "lif": c.lif.tolist()}
            for method, c in self.curves.items()
        }
        scores = {m: {k: _numbers(v) for k, v in of.items()} for m, of in self.scores.items()}
        return {"scores": scores, "better": dict(self.better), "setting": dict(self.setting), "curves": curves}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Evaluation:
        """What `to_dict` gave.

        Args:
            content: scores, which way is better, setting, and curves.
        """
        scores = {m: {k: _tensor(v) for k, v in of.items()} for m, of in content["scores"].items()}
        curves = {
            m: Curves(*(_tensor(c[key]) for key in ("fractions", "mif", "lif"))) for m, c in content["curves"].items()
        }
        return cls(scores, content["better"], content["setting"], curves)

    def _of(self, method: str, metric: str) -> Tensor:
        for name, known in ((method, self.scores), (metric, self.better)):
            if name not in known:
                raise InputError(f"{name!r} was not evaluated; there are {list(known)}.")
        found = self.scores[method][metric]
        return found[~found.isnan()]

    def cell(self, method: str, metric: str) -> str:
        """Mean and standard error, as the table shows them."""
        mean, error = self.mean(method, metric), self.error(method, metric)
        if math.isnan(mean):
            return "-"
        return f"{mean:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


def _numbers(scores: Tensor) -> list[float | None]:
    return [x if math.isfinite(x) else None for x in scores.tolist()]


def _tensor(numbers: Any) -> Tensor:
    if numbers and isinstance(numbers[0], list):
        return torch.tensor(numbers, dtype=torch.float64)
    return torch.tensor([math.nan if x is None else x for x in numbers], dtype=torch.float64)


def _axes(count: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing curves needs matplotlib: pip install 'relprop[images]'") from error
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.8 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for spare in axes[count:]:
        spare.set_visible(False)
    return axes[:count]
