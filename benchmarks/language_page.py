"""docs/evidence-language.md from what was measured."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from machine import processor

INTRODUCTION = """# Evidence: language models

Does an explanation of SmolLM2-135M-Instruct point at the word that the answer comes from? Written by `make evidence`:
do not edit. [Answers](answers.md) says how to explain a model of your own.

Four tasks of 20 prompts from templates, whose reason is known:

- **indirect objects**: "When Mary and John went to the store, John gave a bottle of milk to" → Mary, and not John. The
  reason is "Mary".
- **capitals**: "The capital of France is" → Paris. The reason is "France".
- **induction**: eight words and their beginning again → what came next before. The reason is that word, where it was.
- **agreement**: "The keys near the cabinet" → are, and not is. The reason is "keys".

Only prompts count that the model answers right: with the expected token before all others, or, where two are compared,
with a larger logit than the other's. Explained is the logit, or the difference. Integrated gradients take 10 steps.
"""
COSTS = "## What an answer costs"
HITS = """## How often the reason has the most relevance

Of all tokens of the prompt. *chance* is the share of tokens that are the reason.
"""
SRG = """## Does occlusion agree?

Symmetric relevance gain over tokens ([evaluation](evaluation.md)): the area between the curves of the explained amount
while tokens lose their embeddings, least relevant first and most relevant first. 0 is chance; ± is the standard error
over the first prompts of each task, 8 points a curve. These are few prompts, and *random* shows how far chance goes:
differences within two standard errors say nothing.
"""


def render(found: Mapping[str, tuple[int, int, float, Mapping[str, Any]]], cost: Mapping[str, float]) -> str:
    """The whole page.

    Args:
        found: task -> prompts, those that were answered right, chance, method -> hits.
        cost: of an answer, by name.
    """
    setting = f"torch {version('torch')}, transformers {version('transformers')}, float32, weights from 4 bits.\n"
    return "\n".join([INTRODUCTION, setting, HITS, _hits(found), SRG, _srg(found), _cost(cost)])


def _table(found: Mapping[str, Any], rows: list[list[str]]) -> str:
    head = ["method", *found]
    lines = [head, ["---", *["---:"] * len(found)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _hits(found: Mapping[str, tuple[int, int, float, Mapping[str, Any]]]) -> str:
    names = [name for name in next(iter(found.values()))[3] if name != "random"]
    rows = [["answered right", *(f"{right} of {all_}" for all_, right, _, _ in found.values())]]
    rows += [
        [name, *(f"{sum(m[name].right)} of {len(m[name].right)}" for _, _, _, m in found.values())] for name in names
    ]
    rows += [["chance", *(f"{chance:.0%}" for _, _, chance, _ in found.values())]]
    return _table(found, rows)


def _srg(found: Mapping[str, tuple[int, int, float, Mapping[str, Any]]]) -> str:
    names = list(next(iter(found.values()))[3])
    rows = [[name, *(_mean(m[name].srg) for _, _, _, m in found.values())] for name in names]
    return _table(found, [*rows, ["prompts", *(str(len(m[names[0]].srg)) for _, _, _, m in found.values())]])


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def with_costs(page: str, cost: Mapping[str, float]) -> str:
    """A page that was written, with its section on costs anew, which is the last."""
    return page[: page.index(COSTS)] + _cost(cost)


def _cost(cost: Mapping[str, float]) -> str:
    lines = [
        f"{COSTS}\n",
        f"A chat of {cost['prompt']:.0f} tokens and an answer of {cost['answer']:.0f}, each explained by AttnLRP, on "
        f"{processor()}, threads: {torch.get_num_threads()}, whose load was {cost['load']:.0f} on "
        f"{os.cpu_count()} cores; the least of several rounds.\n",
        "| | seconds |\n|---|---:|",
        f"| `AnswerExplainer`, first call, with the capture | {cost['first']:.1f} |",
        f"| `AnswerExplainer`, later calls | {cost['at once']:.2f} |",
        f"| the same with `chunk=1`, one token at a time | {cost['one by one']:.2f} |",
        f"| `LRP` in a loop over prefixes, captured before | {cost['loop']:.2f} |",
        f"\nThe matrix of an answer is the loop's, to {cost['gap']:.0e} of each row's largest relevance. At once it "
        f"takes {cost['at once'] / cost['loop']:.0%} of the loop's time. The process had at "
        f"most {cost['peak'] / 1e9:.1f} GB, of which the model's weights are 0.54 GB.\n",
    ]
    return "\n".join(lines)
