"""What a job over a dataset costs beside its analyzer, and what ImageNet would take: `python benchmarks/jobs.py`.

The job is held against the same analyzer in a bare loop over batches that are already in memory, in turns. The rest is
computed from what was measured: `--write docs/datasets.md` puts all of it into the page.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import processor
from PIL import Image

import relprop.jobs
from relprop.jobs.datasets.explainers import explainer_of
from relprop.jobs.datasets.explaining import read
from relprop.jobs.datasets.job import make_job
from relprop.jobs.datasets.sources import open_source

IMAGENET = 1_281_167
PICTURE_KB = 110
"""A picture of ImageNet, on average."""
PASS = 16
GPUS = (1, 8, 64)
RATES = (100, 400, 1600)
"""Samples a second of one GPU, for which the table is made; what yours explains, `relprop run` says."""

NETWORK = """
import torchvision
from torch import nn
from relprop.models import Preprocess
PREPROCESS = Preprocess(resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
def resnet50():
    return torchvision.models.resnet50(weights=None)
"""


@dataclass(frozen=True)
class Measured:
    """Of one model: samples a second of the bare loop and of the job, and what a sample costs.

    Attributes:
        bare, job: samples a second.
        reading: seconds of one core for a sample, decoded and resized.
        stored: bytes of results for a sample.
    """

    bare: float
    job: float
    reading: float
    stored: float


def pictures(folder: Path, count: int, size: tuple[int, int], suffix: str) -> Path:
    """Smooth random pictures, of which each is a file of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.float64) + rng.normal(
            0, 6, (*size, 3)
        )
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.{suffix}")
    return folder


def measured(model: str, source: Path, rounds: int) -> Measured:
    """The bare loop and the job in turns, the median of each."""
    out = source.parent / "out"
    job = make_job(model=model, source=source, out=out, pass_size=PASS)
    opened = open_source(source)
    index = opened.index()
    explainer = explainer_of(job, opened, index)
    found = [read(opened, explainer, i)[1] for i in range(len(index))]
    batches = [torch.stack(found[i : i + PASS]) for i in range(0, len(found), PASS)]  # type: ignore[arg-type]
    started = time.process_time()
    for i in range(len(index)):
        read(opened, explainer, i)
    reading = (time.process_time() - started) / len(index)

    def bare() -> None:
        for x in batches:
            explainer.lrp(x, layers=explainer.layers)

    bare()
    loops, jobs = [], []
    for _ in range(rounds):
        loops.append(len(index) / seconds(bare))
        shutil.rmtree(out, ignore_errors=True)
        finished = relprop.jobs.run(job)
        jobs.append(finished.explained / finished.seconds)
    stored = sum(path.stat().st_size for path in out.glob("part-*")) / len(index)
    return Measured(median(loops), median(jobs), reading, stored)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def hours(gpus: int, rate: float) -> str:
    """How long ImageNet takes, where nothing but the GPUs is slow."""
    return f"{IMAGENET / (gpus * rate) / 3600:.2g} h"


def page(demo: Measured, resnet: Measured) -> Iterator[str]:
    """What the docs say."""
    yield f"`python benchmarks/jobs.py --write docs/datasets.md` measured this on one core of a {processor()}."
    yield ""
    yield "| | samples a second in a bare loop | in a job | ratio | reading a sample | results of a sample |"
    yield "|---|---|---|---|---|---|"
    for name, m in (("demo, 64 by 64", demo), ("ResNet-50, 224 by 224", resnet)):
        yield (
            f"| {name} | {m.bare:.3g} | {m.job:.3g} | {m.job / m.bare:.2f} | {1000 * m.reading:.2g} ms of a core "
            f"| {m.stored / 1000:.0f} kB |"
        )
    yield ""
    yield (
        "The bare loop has its batches in memory; the job also reads, decodes, resizes, checks and writes, for which "
        "it has a second core. "
    )
    yield ""
    yield (
        f"**ImageNet**, {IMAGENET / 1e6:.2f} million pictures: results take {IMAGENET * resnet.stored / 1e9:.0f} GB, "
        f'(a third of it or less where `keep=["scores"]`). With ResNet-50 one core takes '
        f"{IMAGENET / resnet.job / 86400:.0f} days. No GPU was at hand to measure; of one that explains R samples a "
        "second, which `relprop run` shows, it takes"
    )
    yield ""
    yield (
        "| R | "
        + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS)
        + " | cores that read, each GPU | disk, 64 GPUs |"
    )
    yield "|---|" + "---|" * (len(GPUS) + 2)
    for rate in RATES:
        cells = [hours(n, rate) for n in GPUS]
        cells += [f"{rate * resnet.reading:.1f}", f"{64 * rate * (PICTURE_KB + resnet.stored / 1000) / 1e6:.2g} GB/s"]
        yield f"| {rate} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Shards know nothing of each other, so that it scales until something else is slow: the cores beside each GPU "
        "that decode pictures, which `workers` has to match, or the disk that pictures come from and results go to. "
        "Pictures that were resized beforehand move both bounds."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the page whose part is made")
    parser.add_argument("--samples", type=int, nargs=2, default=(1024, 64), help="of the demo and of ResNet-50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as place:
        small = pictures(Path(place) / "demo" / "pictures", asked.samples[0], (64, 64), "png")
        large = pictures(Path(place) / "resnet" / "pictures", asked.samples[1], (375, 500), "jpg")
        net = Path(place) / "net.py"
        net.write_text(NETWORK)
        rows = measured("demo", small, asked.rounds), measured(f"{net}:resnet50", large, asked.rounds)
    text = "\n".join(page(*rows)) + "\n"
    if asked.write is None:
        print(text, end="")
        return
    said = asked.write.read_text("utf-8")
    part = re.compile(r"(<!-- made: throughput -->\n).*?(<!-- end -->)", re.DOTALL)
    asked.write.write_text(part.sub(lambda m: m[1] + text + m[2], said), "utf-8")


if __name__ == "__main__":
    main()
