"""The job of `relprop layers`."""

from __future__ import annotations

from relprop.analyzers.lrp import LRP
from relprop.composites.names import check_composite
from relprop.jobs.composites import make_analyzer
from relprop.models import load_model

SIZE = 224  # of the picture, where neither the model nor the command line says how large pictures are


def layer_table(model: str, composite: str, size: int | None) -> str:
    """Which rule each layer gets, as text; the model sees a grey picture for that.

    Raises:
        RelpropError: the model or the composite does not exist, or they do not fit.
    """
    return str(_analyzer(model, composite, size))


def layer_records(model: str, composite: str, size: int | None) -> list[dict[str, str | None]]:
    """The same as records: the layer's name and label, its rule, and the layer that it was fused into.

    Raises:
        RelpropError: as above.
    """
    lrp = _analyzer(model, composite, size)
    return [
        {"layer": layer.name, "is": layer.label, "rule": None if fused else repr(rule), "fused_into": fused}
        for layer, rule in zip(lrp.layers, lrp.rules, strict=True)
        for fused in [layer.fused_into]
    ]


def _analyzer(model: str, composite: str, size: int | None) -> LRP:
    check_composite(composite, "pictures")
    loaded = load_model(model, size=size)
    from PIL import Image

    x = loaded.preprocess(Image.new("RGB", (SIZE, SIZE), "grey"))
    return make_analyzer(loaded, composite, x)[0]
