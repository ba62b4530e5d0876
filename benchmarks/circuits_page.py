"""docs/evidence-circuits.md from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

INTRODUCTION = """# Evidence: positions, patching, blocks

Three readings of relevance, measured. Written by `make evidence`: do not edit. Tasks, prompts and how hits and SRG are
counted are those of the page on [language models](evidence-language.md).
"""
POSITIONS = """## Do rotary positions deserve a share?

SmolLM2-135M-Instruct turns its queries and keys by their positions. `AttnLRP(rope="half")` leaves half of what comes to
them with the position ([answers](answers.md#positions)), which can be added to the token there, with its sign, or as
PA-LRP has it (Bakish et al. 2025). How often the reason has the highest score of all tokens:
"""
GAINS = """
Symmetric relevance gain of the first prompts of each task; ± is the standard error, 0 is chance. Differences within two
standard errors say nothing.
"""
PATCHING = """## Does relevance say what patching says?

Pairs of prompts in which another one gives, so that another one should get it; explained is the difference of the two
names' logits. A part's activation is replaced by that of the other prompt, one part at a time, and the model is run:
that is the truth. Pearson's correlation with it of [`relevance_patching`](concepts.md#relevance-patching), and of the
gradient's estimate, over all parts of the model; the mean over pairs ± its standard error.
"""
BLOCKS = """## Input or blocks?

The demo's vision transformer on pictures that it classifies right: SRG of patches of 8 x 8 pixels, filled with the
blurred picture, ± standard error; relevance read at the pixels, or at the inputs of all blocks
([BlockSum](other-analyzers.md#where-tokens-are)). γ: `gamma_linear=0.05, gamma_conv=0.25`.
"""


def render(found: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        found: `positions`, `patching` and `blocks`, as benchmarks/circuits.py measures them.
    """
    setting = f"torch {version('torch')}, transformers {version('transformers')}, float32, weights from 4 bits.\n"
    positions = found["positions"]
    parts = [INTRODUCTION, setting, POSITIONS, hits(positions), GAINS, gains(positions), PATCHING]
    return "\n".join([*parts, patching(found["patching"]), BLOCKS, blocks(found["blocks"])])


def hits(found: Mapping[str, Any]) -> str:
    methods = list(dict.fromkeys(m for task in found.values() for m in task["hits"]))
    rows = [["answered right", *(str(task["right"]) for task in found.values())]]
    rows += [[m, *(str(sum(task["hits"].get(m, []))) for task in found.values())] for m in methods]
    kept = [f"{statistics.median(task['kept']):.0%}" if task["kept"] else "" for task in found.values()]
    return table(["method", *found], [*rows, ["share of the amount that positions keep, median", *kept]])


def gains(found: Mapping[str, Any]) -> str:
    methods = list(dict.fromkeys(m for task in found.values() for m in task["srg"]))
    return table(["method", *found], [[m, *(mean(task["srg"].get(m, [])) for task in found.values())] for m in methods])


def patching(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    kinds = list(next(iter(found.values())))
    rows = [[method, *(mean(scores[kind]) for kind in kinds)] for method, scores in found.items()]
    pairs = [str(len(next(iter(found.values()))[kind])) for kind in kinds]
    return table(["method", *kinds], [*rows, ["pairs of prompts", *pairs]])


def blocks(found: Mapping[str, Any]) -> str:
    readouts = list(next(iter(found["scores"].values())))
    rows = [
        [name, *(f"{score:.2f} ± {error:.2f}" for score, error in map(scores.__getitem__, readouts))]
        for name, scores in found["scores"].items()
    ]
    return table(["composite", *readouts], rows) + f"\n{found['pictures']} pictures.\n"


def mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
