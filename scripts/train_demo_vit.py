"""Train relprop's embedded vision transformer on the demo's pictures, and measure how much it leans on the watermark.

    python scripts/train_demo_vit.py                                # writes src/relprop/models/demo/data
    python scripts/train_demo_vit.py --epochs 1 --out elsewhere     # a look at the machinery

Everything follows from the seed: twice on one machine gives the same files, byte for byte. Weights are kept in half
precision, and what is measured is what was kept.
"""

from __future__ import annotations

import json
import math
import time

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from train_demo import TRAINING, as_tensors, options_of, prepared, report_on

from relprop.models.demo.pictures import draw_many
from relprop.models.demo.vit import DemoViT


def main() -> None:
    options = prepared(options_of("Train relprop's demo vision transformer.", epochs=14))
    model = kept(train(options.seed, options.epochs, options.pictures))
    report = report_on(model, options)
    options.out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    (options.out / "demo_vit.safetensors").write_bytes(save(weights))
    (options.out / "demo_vit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def train(seed: int, epochs: int, pictures: int, batch: int = 64) -> DemoViT:
    rng = np.random.default_rng([seed, TRAINING])
    model = DemoViT()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    steps = epochs * -(-pictures // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.15)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    start = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        x, labels = as_tensors(draw_many(rng, pictures))
        total = 0.0
        for inputs, targets in zip(x.split(batch), labels.split(batch), strict=True):
            loss = loss_of(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(targets)
        print(f"epoch {epoch + 1:2}: loss {total / pictures:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        if not math.isfinite(total):
            raise ArithmeticError("the loss is not finite")
    return model.eval()


def kept(model: DemoViT) -> DemoViT:
    """The model with weights rounded to half precision."""
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    return model


if __name__ == "__main__":
    main()
