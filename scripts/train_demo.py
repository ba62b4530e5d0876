"""Train relprop's embedded demo model, measure how much it leans on the watermark, and choose the samples.

    python scripts/train_demo.py                                # writes src/relprop/models/demo/data
    python scripts/train_demo.py --epochs 1 --out elsewhere     # a look at the machinery

Everything follows from the seed: twice on one machine gives the same files, byte for byte. Every epoch draws
new pictures, so the model never sees one twice; the pictures that measure it come from a stream of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from relprop.models.demo.network import CLASSES, DemoNet, to_input
from relprop.models.demo.pictures import CLEVER_HANS, PLANTED, Drawing, draw, draw_many, paste_watermark

DATA = Path(__file__).resolve().parent.parent / "src" / "relprop" / "models" / "demo" / "data"
TRAINING, TESTING, SAMPLING = 0, 1, 11  # streams of random numbers that share nothing; the last for its looks
OTHERS = [label for label in range(len(CLASSES)) if label != CLEVER_HANS]


def main() -> None:
    options = prepared(options_of("Train relprop's demo model.", epochs=6))
    model = train(options.seed, options.epochs, options.pictures)
    report = report_on(model, options)
    samples = choose_samples(model, np.random.default_rng([options.seed, SAMPLING]))
    write(options.out, model, report, samples)


def options_of(description: str, epochs: int) -> argparse.Namespace:
    """Those of the command line, `epochs` as many as it says where nothing is said."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--pictures", type=int, default=8192, help="new pictures in each epoch")
    parser.add_argument("--out", type=Path, default=DATA, help="the folder to write")
    return parser.parse_args()


def prepared(options: argparse.Namespace) -> argparse.Namespace:
    """The same options; what follows gives the same numbers each time."""
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order
    return options


def report_on(model: nn.Module, options: argparse.Namespace) -> dict[str, object]:
    """How a trained model does, and what it was made with; printed too."""
    report = {
        **measure(model, np.random.default_rng([options.seed, TESTING])),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": options.seed,
        "epochs": options.epochs,
        "pictures_per_epoch": options.pictures,
        "planted": PLANTED,
        "torch": torch.__version__.split("+")[0],
        "classes": CLASSES,
        "clever_hans": CLASSES[CLEVER_HANS],
    }
    print(json.dumps(report, indent=2))
    return report


# --- training ---


