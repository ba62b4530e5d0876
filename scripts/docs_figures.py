"""Pictures of docs/figures.md: docs/images/{figures,compare,report}.png, and of docs/signals.md.

The page is seen by Chromium, through playwright; without it, report.png stays as it is.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relprop import LRP, Explanation, figures
from relprop.composites import EpsilonGammaFlat, EpsilonPlus
from relprop.models import demo

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def heartbeats() -> tuple[Tensor, nn.Module]:
    """Two leads with three beats, and a network that looks for steep flanks."""
    t = torch.linspace(0, 3, 240)
    beat = lambda at, width: torch.exp(-(((t % 1) - at) ** 2) / (2 * width**2))  # noqa: E731
    lead = 0.15 * beat(0.25, 0.03) - 0.12 * beat(0.38, 0.01) + beat(0.4, 0.012) - 0.25 * beat(0.43, 0.012)
    signal = torch.stack([lead + 0.3 * beat(0.65, 0.05), 0.6 * lead - 0.2 * beat(0.65, 0.05)])[None]
    flank = nn.Conv1d(2, 2, 5, padding=2, bias=False)
    flank.weight.data = torch.tensor([[-2.0, -1, 0, 1, 2], [2, 1, 0, -1, -2]])[:, None].repeat(1, 2, 1) / 10
    head = nn.Linear(2, 1, bias=False)
    head.weight.data = torch.tensor([[1.0, -0.6]])
    return signal, nn.Sequential(flank, nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), head)


def row() -> Explanation:
    """A step of a model of the risk that is made up."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    return LRP(net, EpsilonPlus())(torch.tensor([[0.61, 1.75, 0.8, 1.3, 0.2, 1.0]]))


def tokens() -> Explanation:
    torch.manual_seed(1)
    return LRP(nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(72, 2)))(torch.arange(9)[None])


def as_image(figure: object) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, dpi=90)  # type: ignore[attr-defined]
    return Image.open(data).convert("RGB")


def signals() -> None:
    """The figures that the code of docs/signals.md makes."""
    sys.path.insert(0, str(IMAGES.parent.parent / "tests"))
    from support.pages import run_page

    made = run_page((IMAGES.parent / "signals.md").read_text("utf-8"), "signals.md")
    made["figure"].savefig(IMAGES / "signals.png", dpi=90)  # type: ignore[attr-defined]
    made["bars"].savefig(IMAGES / "tables.png", dpi=90)  # type: ignore[attr-defined]


def report() -> None:
    """The first section of a page, as a browser shows it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("report.png stays as it is: there is no playwright, or no Chromium")
        return
    sample = demo.load_samples()[0]
    lrp = LRP(demo.load_model(), EpsilonGammaFlat(), classes=demo.CLASSES)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "page.html"
        expl = lrp(demo.to_input(sample.image))
        expl.report(path, headings=[sample.name], pictures=[sample.image], targets=["burst", "ring"])
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 1400}, color_scheme="light")
        page.goto(path.as_uri())
        page.locator("#sample-0 input.step").fill("4")
        page.locator("#sample-0").screenshot(path=IMAGES / "report.png")
        browser.close()


def main() -> None:
    """Draw both."""
    lrp = LRP(demo.load_model(), EpsilonGammaFlat(), classes=demo.CLASSES)
    x = torch.cat([demo.to_input(sample.image) for sample in demo.load_samples()[:3:2]])
    figures.compare(lrp.each(x, targets=["star", "ring", "burst"]), ["a star?", "a ring?", "a burst?"]).savefig(
        IMAGES / "compare.png", dpi=90
    )
    signal, net = heartbeats()
    words = ["[CLS]", "a", "fine", ",", "if", "long", ",", "film", "[SEP]"]
    parts = [
        lrp(x[:1]).plot(),
        LRP(net, EpsilonPlus())(signal).plot(names=["lead I", "lead II"]),
        row().plot(names=["age", "height", "weight", "pressure", "smokes", "sleep"]),
        tokens().plot(names=words),
    ]
    images = [as_image(part) for part in parts]
    whole = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)), "white")
    for i, top in zip(images, np.cumsum([0, *(image.height for image in images)]), strict=False):
        whole.paste(i, (0, int(top)))
    whole.save(IMAGES / "figures.png")


if __name__ == "__main__":
    main()
    signals()
    report()
