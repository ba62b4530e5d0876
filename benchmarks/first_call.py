"""What a first call takes beside its explanation, next to `torch.export` alone: `python benchmarks/first_call.py`.

The goal is 1.3 times the export alone, and 2 % of the first set-up for a second analyzer; docs/performance.md says how
far it is met. Seconds of the CPU, medians of rounds; the export's machinery is
imported before.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from networks import Build, llama, picture, tiny_resnet, torchvision_model

from relprop import LRP
from relprop.composites import AttnLRP, Composite, EpsilonPlus, EpsilonPlusFlat


@dataclass(frozen=True)
class Row:
    """Seconds: of the export alone, of all of a first call but the explanation, of another analyzer's set-up."""

    export: float
    first: float
    second: float


Networks = Mapping[str, tuple[Build, Callable[[], Composite]]]

NETWORKS: Networks = {
    "ResNet50": (picture(torchvision_model("resnet50"), 2, 224), EpsilonPlusFlat),
    "ViT-B/16": (picture(torchvision_model("vit_b_16"), 2, 224, gain=1.0), AttnLRP),
    "Llama-like, 30 layers": (llama(30, 64, 4, 100, batch=2, length=32), AttnLRP),
}

TINY: Networks = {
    "ResNet": (picture(tiny_resnet, 2, 32), EpsilonPlusFlat),
    "Llama-like": (llama(1, 16, 2, 20, batch=2, length=8), AttnLRP),
}


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """What a run takes of the CPU, and returns."""
    gc.collect()
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def export(model: torch.nn.Module, x: torch.Tensor) -> None:
    """As a user writes it, with the sizes open that relprop leaves open."""
    sizes = dict.fromkeys(range(1 if x.is_floating_point() else 2), torch.export.Dim.AUTO)
    with torch.no_grad():
        torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=False)


def measured(build: Build, composite: Callable[[], Composite]) -> Row:
    """One round, on a model that nobody has captured yet."""
    case = build("cpu")
    if case.is_text:
        case.model.config.use_cache = False  # a cache is no output that relprop would export
    target = (-1, 0) if case.is_text else 0
    alone, _ = seconds(lambda: export(case.model, case.x))
    lrp = LRP(case.model, composite())

    def call() -> Any:
        return lrp(case.x, target=target)

    first, _ = seconds(call)
    call()  # the second call compares the program with the model, the third only explains
    later, _ = seconds(call)
    second, _ = seconds(lambda: LRP(case.model, EpsilonPlus(), example_inputs=(case.x,)))
    return Row(alone, max(first - later, 0.0), second)


def rows(networks: Networks, rounds: int) -> dict[str, Row]:
    """Name of the network -> medians of rounds."""
    found = {}
    for name, how in networks.items():
        times = [measured(*how) for _ in range(rounds)]
        found[name] = Row(*(median(getattr(t, part) for t in times) for part in ("export", "first", "second")))
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows(TINY, 1)
    print(f"{'network':22} {'export s':>9} {'first s':>9} {'ratio':>6} {'second ms':>10} {'of the first':>13}")
    for name, row in rows(NETWORKS, 3).items():
        shares = f"{row.first / row.export:6.2f} {row.second * 1e3:10.0f} {row.second / row.first:13.1%}"
        print(f"{name:22} {row.export:9.2f} {row.first:9.2f} {shares}", flush=True)


if __name__ == "__main__":
    main()
