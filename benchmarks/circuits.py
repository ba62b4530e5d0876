"""Positions, relevance patching and sums over blocks, held against the models themselves: docs/evidence-circuits.md.

python benchmarks/circuits.py --write docs/evidence-circuits.md
python benchmarks/circuits.py --tiny

The language model is SmolLM2-135M-Instruct (requirements-evidence.txt), the vision transformer the demo's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circuits_page import render
from circuits_patching import HEADS_OF, Exact, by_gradient, corrupted, pearson
from language import asked, gains, relevance_of, smollm2
from language_tasks import indirect_objects, places, tasks, token
from torch import Tensor

from relprop import LRP, evaluate
from relprop.analyzers import BlockSum
from relprop.composites import CPLRP, AttnLRP, ResLRP
from relprop.concepts import Heads, Tokens, relevance_patching
from relprop.evaluation import Patches
from relprop.models import TextModel, demo
from relprop.models.demo.pictures import draw_many
from relprop.targets import Logit

Found = dict[str, Any]


def position_rows(plain: LRP, half: LRP, inputs: dict[str, Tensor], target: Any) -> tuple[dict[str, Tensor], float]:
    """Scores of tokens by each readout, (T,), and what part of the amount rotary positions keep."""
    expl = half(**inputs, target=target, positions=True)
    tokens = relevance_of(expl)
    signed, positive, absolute = (expl.positions(form)[0] for form in ("signed", "positive", "absolute"))
    rows = {
        'AttnLRP, `rope="constant"`': relevance_of(plain(**inputs, target=target)),
        '`rope="half"`, tokens': tokens,
        "... and positions, signed": tokens + signed,
        "... as PA-LRP's equation": expl.by_input["input_ids"][0].clamp(min=0).sum(-1) + positive,
        "... as PA-LRP's code": tokens + absolute,
    }
    assert expl.amount is not None
    return rows, float(signed.sum() / expl.amount[0])


def measured_positions(loaded: TextModel, limit: int, curves: int) -> Found:
    """By task: how often the reason has the highest score, the SRG of the first ones, what positions keep."""
    plain = LRP(loaded.model, AttnLRP(), normalize_output=False)
    half = LRP(loaded.model, AttnLRP(rope="half"), normalize_output=False)
    found: Found = {}
    for name, prompts in tasks().items():
        known: Found = {"right": 0, "kept": [], "hits": {}, "srg": {}}
        for prompt in prompts[:limit]:
            ids, reason = places(loaded.tokenizer, prompt)
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            target, right = asked(loaded, prompt, inputs)
            if not right:
                continue
            known["right"] += 1
            rows, kept = position_rows(plain, half, inputs, target)
            known["kept"].append(kept)
            for method, row in rows.items():
                known["hits"].setdefault(method, []).append(reason[int(row.argmax())])
            if known["right"] <= curves:
                for method, score in gains(loaded, inputs, target, rows, known["right"]).items():
                    known["srg"].setdefault(method, []).append(score)
        found[name] = known
        print(name, {m: sum(h) for m, h in known["hits"].items()}, known["srg"], flush=True)
    return found


def measured_patching(loaded: TextModel, limit: int) -> Found:
    """Pearson's correlation with activation patching, by kind of part and method, one number for each prompt."""
    composites = {"RelP, AttnLRP": AttnLRP(), "RelP, CP-LRP": CPLRP(), "RelP, ResLRP": ResLRP()}
    analyzers = {name: LRP(loaded.model, each, normalize_output=False) for name, each in composites.items()}
    exact, found = Exact(loaded), {}
    for prompt in list(indirect_objects())[:: max(1, 20 // limit)][:limit]:
        two = corrupted(loaded.tokenizer, prompt)
        if two is None:
            continue
        clean, other = two
        a, b = (token(loaded.tokenizer, text) for text in (prompt.answer, str(prompt.against)))
        target = Logit(a) - Logit(b)
        truth = exact.effects(clean, other, a, b)
        for name, lrp in analyzers.items():
            for at in ("clean", "both"):
                patching = relevance_patching(
                    lrp, inputs_of(clean), inputs_of(other), exact.layers, target=target, at=at
                )
                method = name if at == "clean" else f"{name}, mean of both"
                note(found, method, truth, {kind: scores(exact, patching, kind) for kind in truth})
        note(found, "attribution patching (gradient)", truth, by_gradient(exact, clean, other, a, b))
        print({m: {k: round(v[-1], 3) for k, v in kinds.items()} for m, kinds in found.items()}, flush=True)
    return found


def scores(exact: Exact, patching: Any, kind: str) -> Tensor:
    """Of one kind of part, layer by layer."""
    group = Heads(exact.heads) if kind == HEADS_OF else Tokens()
    return torch.cat([patching.by(layer, group)[0] for layer in exact.of(kind)])


def note(found: Found, method: str, truth: dict[str, Tensor], estimated: dict[str, Tensor]) -> None:
    for kind, effects in truth.items():
        found.setdefault(method, {}).setdefault(kind, []).append(pearson(effects, estimated[kind]))


def inputs_of(ids: list[int]) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


def measured_blocks(count: int) -> Found:
    """SRG of the demo's transformer, read at the input and summed over blocks: composite -> readout -> mean, error."""
    drawings = draw_many(np.random.default_rng(7), count)
    x = demo.to_input(np.stack([d.image for d in drawings]))
    labels = torch.tensor([d.label for d in drawings])
    model, found = demo.load_vit(), {}
    with torch.no_grad():
        right = model(x).argmax(1) == labels
    x, labels = x[right], labels[right]
    for name, composite in composites_of_vit():
        lrp = LRP(model, composite)
        methods = {"at the input": lrp, "summed over blocks": BlockSum(lrp)}
        result = evaluate(methods, x, labels, ["srg"], groups=Patches(8), baselines=("random", "centre"))
        found[name] = {
            method: (result.mean(method, "srg"), result.error(method, "srg"))
            for method in (*methods, "random", "centre")
        }
        print(name, found[name], flush=True)
    return {"pictures": len(x), "scores": found}


def composites_of_vit() -> Iterator[tuple[str, Any]]:
    for name, make in (("AttnLRP", AttnLRP), ("CP-LRP", CPLRP), ("ResLRP", ResLRP)):
        yield name, make()
        yield f"{name}, γ", make(gamma_linear=0.05, gamma_conv=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="one prompt of each kind, few pictures")
    parser.add_argument("--prompts", type=int, default=20, help="of each task")
    parser.add_argument("--curves", type=int, default=4, help="prompts of each task whose SRG is measured")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of prompts for patching")
    parser.add_argument("--only", choices=["positions", "patching", "blocks"], help="print one part's numbers")
    given = parser.parse_args()
    if given.tiny:
        given.prompts, given.curves, given.pairs = 1, 1, 1
    loaded = None if given.only == "blocks" else smollm2()
    found: Found = {}
    if given.only in (None, "blocks"):
        found["blocks"] = measured_blocks(16 if given.tiny else 80)
    if given.only in (None, "patching") and loaded is not None:
        found["patching"] = measured_patching(loaded, given.pairs)
    if given.only in (None, "positions") and loaded is not None:
        found["positions"] = measured_positions(loaded, given.prompts, given.curves)
    text = json.dumps(found) if given.only else render(found)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
