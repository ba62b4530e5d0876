"""One page about two pictures, for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relprop import LRP, Explanation
from relprop.composites import EpsilonGammaFlat
from relprop.models import demo

EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Explanation]:
    pytest.importorskip("matplotlib")
    samples = demo.load_samples()[:2]
    x = torch.cat([demo.to_input(sample.image) for sample in samples])
    names = [*demo.CLASSES[:5], f"burst{EVIL}", *demo.CLASSES[6:]]
    expl = LRP(demo.load_model(), EpsilonGammaFlat(), classes=names)(x)
    path, pictures = tmp_path_factory.mktemp("page") / "page.html", [sample.image for sample in samples]
    targets = ["burst" + EVIL, "ring"]
    expl.report(path, headings=[f"a{EVIL}.png", "b.png"], title=f"T{EVIL}", targets=targets, pictures=pictures)
    return path, expl
