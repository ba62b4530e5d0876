"""Composite primitives: which rule goes where. Later ones overrule earlier ones."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from relprop.engine.layers.kinds import LayerType, check_type, show_type
from relprop.engine.layers.layers import Layer
from relprop.errors import CompositeError
from relprop.rules import Rule

Assignment = tuple[Layer, Rule]


@dataclass(frozen=True)
class Primitive:
    """One statement of a composite. `assign` yields the layers that it speaks of, each with its rule."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        """The layers that it speaks of, in order of execution, each with its rule.

        Raises:
            CompositeError: it speaks of a layer that the model does not have.
        """
        raise NotImplementedError

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        """(arguments, comment, entries) for the printed composite."""
        raise NotImplementedError


@dataclass(frozen=True)
class _RuleMap(Primitive):
    """One rule for some layers."""

    rule: Rule

    def __post_init__(self) -> None:
        _check_rule(self.rule, type(self).__name__)


@dataclass(frozen=True)
class GlobalMap(_RuleMap):
    """`GlobalMap(rule)`: every layer."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return ((layer, self.rule) for layer in layers)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "all layers", [("", self.rule)]


@dataclass(frozen=True)
class FirstLayerMap(_RuleMap):
    """`FirstLayerMap(rule)`: the layer executed first; reshaping, dropout and activations are not counted."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return ((layer, self.rule) for layer in first_layers(layers, 1))

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "first layer", [("", self.rule)]


@dataclass(frozen=True)
class LastLayerMap(_RuleMap):
    """`LastLayerMap(rule)`: the layer executed last; reshaping, dropout and activations are not counted."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return ((layer, self.rule) for layer in first_layers(layers[::-1], 1))

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "last layer", [("", self.rule)]


@dataclass(frozen=True)
class LayerMap(Primitive):
    """`LayerMap(index, rule)`: the layer with that index, as `relprop.layer_indices(model)` prints them.

    Args:
        index: an int, or for nested models a tuple with a position per level. A container's index means all in it;
            a negative first position counts from the end.
    """

    index: int | tuple[int, ...]
    rule: Rule

    def __post_init__(self) -> None:
        _check_rule(self.rule, "LayerMap")

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        path = (self.index,) if isinstance(self.index, int) else tuple(self.index)
        if path and path[0] < 0:
            path = (path[0] + 1 + max((layer.index[0] for layer in layers), default=-1), *path[1:])
        found = [layer for layer in layers if layer.index[: len(path)] == path]
        if not found:
            raise CompositeError(
                f"LayerMap({self.index}, {self.rule!r}): the model has no layer with that index. "
                "relprop.layer_indices(model) prints them."
            )
        return ((layer, self.rule) for layer in found)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return str(self.index), f"layer {self.index}", [("", self.rule)]


@dataclass(frozen=True)
class RangeMap(Primitive):
    """`RangeMap(range(a, b), rule)`: the layers whose (outermost) index is in the range."""

    range: range
    rule: Rule

    def __post_init__(self) -> None:
        _check_range(self.range, "RangeMap")
        _check_rule(self.rule, "RangeMap")

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return ((layer, self.rule) for layer in layers if layer.index[0] in self.range)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return str(self.range), f"layers {_shown(self.range)}", [("", self.rule)]


