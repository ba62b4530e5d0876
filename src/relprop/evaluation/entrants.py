"""Who takes part in a contest: composites, analyzers, Captum's methods, by name or as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from relprop.analyzers import (
    LRP,
    Analyzer,
    GradCAM,
    Gradient,
    InputTimesGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)
from relprop.composites import Composite
from relprop.composites.names import TABLE, Given, Kind, composite_names
from relprop.errors import InputError
from relprop.evaluation import by_captum
from relprop.evaluation.groups import Groups
from relprop.evaluation.metrics import Method
from relprop.rules import Rule

Entrant = str | Composite | Rule | Method
"""A name, a composite or one rule for every layer, or a method of `evaluate`."""

ANALYZERS: Mapping[str, Callable[..., Analyzer]] = {
    "gradient": Gradient,
    "input-times-gradient": InputTimesGradient,
    "smoothgrad": SmoothGrad,
    "integrated-gradients": IntegratedGradients,
    "gradcam": GradCAM,
    "occlusion": Occlusion,
}
"""By their names in a contest."""

CAPTUM = "captum:"
FAMILIES = ("composites", "analyzers", "captum")
"""Names that stand for several."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What methods are made of, and for.

    Attributes:
        model: what is explained.
        x: the input that is occluded.
        groups: of its places.
        low: its smallest possible value, and high its largest, for the z^B-rule. None: those of this batch.
        key: name or number of that input.
        batch: inputs that the model is given at once.
        seed: of what is random.
        options: of analyzers, such as `output=`.
    """

    model: nn.Module
    x: Tensor
    groups: Groups
    low: float | Tensor | None = None
    high: float | Tensor | None = None
    key: str | int | None = None
    batch: int = 64
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What composites by name are for."""
        return "pictures" if self.x.is_floating_point() and self.x.dim() != 3 else "text"

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each channel, (C, 1, 1); of other inputs one for all."""
        over = (0, *range(2, self.x.dim())) if self.x.dim() > 2 else tuple(range(self.x.dim()))
        found = []
        for given, measured in ((self.low, self.x.amin), (self.high, self.x.amax)):
            bound = measured(over, keepdim=True)[0] if given is None else given
            found.append(bound if isinstance(bound, Tensor) else self.x.new_tensor(bound))
        return found[0], found[1]


Make = Callable[[], Method]
"""Makes a method; what cannot be made raises its reason."""


def entrants(given: Iterable[Entrant] | Mapping[str, Entrant] | None, ground: Ground) -> dict[str, Make]:
    """Name -> what makes the method.

    Args:
        given: names, composites, rules and analyzers; or a mapping with names of one's own. None: all composites for
            such inputs, all analyzers, and Captum's methods where it is installed, but for the slow ones.
        ground: the model, and what methods need to know.

    Raises:
        InputError: an unknown name, two methods of one name, or none at all.
    """
    if given is None:
        given = [*FAMILIES] if find_spec("captum") else [*FAMILIES[:2]]
    if isinstance(given, str):
        given = [given]
    named = given.items() if isinstance(given, Mapping) else [(None, each) for each in given]
    found: dict[str, Make] = {}
    for name, each in named:
        for own, make in _made(name, each, ground, len(found)):
            if own in found:
                raise InputError(f"two methods are named {own!r}: give a mapping with a name for each.")
            found[own] = make
    if not found:
        raise InputError("nobody takes part: give at least one method.")
    return found


def names_of(ground: Ground) -> list[str]:
    """All names that `entrants` knows for such inputs."""
    return [*composite_names(ground.kind), *ANALYZERS, *(CAPTUM + name for name in by_captum.METHODS)]


def _made(name: str | None, given: Entrant, ground: Ground, count: int) -> list[tuple[str, Make]]:
    if isinstance(given, str):
        several = _family(given, ground)
        if several is not None:
            return [(each, _by_name(each, ground)) for each in several]
        return [(name or given, _by_name(given, ground))]
    if isinstance(given, (Composite, Rule)):
        own = (given.name if isinstance(given, Composite) else repr(given)) or f"composite {count + 1}"
        return [(name or own, partial(LRP, ground.model, given, **ground.options))]
    kind = type(given).__name__ if isinstance(given, Analyzer) else getattr(given, "__name__", f"method {count + 1}")
    return [(name or kind, partial(_as_it_is, given))]


def _as_it_is(method: Method) -> Method:
    return method


def _family(name: str, ground: Ground) -> Sequence[str] | None:
    if name == "composites":
        return composite_names(ground.kind)
    if name == "analyzers":
        return list(ANALYZERS)
    if name == "captum":
        return [CAPTUM + each for each in by_captum.METHODS if each not in by_captum.SLOW]
    return None


def _by_name(name: str, ground: Ground) -> Make:
    if name in composite_names(ground.kind):
        return partial(_composite, name, ground)
    if name in ANALYZERS:
        return partial(_analyzer, name, ground)
    method = name.removeprefix(CAPTUM)
    if name.startswith(CAPTUM) and method in by_captum.METHODS:
        output = ground.options.get("output")
        return partial(by_captum.ByCaptum, method, ground.groups, ground.key, output, ground.batch, ground.seed)
    raise InputError(f"nobody is named {name!r}; choose among {', '.join([*FAMILIES, *names_of(ground)])}.")


def _composite(name: str, ground: Ground) -> Method:
    given = Given(ground.model, *ground.bounds()) if ground.x.is_floating_point() else Given(ground.model)
    return LRP(ground.model, next(row for row in TABLE if row.name == name).make(given), **ground.options)


def _analyzer(name: str, ground: Ground) -> Method:
    options = dict(ground.options)
    size = getattr(ground.groups, "size", None)  # of patches, or of what a user's own groups are made of
    if name == "occlusion" and isinstance(size, int):
        options["patch"] = size
    return ANALYZERS[name](ground.model, **options)
