"""Where models come from: one registered `Source` for each."""

from relprop.errors import ModelError
from relprop.models.source import Source
from relprop.models.sources.demo import DEMO, DEMO_VIT
from relprop.models.sources.from_hf import HF
from relprop.models.sources.from_python import PYTHON
from relprop.models.sources.from_timm import TIMM
from relprop.models.sources.from_torchvision import TORCHVISION
from relprop.models.spec import Spec

_SOURCES: dict[str, Source] = {}


def register_source(source: Source) -> None:
    """Let `load_model` and the command line know a source, until the process ends; a later one of that name counts."""
    _SOURCES[source.name] = source


for _source in (DEMO, TORCHVISION, TIMM, HF, PYTHON, DEMO_VIT):
    register_source(_source)


def source_of(spec: Spec) -> Source:
    """The source that a specification names."""
    return _SOURCES[spec.source]


def sources() -> list[Source]:
    """All of them."""
    return list(_SOURCES.values())


def forms() -> list[str]:
    """How specifications look, one for each source."""
    return [source.form for source in _SOURCES.values()]


def parse(text: str) -> Spec:
    """Read a specification.

    Raises:
        ModelError: the text has none of the known forms; the message lists them.
    """
    for source in _SOURCES.values():
        spec = source.read(text.strip())
        if spec is not None:
            return spec
    raise ModelError(f"{text.strip()!r} is no model specification; it is one of: {', '.join(forms())}")
