"""A composite: ordered statements about which rule goes to which layer."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

from torch import Tensor

from relprop.composites.primitives import Primitive
from relprop.composites.table import Printed, entries
from relprop.engine.layers.layers import Layer
from relprop.errors import CompositeError
from relprop.rules import Rule, ZeroRule
from relprop.rules.base import short

P = ParamSpec("P")

PRESETS = (
    "AttnLRP",
    "CPLRP",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGamma",
    "EpsilonGammaBox",
    "EpsilonGammaFlat",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ResLRP",
)


class Composite(Printed):
    """`Composite(*primitives)` or `Composite(default_rule, *primitives)`.

    Every layer gets the default rule (the 0-rule if none is given); then the primitives are applied in order, and
    later ones overrule earlier ones.

    Examples:
        >>> from torch import nn
        >>> from relprop.composites import Composite, GlobalTypeMap, LastLayerMap
        >>> from relprop.rules import EpsilonRule, ZeroRule, ZPlusRule
        >>> by_type = GlobalTypeMap({nn.Conv2d: ZPlusRule(), nn.Linear: EpsilonRule()})
        >>> composite = Composite(by_type, LastLayerMap(ZeroRule()))
        >>> print(composite)
        Composite(
          GlobalTypeMap(  # all layers
            nn.Conv2d => ZPlusRule(),
            nn.Linear => EpsilonRule(epsilon=1e-06),
          ),
          LastLayerMap(  # last layer
            ZeroRule(),
          ),
        )
    """

    def __init__(self, *parts: Rule | Primitive) -> None:
        default: Rule = ZeroRule()
        if parts and isinstance(parts[0], Rule):
            default, parts = parts[0], parts[1:]
        primitives = []
        for part in parts:
            if not isinstance(part, Primitive):
                hint = " The default rule comes first." if isinstance(part, Rule) else ""
                raise CompositeError(f"Composite: {part!r} is no composite primitive such as GlobalTypeMap.{hint}")
            primitives.append(part)
        self.default_rule = default
        self.primitives: tuple[Primitive, ...] = tuple(primitives)
        self.reason = ""
        self.name = ""

    def because(self, reason: str) -> Composite:
        """The same composite with a reason, which its print shows."""
        explained = Composite(self.default_rule, *self.primitives)
        explained.reason, explained.name = reason, self.name
        return explained

    def assign(self, layers: Sequence[Layer]) -> list[Rule]:
        """The rule of each layer.

        Raises:
            CompositeError: a primitive speaks of a layer that the model does not have.
        """
        rules: dict[str, Rule] = {layer.name: self.default_rule for layer in layers}
        for primitive in self.primitives:
            for layer, rule in primitive.assign(layers):
                rules[layer.name] = rule
        return [rules[layer.name] for layer in layers]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Composite):
            return NotImplemented
        return self.default_rule == other.default_rule and self.primitives == other.primitives

    def __hash__(self) -> int:
        return hash((self.default_rule, self.primitives))

    def _lines(self) -> list[tuple[str, str]]:
        lines = [(f"# {self.reason}", "dim")] if self.reason else []
        lines.append((f"Composite(  # {self.name}" if self.name else "Composite(", "plain"))
        if self.default_rule != ZeroRule():
            lines.append((f"  {self.default_rule!r},  # default", "rule"))
        for primitive in self.primitives:
            arguments, comment, rows = primitive.describe()
            lead = f"{arguments}, " if arguments else ""
            lines.append((f"  {type(primitive).__name__}({lead}  # {comment}".replace(",   #", ",  #"), "plain"))
            lines.extend(entries(rows, indent=4))
            lines.append(("  ),", "plain"))
        lines.append((")", "plain"))
        return lines


def name_of(composite: Composite | Sequence[Rule]) -> str:
    """A preset as it is called, and others as they are printed, in one line."""
    name = composite.name if isinstance(composite, Composite) else ""
    return name or " ".join(repr(composite).split()).replace("( )", "()")


def as_composite(given: Composite | Rule | Sequence[Rule] | None) -> Composite | tuple[Rule, ...]:
    """What `LRP` takes for a composite: None is the 0-rule everywhere, one rule serves every layer, several are kept.

    Raises:
        CompositeError: it is something else.
    """
    if given is None:
        return Composite()
    if isinstance(given, Composite):
        return given
    if isinstance(given, Rule):
        return Composite(given)
    rules = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    if rules is None or not all(isinstance(r, Rule) for r in rules):
        raise CompositeError(f"LRP takes a Composite, a rule, or a list of rules, got {given!r}.{_hint(given)}")
    return rules


def preset(make: Callable[P, Composite]) -> Callable[P, Composite]:
    """A function that makes a composite, whose print tells how: `EpsilonPlus(epsilon=0.1)`."""
    signature = inspect.signature(make)

    @wraps(make)
    def named(*args: P.args, **kwargs: P.kwargs) -> Composite:
        composite = make(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        changed = [(n, v) for n, v in given.items() if not _is(v, signature.parameters[n].default)]
        composite.name = f"{make.__name__}({', '.join(f'{name}={short(value)}' for name, value in changed)})"
        return composite

    return named


def _is(value: object, default: object) -> bool:
    return value is default or (type(value) is type(default) and not isinstance(value, Tensor) and value == default)


def _hint(given: object) -> str:
    """What was probably meant."""
    several = given if isinstance(given, (list, tuple)) else [given]
    for one in several:
        if isinstance(one, type) and issubclass(one, (Rule, Composite, Primitive)):
            return f" {one.__name__} is a class; give one of its values, such as {one.__name__}()."
        if isinstance(one, Primitive):
            return f" Put it into a composite: Composite({type(one).__name__}(...))."
        if isinstance(one, str):
            return f" Names are for the command line; from Python: relprop.composites.{_near(one)}()."
        if callable(one):
            name = getattr(one, "__name__", repr(one))
            return f" {name} is a function; if it makes a composite, call it: {name}()."
    return ""


def _near(name: str) -> str:
    """The preset that a name is most like."""
    known = {"".join(re.findall("[a-z0-9]+", p.lower())): p for p in PRESETS}
    plain = "".join(re.findall("[a-z0-9]+", name.lower()))
    return known[next(iter(difflib.get_close_matches(plain, known, 1, 0)))]
