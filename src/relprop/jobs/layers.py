"""The job of `relprop layers`."""

from __future__ import annotations

from relprop.composites.names import check_composite
from relprop.jobs.composites import make_analyzer
from relprop.models import load_model

SIZE = 224  # of the picture, where neither the model nor the command line says how large pictures are


def layer_table(model: str, composite: str, size: int | None) -> str:
    """Which rule each layer gets, as text; the model sees a grey picture for that.

    Raises:
        RelpropError: the model or the composite does not exist, or they do not fit.
    """
    check_composite(composite, "pictures")
    loaded = load_model(model, size=size)
    from PIL import Image

    x = loaded.preprocess(Image.new("RGB", (SIZE, SIZE), "grey"))
    return str(make_analyzer(loaded, composite, x)[0])