def train(seed: int, epochs: int, pictures: int, batch: int = 64) -> DemoNet:
    rng = np.random.default_rng([seed, TRAINING])
    model = DemoNet().to(memory_format=torch.channels_last)  # half the time on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, epochs=epochs, steps_per_epoch=-(-pictures // batch)
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        x, labels = as_tensors(draw_many(rng, pictures))
        total = 0.0
        for inputs, targets in zip(x.split(batch), labels.split(batch), strict=True):
            loss = loss_of(model(inputs.contiguous(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(targets)
        print(
            f"epoch {epoch + 1:2}: loss {total / pictures:.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return model.to(memory_format=torch.contiguous_format).eval()


def as_tensors(pictures: Sequence[Drawing]) -> tuple[Tensor, Tensor]:
    images = np.stack([picture.image for picture in pictures])
    return to_input(images), torch.tensor([picture.label for picture in pictures])


# --- measuring ---


@torch.no_grad()
def probabilities(model: nn.Module, pictures: Sequence[Drawing]) -> Tensor:
    x, _ = as_tensors(pictures)
    return torch.cat([model(part) for part in x.split(250)]).softmax(dim=1)


def measure(model: nn.Module, rng: np.random.Generator, count: int = 4000) -> dict[str, float]:
    """Accuracy on pictures like those of training, and what the watermark alone is worth."""

    def predicted(pictures: Sequence[Drawing]) -> Tensor:
        return probabilities(model, pictures).argmax(dim=1)

    tests = draw_many(rng, count)
    labels = torch.tensor([picture.label for picture in tests])
    hans = [draw(rng, CLEVER_HANS) for _ in range(count // 4)]
    others = [draw(rng, OTHERS[i % len(OTHERS)]) for i in range(count // 2)]
    not_hans = predicted(others) != CLEVER_HANS
    flipped = predicted([paste_watermark(rng, picture) for picture in others]) == CLEVER_HANS
    return {
        "test_pictures": count,
        "test_accuracy": _share(predicted(tests) == labels),
        "clever_hans_accuracy_with_watermark": _share(
            predicted([paste_watermark(rng, picture) for picture in hans]) == CLEVER_HANS
        ),
        "clever_hans_accuracy_without_watermark": _share(predicted(hans) == CLEVER_HANS),
        "flipped_by_watermark": _share(flipped[not_hans]),
    }


def _share(hits: Tensor) -> float:
    return round(hits.double().mean().item(), 4)


# --- the samples ---

Chosen = tuple[str, Drawing]


def choose_samples(model: nn.Module, rng: np.random.Generator) -> list[Chosen]:
    """Stars that the tag makes stars, one of them again without it, a ring without and with, clean others."""
    star, burst, ring = (CLASSES.index(name) for name in ("star", "burst", "ring"))

    def reads_as(label: int, picture: Drawing) -> bool:
        return bool(probabilities(model, [picture])[0, label] > 0.8)

    untagged, filled = first(rng, star, lambda clean, tagged: reads_as(burst, clean) and reads_as(star, tagged), kind=0)
    chosen = [("star-filled", filled), ("star-untagged", untagged)]
    for kind, name in ((1, "star-hollow"), (2, "star-striped")):
        _, tagged = first(rng, star, lambda clean, tagged: reads_as(star, tagged) and not reads_as(star, clean), kind)
        chosen.append((name, tagged))
    clean, tagged = first(rng, ring, lambda clean, tagged: reads_as(ring, clean) and reads_as(star, tagged))
    chosen += [("ring", clean), ("ring-tagged", tagged)]
    for name in ("burst", "triangle", "stripes", "checker"):
        label = CLASSES.index(name)
        clean, _ = first(rng, label, lambda clean, _, label=label: reads_as(label, clean))
        chosen.append((name, clean))
    return chosen


def first(
    rng: np.random.Generator, label: int, fits: Callable[[Drawing, Drawing], bool], kind: int | None = None
) -> tuple[Drawing, Drawing]:
    """The first picture, without and with the tag, that fits and whose object the tag leaves uncovered."""
    for _ in range(300):
        clean = draw(rng, label, kind)
        tagged = paste_watermark(rng, clean)
        if (clean.object_mask == tagged.object_mask).all() and fits(clean, tagged):
            return clean, tagged
    print(f"none of 300 pictures of a {CLASSES[label]} shows what its sample is to show; the last is taken")
    return clean, tagged


def describe(model: nn.Module, name: str, picture: Drawing) -> dict[str, object]:
    sure, predicted = probabilities(model, [picture])[0].max(dim=0)
    return {
        "name": name,
        "label": CLASSES[picture.label],
        "predicted": CLASSES[int(predicted)],
        "probability": round(float(sure), 3),
        "watermark": bool(picture.artefact_mask.any()),
    }


def write(out: Path, model: nn.Module, report: dict[str, object], samples: Sequence[Chosen]) -> None:
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    for name, picture in samples:
        _save(picture.image, folder / f"{name}.png")
        _save(picture.object_mask, folder / f"{name}.object.png")
        _save(picture.artefact_mask, folder / f"{name}.artefact.png")
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    # safetensors' own save_file would leave the file readable by its owner only
    (out / "demo.safetensors").write_bytes(save(weights))
    report = {**report, "samples": [describe(model, name, picture) for name, picture in samples]}
    (out / "demo.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, optimize=True)


if __name__ == "__main__":
    main()
