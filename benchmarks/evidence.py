"""Which method explains best, by what the models themselves say: docs/evidence.md.

python benchmarks/evidence.py --write docs/evidence.md
python benchmarks/evidence.py --tiny
python benchmarks/evidence.py --only demo --only vit

What is measured is kept, method by method, in a folder, and not measured again: a run that was stopped goes on. Models
with real weights come from packages (requirements-evidence.txt); where one is missing, its section says so.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from evidence_models import Subject, cancer, demo_network, demo_transformer
from evidence_page import Found, render
from evidence_photos import efficientnet, grids, pointed
from evidence_sequences import crepe, minilm
from evidence_voices import resemblyzer

from relprop.evaluation import Contest, Evaluation, contest

SUBJECTS: Mapping[str, Callable[[bool], Subject]] = {
    "efficientnet": efficientnet,
    "demo": demo_network,
    "vit": demo_transformer,
    "cancer": cancer,
    "minilm": minilm,
    "crepe": crepe,
    "voices": resemblyzer,
}


def measure(subject: Subject, folder: Path | None) -> Contest:
    """All methods on one model; those that lie in the folder are read."""
    parts: dict[str, Contest] = {}
    failed: dict[str, str] = {}
    for k, (name, method) in enumerate(subject.methods.items()):
        path = None if folder is None else folder / f"{re.sub('[^A-Za-z0-9=.]+', '_', name)}.json"
        if path is not None and path.exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            if "reason" in told:
                failed[name] = told["reason"]
            else:
                parts[name] = Contest.from_json(path)
            continue
        start = time.perf_counter()
        baselines = () if k else ("random", "centre")
        try:
            found = contest(
                subject.model, subject.inputs, subject.target, {name: method}, subject.scores, subject.masks,
                baselines=baselines, **subject.options,
            )  # fmt: skip
        except ValueError as error:
            if "no method runs" not in str(error):
                raise
            failed[name] = str(error).partition(f"{name}: ")[2]
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"reason": failed[name]}), encoding="utf-8")
        else:
            parts[name] = found
            if path is not None:
                found.to_json(path)
        print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return joined(parts, failed)


def joined(parts: Mapping[str, Contest], failed: Mapping[str, str]) -> Contest:
    """One contest of several about the same samples."""
    first = next(iter(parts.values()))
    scores = {name: of for part in parts.values() for name, of in part.evaluation.scores.items()}
    whole = Evaluation(scores, first.evaluation.better, first.evaluation.setting)
    seconds = {name: s for part in parts.values() for name, s in part.seconds.items()}
    return Contest(whole, failed, {}, seconds, first.baselines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--cache", type=Path, default=Path("evidence"), help="what lies in this folder is not measured")
    parser.add_argument("--only", action="append", choices=[*SUBJECTS, "grids"], help="measure these; more than once")
    parser.add_argument("--tiny", action="store_true", help="few samples, few steps, nothing is kept")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    found: dict[str, Found] = {}
    missing: dict[str, str] = {}
    wanted = args.only or [*SUBJECTS, "grids"]
    for key in (k for k in SUBJECTS if k in wanted):
        try:
            subject = SUBJECTS[key](args.tiny)
        except ImportError as error:
            missing[key] = str(error)
            print(f"{key} is left out: {error}")
            continue
        print(key, flush=True)
        ranked = measure(subject, None if args.tiny else args.cache / key)
        found[key] = Found(subject.name, subject.about, ranked, subject.recommended, subject.why)
    grid = None
    if "grids" in wanted and "efficientnet" not in missing:
        grid = pointed(grids(args.tiny), None if args.tiny else args.cache / "grids.json")
    page = render(found, grid, missing)
    print(page)
    if args.write:
        args.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
