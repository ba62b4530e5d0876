"""What a job over a dataset costs beside its analyzer, and what ImageNet would take: `python benchmarks/jobs.py`.

The job is held against the same analyzer in a bare loop over batches that are already in memory, in turns. The rest is
computed from what was measured: `--write docs/datasets.md` puts all of it into the page.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import processor
from PIL import Image

import relprop.jobs
from relprop import LRP
from relprop.jobs.datasets.explainers import explainer_of
from relprop.jobs.datasets.explaining import read
from relprop.jobs.datasets.job import make_job
from relprop.jobs.datasets.sources import open_source

IMAGENET = 1_281_167
PICTURE_KB = 110
"""A picture of ImageNet, on average."""
PASSES = (16, 4)
"""Samples of one pass, of the demo and of ResNet-50: so many passes that what first calls look at is a small part."""
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
    """Of one model.

    Attributes:
        bare, job, reading: seconds of one core for a sample: in the bare loop, in the job, and to decode and resize it.
        wall: throughput of the job over that of the loop by the clock on the wall, on the machine as it is: the median
            of rounds, in each of which the two follow each other.
        ratio: the same of the processor's time, without reading, `bare / (job − reading)`.
        stored: bytes of results for a sample.
    """

    bare: float
    job: float
    reading: float
    wall: float
    ratio: float
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


def measured(model: str, source: Path, size: int, rounds: int) -> Measured:
    """The bare loop and the job in turns, the median of each."""
    out = source.parent / "out"
    job = make_job(model=model, source=source, out=out, pass_size=size)
    opened = open_source(source)
    index = opened.index()
    explainer = explainer_of(job, opened, index)
    found = [read(opened, explainer, i)[1] for i in range(len(index))]
    batches = [torch.stack(found[i : i + size]) for i in range(0, len(found), size)]  # type: ignore[arg-type]

    def reading() -> None:
        for i in range(len(index)):
            read(opened, explainer, i)

    def bare(lrp: LRP) -> None:
        for x in batches[1:]:
            lrp(x, layers=explainer.layers)

    rows = []
    for _ in range(rounds):
        fresh = explainer_of(
            job, opened, index
        ).lrp  # as old as that of the job: first calls look closer than later ones
        fresh(batches[0], layers=explainer.layers)
        wall, loop = (each / (len(index) - size) for each in seconds(partial(bare, fresh)))
        looked = seconds(reading)[1] / len(index)
        wall_of_job, core_of_job = whole(job)
        rows.append((loop, core_of_job, looked, wall / wall_of_job, loop / (core_of_job - looked)))
    stored = sum(path.stat().st_size for path in out.glob("part-*")) / len(index)
    return Measured(*(median(column) for column in zip(*rows, strict=True)), stored)


def whole(job: relprop.jobs.Job) -> tuple[float, float]:
    """What a sample takes in a job that begins anew, behind its first pass: by the wall, of the processor."""
    shutil.rmtree(job.folder, ignore_errors=True)
    seen: list[tuple[float, float]] = []
    finished = relprop.jobs.run(job, progress=lambda _: seen.append((time.perf_counter(), time.process_time())))
    wall, core = time.perf_counter() - seen[0][0], time.process_time() - seen[0][1]
    return wall / (finished.done - job.pass_size), core / (finished.done - job.pass_size)


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """What some work takes by the clock on the wall, and of the processor."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - core


def hours(gpus: int, rate: float) -> str:
    """How long ImageNet takes, where nothing but the GPUs is slow."""
    return f"{IMAGENET / (gpus * rate) / 3600:.2g} h"


def page(demo: Measured, resnet: Measured) -> Iterator[str]:
    """What the docs say."""
    yield f"`python benchmarks/jobs.py --write docs/datasets.md` measured this on a {processor()}."
    yield ""
    yield "| | of one core: bare loop | job | reading | throughput by the clock | of the processor's time | results |"
    yield "|---|---|---|---|---|---|---|"
    for name, m in (("demo, 64 by 64", demo), ("ResNet-50, 224 by 224", resnet)):
        cells = [f"{1000 * value:.3g} ms" for value in (m.bare, m.job, m.reading)]
        yield f"| {name} | {' | '.join(cells)} | {m.wall:.2f} | {m.ratio:.2f} | {m.stored / 1000:.0f} kB |"
    yield ""
    yield (
        "Times and sizes are those of one sample. The bare loop is the same analyzer on batches that are in memory, "
        "both behind their first call. The job also reads, decodes, resizes, checks and writes. Throughput is "
        f"the job's over the loop's: by the clock, on {os.cpu_count()} cores of which the loop needs one, and threads "
        "of the job read and write with another; and of the processor's time without reading, where no core is left."
    )
    yield ""
    days = IMAGENET * resnet.job / 86400
    yield (
        f"**ImageNet**, {IMAGENET / 1e6:.2f} million pictures: results take {IMAGENET * resnet.stored / 1e9:.0f} GB, "
        f"and one core {days:.0f} days with ResNet-50. No GPU was at hand to measure; where one explains R samples a "
        "second, which `relprop run` shows, the job takes"
    )
    yield ""
    gpus = " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS)
    yield f"| R | {gpus} | cores that read, for each GPU | disk, for 64 GPUs |"
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as place:
        small = pictures(Path(place) / "demo" / "pictures", asked.samples[0], (64, 64), "png")
        large = pictures(Path(place) / "resnet" / "pictures", asked.samples[1], (375, 500), "jpg")
        net = Path(place) / "net.py"
        net.write_text(NETWORK)
        rows = (
            measured("demo", small, PASSES[0], asked.rounds),
            measured(f"{net}:resnet50", large, PASSES[1], asked.rounds),
        )
    text = "\n".join(page(*rows)) + "\n"
    if asked.write is None:
        print(text, end="")
        return
    said = asked.write.read_text("utf-8")
    part = re.compile(r"(<!-- made: throughput -->\n).*?(<!-- end -->)", re.DOTALL)
    asked.write.write_text(part.sub(lambda m: m[1] + text + m[2], said), "utf-8")


if __name__ == "__main__":
    main()
