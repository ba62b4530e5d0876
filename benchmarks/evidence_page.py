"""docs/evidence.md from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from relprop import Evaluation

INTRODUCTION = """# Evidence

Which method explains best, by what the models themselves say. Written by `make evidence`: do not edit.
[Evaluation](evaluation.md) has the formulas, and how to do the same with a model of your own.

- **SRG**: symmetric relevance gain, the area between the output's curves while patches are occluded by the blurred
  picture, least relevant first and most relevant first; the tracked value is the logit. 0 is chance.
- **relative**: the SRG over what the whole picture is above the wholly blurred one, where it is.
- **AOPC**: how far the output falls on average, most relevant first.
- **Gini**: 0 if all patches get the same relevance, 1 if one gets all. It says nothing of being right.
- **mark**: the share of positive relevance inside the watermark, in pictures with one; it covers about 3 % of them.

± is the standard error over pictures. *gain* is the SRG less that of the first method in the table, picture by picture,
with its standard error: methods of one model see the same pictures, so that they can differ more clearly than their own
errors say. *random* relevance and a *centre* prior know nothing of the model.
"""

TITLES = {"srg": "SRG", "relative_srg": "relative", "aopc": "AOPC", "gini": "Gini", "mass": "mark"}
FIGURES = {"srg", "mass"}
NO_LRP = {"gradient", "input × gradient", "SmoothGrad", "integrated gradients", "random", "centre"}


def render(found: Mapping[str, tuple[str, Evaluation]]) -> str:
    """The whole page.

    Args:
        found: model -> what it is about, and what was measured.
    """
    parts = [INTRODUCTION, f"torch {version('torch')}, float32.\n", verdict({k: v for k, (_, v) in found.items()})]
    for name, (about, measured) in found.items():
        parts += [f"## {name[0].upper()}{name[1:]}\n\n{about}\n", table(measured), _setting(measured)]
    return "\n".join(parts)


def table(measured: Evaluation) -> str:
    """A row for each method, the largest SRG first."""
    order = measured.ranking("srg")
    metrics = list(measured.better)
    lines = [
        f"| method | {' | '.join(TITLES[m] for m in metrics)} | gain |",
        "|---|" + "---:|" * (len(metrics) + 1),
    ]
    for name in order:
        cells = [f"{measured.mean(name, m):.3f} ± {measured.error(name, m):.3f}" for m in metrics]
        mean, error = measured.gain(name, order[0], "srg")
        cells.append("" if name == order[0] else f"{mean:+.3f} ± {error:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _setting(measured: Evaluation) -> str:
    return "".join(f"{name}: {value}; " for name, value in measured.setting.items()).strip("; ") + ".\n"


def verdict(found: Mapping[str, Evaluation]) -> str:
    """Who wins, by each figure and over all."""
    lines = ["## Which composite\n"]
    for name, measured in found.items():
        figures = [metric for metric in measured.better if metric in FIGURES]
        lines += [f"- {TITLES[metric]} of {name}: {first(measured, metric)}." for metric in figures]
    winner, behind = overall(found)
    told = "; ".join(f"{figure} {share:.0%}" for figure, share in behind.items())
    lines.append(
        f"\nNo composite is first by every figure. Of each figure, a composite has some share of the best composite's; "
        f"**{winner}** is the one whose smallest share is largest ({told})."
    )
    return "\n".join(lines) + "\n"


def first(measured: Evaluation, metric: str) -> str:
    """The first method, and those that it cannot be told from by one standard error of the difference."""
    best, *others = [m for m in measured.ranking(metric) if measured.mean(m, metric) == measured.mean(m, metric)]
    near = [m for m in others if sum(measured.gain(m, best, metric)) >= 0]
    text = f"**{best}** is first with {measured.mean(best, metric):.3f} ± {measured.error(best, metric):.3f}"
    return text + (f", within a standard error of it {' and '.join(near)}" if near else "")


def overall(found: Mapping[str, Evaluation]) -> tuple[str, dict[str, float]]:
    """The composite whose smallest share of the best composite's figures is largest, in whole percent, and its shares.

    Among equals, that with the larger mean.
    """
    shares: dict[str, dict[str, float]] = {}
    for name, measured in found.items():
        for metric in FIGURES & measured.better.keys():
            means = {m: measured.mean(m, metric) for m in measured.scores if m not in NO_LRP}
            for method, mean in means.items():
                shares.setdefault(method, {})[f"{TITLES[metric]} of {name}"] = mean / max(means.values())
    winner = max(shares, key=lambda m: (round(min(shares[m].values()), 2), sum(shares[m].values())))
    return winner, dict(sorted(shares[winner].items()))
