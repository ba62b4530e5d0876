"""How costs grow: with the batch, the sequence, the depth, the number of targets; with the first call and the 1,000th.

Measured in one process, since only relprop and the plain gradient take part, and neither changes the other's model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import DENSENET121, RESNET50, VGG16, VIT
from measure import Settings
from memory import held
from methods import METHODS
from networks import Build, llama, picture, tiny_resnet, torchvision_model

from relprop import LRP
from relprop.composites import AttnLRP, Composite, EpsilonPlusFlat
from relprop.engine.graph.capture import capture

Found = dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """relprop next to a gradient, as one number grows."""

    name: str
    what: str
    build: Callable[[int], Build]
    values: tuple[int, ...]
    tiny_build: Callable[[int], Build]
    methods: tuple[str, str] = ("plain gradient", "relprop AttnLRP")

    def measure(self, settings: Settings) -> Found:
        """Medians for each value."""
        values = self.values[:2] if settings.tiny else self.values
        build = self.tiny_build if settings.tiny else self.build
        return {"what": self.what, "values": values, "seconds": [self._point(build(v), settings) for v in values]}

    def _point(self, build: Build, settings: Settings) -> tuple[float, ...]:
        runs = [METHODS[name].prepare(lambda: build(settings.device)) for name in self.methods]
        for run in runs:
            run()
        times = [[seconds_of(run, settings) for run in runs] for _ in range(settings.rounds)]
        return tuple(statistics.median(t) for t in zip(*times, strict=True))


@dataclass(frozen=True)
class FirstCall:
    """What a first call takes, and what later calls no longer do."""

    name: str = "first call"

    def measure(self, settings: Settings) -> Found:
        networks = TINY_NETWORKS if settings.tiny else NETWORKS
        if not settings.tiny:  # what Python imports on the way is paid once, and not by the first network
            self._network(*TINY_NETWORKS["ResNet"], settings)
        return {"first": {name: self._network(*how, settings) for name, how in networks.items()}}

    def _network(self, build: Build, composite: Callable[[], Composite], settings: Settings) -> Found:
        case = build(settings.device)
        target = (-1, 0) if case.is_text else 0
        start = time.perf_counter()
        lrp = LRP(case.model, composite(), example_inputs=(case.x,))
        built = time.perf_counter()
        capture(case.model, (case.x,))
        captured = time.perf_counter() - built

        def call() -> Any:
            return lrp(case.x, target=target)

        first = seconds_of(call, settings)
        later = statistics.median(seconds_of(call, settings) for _ in range(settings.rounds))
        # Making the analyzer has captured too: what it took beyond that are rules and the program.
        program = max(built - start - captured, 0.0)
        return {"capture": captured, "program": program, "first": first, "later": later}


@dataclass(frozen=True)
class ManyCalls:
    """Does memory grow with the number of calls?"""

    name: str = "1,000 calls"

    def measure(self, settings: Settings) -> Found:
        case = picture(tiny_resnet, 2, 32)(settings.device)
        lrp = LRP(case.model, EpsilonPlusFlat())
        found: dict[str, float] = {}
        few, many = (10, 30) if settings.tiny else (100, 1000)
        for i in range(1, many + 1):
            lrp(case.x, target=case.target)
            if i in {few, many}:
                found[str(i)] = held()
        return {"held": found}


def seconds_of(run: Callable[[], Any], settings: Settings) -> float:
    if settings.on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if settings.on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_growth(growth: Growth | FirstCall | ManyCalls, settings: Settings) -> Found:
    return growth.measure(settings)


def _llama(layers: int, length: int) -> Build:
    return llama(layers, 256, 4, 8000, batch=1, length=length)


def _tiny_llama(layers: int, length: int) -> Build:
    return llama(layers, 16, 2, 20, batch=1, length=length)


RESNET18 = torchvision_model("resnet18")

GROWTH: tuple[Growth | FirstCall | ManyCalls, ...] = (
    Growth(
        "batch size",
        "ResNet18, 112 pixels, EpsilonPlusFlat",
        lambda n: picture(RESNET18, n, 112),
        (1, 2, 4, 8, 16),
        lambda n: picture(tiny_resnet, n, 32),
        ("plain gradient", "relprop EpsilonPlusFlat"),
    ),
    Growth(
        "sequence length",
        "Llama-like, 4 layers, width 256, AttnLRP",
        lambda n: _llama(4, n),
        (64, 128, 256, 512),
        lambda n: _tiny_llama(1, n // 8),
    ),
    Growth(
        "depth",
        "Llama-like, width 256, 128 tokens, AttnLRP",
        lambda n: _llama(n, 128),
        (2, 4, 8, 16),
        lambda n: _tiny_llama(n, 8),
    ),
    Growth(
        "number of targets",
        "ResNet18, 112 pixels, EpsilonPlusFlat; gradients of one forward pass",
        lambda n: picture(RESNET18, 1, 112, targets=n),
        (1, 2, 5, 10, 20),
        lambda n: picture(tiny_resnet, 1, 32, targets=n),
        ("plain gradients, one forward", "relprop EpsilonPlusFlat, each target"),
    ),
    FirstCall(),
    ManyCalls(),
)

NETWORKS: dict[str, tuple[Build, Callable[[], Composite]]] = {
    "VGG16": (picture(VGG16, 2, 224), EpsilonPlusFlat),
    "ResNet50": (picture(RESNET50, 2, 224), EpsilonPlusFlat),
    "DenseNet121": (picture(DENSENET121, 2, 224), EpsilonPlusFlat),
    "ViT-B/16": (picture(VIT, 2, 224, gain=1.0), AttnLRP),
    "Llama-like, 8 layers, 256 tokens": (llama(8, 768, 12, 32000, batch=1, length=256), AttnLRP),
}

TINY_NETWORKS: dict[str, tuple[Build, Callable[[], Composite]]] = {
    "ResNet": (picture(tiny_resnet, 2, 32), EpsilonPlusFlat),
    "Llama-like": (_tiny_llama(1, 8), AttnLRP),
}
