"""What tests of jobs over datasets need: a tiny model in a file, pictures in a folder, and the bytes of results."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, PASS, SHARD = 30, 4, 8
"""Of a job: samples, those of a pass, and those of a file."""

BROKEN = 13
"""The number of the picture that cannot be read."""

MODEL = """
import torch
from torch import nn
from relprop.models import Preprocess

CLASSES = ["left", "middle", "right"]
PREPROCESS = Preprocess(resize=8, crop=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)

def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)
    )

def other():
    return small(1)
"""


def write_model(folder: Path) -> str:
    """The specification of a tiny model, whose file is written into a folder."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "net.py").write_text(MODEL)
    return f"{folder / 'net.py'}:small"


def write_pictures(folder: Path, count: int, classes: tuple[str, ...] = ("left", "right")) -> Path:
    """Random pictures in folders by class, named by number."""
    rng = np.random.default_rng(count)
    for i in range(count):
        place = folder / classes[i % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)).save(place / f"{i:03d}.png")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of results, by their paths in the folder; locks are not among them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def forked(work: Callable[[], None]) -> int:
    """A child process that does some work, and ends with 1 if it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child
