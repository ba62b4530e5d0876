"""What each optimisation gives by itself: with it and without it, in turn, in one process.

python benchmarks/ablations.py --write docs/ablations.md
python benchmarks/ablations.py --tiny
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
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
from networks import Built, llama, picture, tiny_resnet, tiny_vgg, torchvision_model
from torch import Tensor

from relprop import LRP, composites
from relprop.ops.terms import Terms
from relprop.prepared import Prepared
from relprop.program import Program

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
    """Replace attributes of relprop's modules, `{"module.attribute": value}`, while the analyzer is built and runs."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, value in targets.items():
                stack.enter_context(mock.patch(f"relprop.{name}", value))
            yield

    return context


@contextlib.contextmanager
def no_signs() -> Iterator[None]:
    with mock.patch.object(Terms, "_simplify", lambda self, group: group):
        yield


@contextlib.contextmanager
def no_focus() -> Iterator[None]:
    with mock.patch.object(Prepared, "focused", None):
        yield


@contextlib.contextmanager
def nothing_released() -> Iterator[None]:
    nothing: dict[Any, list[Any]] = defaultdict(list)
    with (
        mock.patch("relprop.propagate.last_readers", return_value=nothing),
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
             patched({f"{room}.prefers_channels_last": never for room in ("constants", "propagate")}), {}),
    Ablation("ReLU in place", "one activation less in memory for each ReLU", "VGG16",
             patched({"program._in_place": lambda graph: {}}), {}),
    Ablation("liveness", "peak of a few layers instead of all", "ResNet50",
             nothing_released, {}),
    Ablation("batch norms fused", "one operator less per convolution, forward and back", "ResNet50",
             contextlib.nullcontext, {"canonize": False}),
    Ablation("only what the target needs", "the head has 30 % of the weights: time x 0.7", "Llama-like", no_focus, {}),
)  # fmt: skip


def build(case: str, tiny: bool) -> tuple[Built, composites.Composite]:
    if case == "Llama-like":
        sizes = (2, 32, 2, 50, 8) if tiny else (8, 768, 12, 32000, 256)
        return llama(*sizes[:4], batch=1, length=sizes[4])("cpu"), composites.AttnLRP()
    networks = {"VGG16": (tiny_vgg, "vgg16", 1), "ResNet50": (tiny_resnet, "resnet50", 8)}
    small, name, batch = networks[case]
    made = picture(small, 2, 32) if tiny else picture(torchvision_model(name), batch, 224)
    return made("cpu"), composites.EpsilonPlusFlat()


def measure(ablation: Ablation, tiny: bool, rounds: int) -> dict[str, Any]:
    """Seconds and MiB with and without, and the largest relative difference of relevance."""
    built, composite = build(ablation.case, tiny)
    runs = {"with": contextlib.nullcontext, "without": ablation.without}
    times: dict[str, list[float]] = {name: [] for name in runs}
    found, peaks, calls = {}, {}, {}
    for name, context in runs.items():
        with context():
            lrp = LRP(built.model, composite, **(ablation.options if name == "without" else {}))
            calls[name] = run_of(lrp, built)
            calls[name]()
            peaks[name] = peak_above(calls[name]).peak
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
        "ResNet50 with batch 8 under `EpsilonPlusFlat`; the Llama-like decoder (8 layers, width 768, 256 tokens) under",
        "`AttnLRP`, explained at its last position.",
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
    args = parser.parse_args()
    page = render([measure(a, args.tiny, 1 if args.tiny else args.rounds) for a in ABLATIONS])
    print(page)
    if args.write:
        args.write.write_text(page)


if __name__ == "__main__":
    main()
