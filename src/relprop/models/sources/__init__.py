"""Where models come from: one function per source, each from a `Spec` to a `LoadedModel`."""

from collections.abc import Callable

from relprop.models.loaded import LoadedModel
from relprop.models.sources.demo import load_demo
from relprop.models.sources.from_hf import load_hf
from relprop.models.sources.from_python import load_python
from relprop.models.sources.from_timm import load_timm
from relprop.models.sources.from_torchvision import load_torchvision
from relprop.models.spec import Spec

SOURCES: dict[str, Callable[[Spec], LoadedModel]] = {
    "demo": load_demo,
    "torchvision": load_torchvision,
    "timm": load_timm,
    "hf": load_hf,
    "python": load_python,
}