@dataclass(frozen=True)
class _TypeMap(Primitive):
    """Rules by kind of layer, for some layers. Within the mapping, later entries overrule earlier ones."""

    rules: Mapping[LayerType, Rule] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", dict(self.rules))
        for kind, rule in self.rules.items():
            check_type(kind)
            _check_rule(rule, type(self).__name__)

    def _by_type(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        for layer in layers:
            for kind, rule in self.rules.items():
                if layer.is_a(kind):
                    yield layer, rule

    def _entries(self) -> list[tuple[str, Rule]]:
        return [(show_type(kind), rule) for kind, rule in self.rules.items()]


@dataclass(frozen=True)
class GlobalTypeMap(_TypeMap):
    """`GlobalTypeMap({type: rule, ...})`: every layer of a type."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return self._by_type(layers)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "all layers", self._entries()


@dataclass(frozen=True)
class FirstLayerTypeMap(_TypeMap):
    """`FirstLayerTypeMap({type: rule, ...})`: the first layer, if it is of a type."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return self._by_type(first_layers(layers, 1))

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "first layer", self._entries()


@dataclass(frozen=True)
class LastLayerTypeMap(_TypeMap):
    """`LastLayerTypeMap({type: rule, ...})`: the last layer, if it is of a type."""

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return self._by_type(first_layers(layers[::-1], 1))

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return "", "last layer", self._entries()


@dataclass(frozen=True)
class RangeTypeMap(Primitive):
    """`RangeTypeMap(range(a, b), {type: rule, ...})`: layers of a type whose (outermost) index is in the range."""

    range: range
    rules: Mapping[LayerType, Rule] = field(hash=False)

    def __post_init__(self) -> None:
        _check_range(self.range, "RangeTypeMap")
        object.__setattr__(self, "rules", _TypeMap(self.rules).rules)

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return _TypeMap(self.rules)._by_type([layer for layer in layers if layer.index[0] in self.range])

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return str(self.range), f"layers {_shown(self.range)}", _TypeMap(self.rules)._entries()


@dataclass(frozen=True)
class FirstNTypeMap(Primitive):
    """`FirstNTypeMap(n, {type: rule, ...})`: layers of a type among the first `n` (outermost) ones."""

    n: int
    rules: Mapping[LayerType, Rule] = field(hash=False)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise CompositeError(f"FirstNTypeMap: n must be at least 1, got {self.n}.")
        object.__setattr__(self, "rules", _TypeMap(self.rules).rules)

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        return RangeTypeMap(range(self.n), self.rules).assign(layers)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        return str(self.n), f"first {self.n} layers", _TypeMap(self.rules)._entries()


@dataclass(frozen=True)
class NameMap(Primitive):
    """`NameMap({pattern: rule, ...})`: layers by name.

    A pattern is a glob on the layer's name (`"features.*"`, where `*` crosses dots), the path of a container, which
    means all in it, or a compiled regular expression, which is searched for.
    """

    rules: Mapping[str | re.Pattern[str], Rule] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", dict(self.rules))
        for rule in self.rules.values():
            _check_rule(rule, "NameMap")

    def assign(self, layers: Sequence[Layer]) -> Iterator[Assignment]:
        for pattern, rule in self.rules.items():
            found = [layer for layer in layers if name_matches(layer.name, pattern)]
            if not found:
                shown = pattern if isinstance(pattern, str) else pattern.pattern
                names = ", ".join(layer.name for layer in layers[:6])
                raise CompositeError(f"NameMap: no layer matches {shown!r}. Layers are named {names}, ...")
            yield from ((layer, rule) for layer in found)

    def describe(self) -> tuple[str, str, list[tuple[str, Rule]]]:
        entries = [(repr(p) if isinstance(p, str) else f"/{p.pattern}/", rule) for p, rule in self.rules.items()]
        return "", "by name", entries


def name_matches(name: str, pattern: str | re.Pattern[str]) -> bool:
    """Whether a layer is named by a regular expression, a glob, or the name of a module that it lies in."""
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return fnmatch.fnmatchcase(name, pattern) or name.startswith((pattern + ".", pattern + ":", pattern + "@"))


def first_layers(layers: Sequence[Layer], n: int) -> list[Layer]:
    """The first layers that do something with relevance: reshaping, dropout and activations are not counted."""
    return [layer for layer in layers if not layer.passes and layer.fused_into is None][:n]


def _check_rule(rule: object, where: str) -> None:
    if not isinstance(rule, Rule):
        hint = f" Did you mean {rule.__name__}()?" if isinstance(rule, type) and issubclass(rule, Rule) else ""
        raise CompositeError(f"{where}: {rule!r} is no rule.{hint}")


def _check_range(indices: object, where: str) -> None:
    if not isinstance(indices, range):
        raise CompositeError(f"{where}: give the indices as a range, such as range(0, 4), not {indices!r}.")


def _shown(indices: range) -> str:
    return f"{indices.start} to {indices.stop - 1}" if indices.step == 1 else str(list(indices))
