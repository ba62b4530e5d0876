"""The small classifier that ships with relprop."""

from __future__ import annotations

from relprop.models.loaded import LoadedModel
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source
from relprop.models.spec import Spec


def load_demo(spec: Spec) -> LoadedModel:
    """`demo`, `demo-vit`: classifiers that learned to read a watermark; they see small square pictures."""
    from relprop.models import demo
    from relprop.models.demo.network import SIZE

    preprocess = Preprocess(
        resize=SIZE, crop=(SIZE, SIZE), mean=tuple(demo.MEAN), std=tuple(demo.STD), interpolation="bicubic"
    )
    load = demo.load_model if spec.name == "demo" else demo.load_vit
    return LoadedModel(load(), str(spec), list(demo.CLASSES), preprocess)


def _source(name: str, about: str) -> Source:
    def read(text: str) -> Spec | None:
        return Spec(name, name, bare=True) if text == name else None

    return Source(name, name, read, load_demo, about, lambda: [name])


DEMO = _source("demo", "the classifier that ships with relprop")
DEMO_VIT = _source("demo-vit", "a vision transformer for the same pictures, which ships too")
