"""The demo's transformer is what `measured("demo_vit")` says it is, and reads the watermark as the network does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relprop import LRP
from relprop.composites import ResLRP
from relprop.models import demo, load_model
from relprop.models.demo.pictures import SIZE, draw, draw_many, paste_watermark

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model():
    return demo.load_vit()


def predict(model, pictures):
    with torch.no_grad():
        return model(demo.to_input(np.stack([picture.image for picture in pictures]))).argmax(1).numpy()


def test_the_file_is_small_and_the_model_as_described(model):
    weights = Path(demo.__file__).parent / "data" / "demo_vit.safetensors"
    assert weights.stat().st_size < 1_000_000
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == demo.measured("demo_vit")["parameters"]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_accuracy_and_the_watermark_are_as_stated(model):
    """300 pictures of an accuracy of 98 % have a standard error of 0.8 %, 120 of a share of 95 % one of 2 %."""
    rng, stated = np.random.default_rng(20_241), demo.measured("demo_vit")
    tests = draw_many(rng, 300)
    right = (predict(model, tests) == np.array([p.label for p in tests])).mean()
    assert stated["test_accuracy"] > 0.95
    assert right == pytest.approx(stated["test_accuracy"], abs=0.03)
    stars = [draw(rng, demo.CLEVER_HANS) for _ in range(120)]
    without = (predict(model, stars) == demo.CLEVER_HANS).mean()
    tagged = (predict(model, [paste_watermark(rng, star) for star in stars]) == demo.CLEVER_HANS).mean()
    assert without == pytest.approx(stated["clever_hans_accuracy_without_watermark"], abs=0.1)
    assert tagged == pytest.approx(stated["clever_hans_accuracy_with_watermark"], abs=0.05)


def test_it_is_a_model_on_the_command_line_and_its_watermark_is_found(model):
    loaded = load_model("demo-vit")
    assert loaded.classes == list(demo.CLASSES)
    stars = [s for s in demo.load_samples() if s.artefact_mask.any()]
    x = torch.cat([demo.to_input(s.image[None]) for s in stars])
    torch.testing.assert_close(loaded.model(x), model(x))
    positive = LRP(model, ResLRP())(x, target=demo.CLEVER_HANS).relevance.sum(1).clamp(min=0)
    masks = torch.from_numpy(np.stack([s.artefact_mask for s in stars]))
    shares = (positive * masks).sum((1, 2)) / positive.sum((1, 2))
    assert (shares > 3 * masks.double().mean()).all()


def test_training_twice_gives_the_same_weights(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("train_demo_vit", ROOT / "scripts" / "train_demo_vit.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_demo_vit", script)
    spec.loader.exec_module(script)
    states = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            states.append(script.kept(script.train(seed=1, epochs=1, pictures=64)).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert all(torch.equal(value, value.half().float()) for value in states[0].values())
    assert demo.DemoViT()(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 8)
