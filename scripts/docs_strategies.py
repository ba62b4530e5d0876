"""Draw the picture of docs/datasets.md, a page on strategies in Chromium: `python scripts/docs_strategies.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import relprop.jobs
from relprop.models.demo import CLASSES, CLEVER_HANS
from relprop.models.demo.pictures import draw, paste_watermark

ROOT = Path(__file__).parents[1]
EACH = 24
WINDOW = (1150, 1640)


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("the picture is a page in a browser: install Chromium")
    with tempfile.TemporaryDirectory() as place:
        page, pictures = Path(place) / "page.html", Path(place) / "pictures"
        rng = np.random.default_rng(1)
        masks = {}
        for label, name in enumerate(CLASSES):
            (pictures / name).mkdir(parents=True)
            for i in range(EACH):
                picture = draw(rng, label)
                if label == CLEVER_HANS and i % 2:
                    picture = paste_watermark(rng, picture)
                    masks[f"{name}/{i:02d}.png"] = picture.artefact_mask
                Image.fromarray(picture.image).save(pictures / name / f"{i:02d}.png")
        relprop.jobs.run(model="demo", source=pictures, out=Path(place) / "found", target="label")
        found = relprop.jobs.strategies.find(Path(place) / "found")
        title = "Strategies of the demo model"
        relprop.jobs.strategies.save_page(page, found, pictures=pictures, masks=masks, title=title)
        shot = Path(place) / "page.png"
        size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("P", palette=Image.Palette.ADAPTIVE).save(
            ROOT / "docs" / "images" / "strategies.png", optimize=True
        )


if __name__ == "__main__":
    main()
