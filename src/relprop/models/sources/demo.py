"""The small classifier that ships with relprop."""

from __future__ import annotations

from relprop.models.loaded import LoadedModel
from relprop.models.preprocess import Preprocess
from relprop.models.source import Source
from relprop.models.spec import Spec


def load_demo(spec: Spec) -> LoadedModel:
    """`demo`: the classifier that learned to read a watermark; it sees small square pictures."""
    from relprop.models import demo
    from relprop.models.demo.network import SIZE

    preprocess = Preprocess(
        resize=SIZE, crop=(SIZE, SIZE), mean=tuple(demo.MEAN), std=tuple(demo.STD), interpolation="bicubic"
    )
    return LoadedModel(demo.load_model(), str(spec), list(demo.CLASSES), preprocess)


def _read(text: str) -> Spec | None:
    return Spec("demo", "demo", bare=True) if text == "demo" else None


DEMO = Source("demo", "demo", _read, load_demo, "the classifier that ships with relprop", lambda: ["demo"])
