"""20,000 pictures in bounded memory: a curve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.jobs import write_model, write_pictures

import relprop.jobs

pytest.importorskip("pyarrow")


def resident() -> float:
    """Megabytes of memory of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux shows it")
def test_20000_pictures_in_bounded_memory(tmp_path):
    originals = sorted(write_pictures(tmp_path / "originals", 50).rglob("*.png"))
    for i in range(20_000):
        place = tmp_path / "pictures" / f"{i // 1000:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:05d}.png").hardlink_to(originals[i % 50])
    curve = {}

    def watch(progress):
        if progress.done % 2048 == 0:
            curve[progress.done] = resident()

    options = {"model": write_model(tmp_path), "source": tmp_path / "pictures", "out": tmp_path / "out"}
    finished = relprop.jobs.run(**options, progress=watch)
    assert (finished.done, finished.failed) == (20_000, [])
    print({done: round(megabytes) for done, megabytes in curve.items()})
    assert max(curve.values()) - curve[4096] < 30
    before = resident()
    found = relprop.jobs.open(tmp_path / "out")
    assert found.means("heatmap")[None].shape == (8, 8)
    assert sum(1 for _ in found) == 20_000
    assert resident() - before < 30
