"""What each optimisation gives by itself: with it and without it, in turn, in one process.

python benchmarks/ablations.py --write docs/ablations.md
python benchmarks/ablations.py --tiny
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import processor
from memory import peak_above
from networks import Built, llama, picture, tiny_resnet, tiny_vgg, tiny_vit, torchvision_model
from torch import Tensor
from worker import EXACT_MEMORY

from relprop import LRP, composites
from relprop.analyzers.captured import Captured
from relprop.engine.program.program import Program

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Ablation:
    """One optimisation: what was predicted, and how to do without it."""

    name: str
    predicted: str
    case: str
    without: Callable[[], contextlib.AbstractContextManager[Any]]
    options: dict[str, Any]


def patched(targets: dict[str, Any]) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Replace attributes in the engine, `{"module.attribute": value}`, while an analyzer is built and runs."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, value in targets.items():
                stack.enter_context(mock.patch(f"relprop.engine.{name}", value))
            yield

    return context


@contextlib.contextmanager
def no_signs() -> Iterator[None]:
    with mock.patch("relprop.engine.ops.simplify.without_zeros", lambda group, facts: group):
        yield


@contextlib.contextmanager
def no_focus() -> Iterator[None]:
    with mock.patch.object(Captured, "focused", None):
        yield


@contextlib.contextmanager
def not_trimmed() -> Iterator[None]:
    with mock.patch.object(Captured, "trimmed", property(lambda self: self.program)):
        yield


@contextlib.contextmanager
def nothing_released() -> Iterator[None]:
    nothing: dict[Any, list[Any]] = defaultdict(list)
    with (
        mock.patch("relprop.engine.program.program.last_readers", return_value=nothing),
        mock.patch.object(Program, "released_in_reverse", nothing),
    ):
        yield


def never(value: Any) -> bool:
    return False


ABLATIONS = (
    Ablation("sign analysis", "z⁺ from 5 passes to 3: time x 0.6", "VGG16", no_signs, {}),
    Ablation("modified weights kept", "no pass over the weights per call", "VGG16", contextlib.nullcontext,
             {"memory": "low"}),
    Ablation("channels-last convolutions", "no reordering inside oneDNN", "VGG16",
             patched({f"program.{name}.prefers_channels_last": never for name in ("constants", "loops")}), {}),
    Ablation("ReLU in place", "one activation less in memory for each ReLU", "VGG16",
             patched({"program.program._in_place": lambda graph: {}}), {}),
    Ablation("liveness", "peak of a few layers instead of all", "ResNet50",
             nothing_released, {}),
    Ablation("batch norms fused", "one operator less per convolution, forward and back", "ResNet50",
             contextlib.nullcontext, {"canonize": False}),
    Ablation("only what the target needs", "the head has 30 % of the weights: time x 0.7", "Llama-like", no_focus, {}),
    Ablation("only what the classifier reads", "7/12 of the last of 12 blocks: time x 0.95", "ViT-B/16", not_trimmed,
             {}),
    Ablation("only rows that relevance comes from", "2 of 24 products of a block: time x 0.92", "ViT-B/16",
             patched({"ops.affine.live_rows": lambda node, plan: None}), {}),
    Ablation("z and a ReLU behind it", "αβ from 5 passes to 4: time x 0.8", "VGG16, αβ",
             patched({"ops.affine.rectifier": lambda node, plan: None}), {}),
)  # fmt: skip


def build(case: str, tiny: bool) -> tuple[Built, composites.Composite]:
    if case == "Llama-like":
        sizes = (2, 32, 2, 50, 8) if tiny else (8, 768, 12, 32000, 256)
        return llama(*sizes[:4], batch=1, length=sizes[4])("cpu"), composites.AttnLRP()
    networks = {
        "VGG16": (tiny_vgg, "vgg16", 1, composites.EpsilonPlusFlat),
        "VGG16, αβ": (tiny_vgg, "vgg16", 1, composites.EpsilonAlpha2Beta1Flat),
        "ResNet50": (tiny_resnet, "resnet50", 8, composites.EpsilonPlusFlat),
        "ViT-B/16": (tiny_vit, "vit_b_16", 4, composites.CPLRP),
    }
    small, name, batch, composite = networks[case]
    gain = {"gain": 1.0} if name == "vit_b_16" else {}
    made = picture(small, 2, 32, **gain) if tiny else picture(torchvision_model(name), batch, 224, **gain)
    return made("cpu"), composite()


def variants(ablation: Ablation) -> dict[str, Callable[[], contextlib.AbstractContextManager[Any]]]:
    return {"with": contextlib.nullcontext, "without": ablation.without}


def analyzer(ablation: Ablation, built: Built, composite: composites.Composite, name: str) -> LRP:
    return LRP(built.model, composite, **(ablation.options if name == "without" else {}))


def peaks_of(ablation: Ablation, tiny: bool) -> dict[str, float]:
    """MiB with and without, in this process."""
    built, composite = build(ablation.case, tiny)
    peaks = {}
    for name, context in variants(ablation).items():
        with context():
            call = run_of(analyzer(ablation, built, composite, name), built)
            call()
            peaks[name] = peak_above(call).peak
    return peaks


def peaks_apart(ablation: Ablation) -> dict[str, float]:
    """The same in a process that holds no memory that is not in use."""
    command = [sys.executable, "-W", "ignore", __file__, "--peaks", ablation.name]
    done = subprocess.run(command, env=os.environ | EXACT_MEMORY, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(ablation: Ablation, tiny: bool, rounds: int) -> dict[str, Any]:
    """Seconds and MiB with and without, and the largest relative difference of relevance."""
    peaks = peaks_of(ablation, tiny) if tiny else peaks_apart(ablation)
    built, composite = build(ablation.case, tiny)
    runs = variants(ablation)
    times: dict[str, list[float]] = {name: [] for name in runs}
    found, calls = {}, {}
    for name, context in runs.items():
        with context():
            calls[name] = run_of(analyzer(ablation, built, composite, name), built)
            calls[name]()
    for _ in range(rounds):
        for name, context in runs.items():
            with context():
                start = time.perf_counter()
                found[name] = calls[name]()
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    difference = (found["with"] - found["without"]).norm() / found["with"].norm()
    return {"name": ablation.name, "case": ablation.case, "predicted": ablation.predicted, "seconds": seconds,
            "peak": peaks, "difference": float(difference)}  # fmt: skip


def run_of(lrp: LRP, built: Built) -> Run:
    def run() -> Tensor:
        if built.is_text:
            relevance = lrp(input_ids=built.x, target=(-1, int(built.target[0]))).relevance
        else:
            relevance = lrp(built.x, target=built.target).relevance
        assert isinstance(relevance, Tensor)
        return relevance

    return run


def render(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# What each optimisation gives",
        "",
        "Each is switched off by itself; calls with it and without it take turns, and medians are compared. The last",
        "column is the relative L2 difference of the relevance. Fusing batch norms changes what is computed, as",
        "canonization does; elsewhere it is rounding, as channels-last convolutions sum in another order.",
        "Written by `make ablations`.",
        "",
        f"float32; {processor()}, {torch.get_num_threads()} threads; torch {torch.__version__}. VGG16 with batch 1 and",
        "ResNet50 with batch 8 under `EpsilonPlusFlat`, VGG16 also under `EpsilonAlpha2Beta1Flat`; ViT-B/16 with",
        "batch 4 under `CPLRP`; the Llama-like decoder (8 layers, width 768, 256 tokens) under `AttnLRP`, explained at",
        "its last position. Peaks are of memory in use, in a process in which freed memory goes back at once.",
        "",
        "| optimisation | case | predicted | seconds with | without | time x | peak MiB with | without | difference |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        s, p = r["seconds"], r["peak"]
        lines.append(
            f"| {r['name']} | {r['case']} | {r['predicted']} | {s['with']:.3f} | {s['without']:.3f} "
            f"| {s['with'] / s['without']:.2f} | {p['with']:.0f} | {p['without']:.0f} | {r['difference']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page there")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="small networks, one round")
    parser.add_argument("--peaks", metavar="NAME", help="print the peaks of one optimisation, as JSON")
    args = parser.parse_args()
    if args.peaks:
        print(json.dumps(peaks_of(next(a for a in ABLATIONS if a.name == args.peaks), args.tiny)))
        return
    page = render([measure(a, args.tiny, 1 if args.tiny else args.rounds) for a in ABLATIONS])
    print(page)
    if args.write:
        args.write.write_text(page)


if __name__ == "__main__":
    main()
