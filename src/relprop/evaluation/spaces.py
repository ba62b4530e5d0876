"""What `tune` searches: a preset, and which values its parameters may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from relprop.composites import AttnLRP, Composite, EpsilonGammaFlat
from relprop.errors import InputError

Value = Any
"""What a parameter gets: a number, a pair, a word, or None."""


@dataclass(frozen=True)
class Number:
    """A number, searched on a logarithmic scale, and rounded to three digits so that its print is all of it.

    Attributes:
        low: at least.
        high: at most.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise InputError(f"{self}: 0 < low < high, since the scale is logarithmic.")

    def suggest(self, trial: Any, name: str) -> Value:
        """One value, by an Optuna trial."""
        return _rounded(trial.suggest_float(name, self.low, self.high, log=True))

    def parameters(self, name: str, value: Value) -> dict[str, Any]:
        """What a trial would have to suggest for the value."""
        return {name: min(max(value, self.low), self.high)}


@dataclass(frozen=True)
class ByDepth:
    """A pair, that of the first and that of the last layer, each a `Number`; or no rule with γ at all.

    Attributes:
        low: at least.
        high: at most.
        none: None is tried too.
    """

    low: float
    high: float
    none: bool = False

    def __post_init__(self) -> None:
        Number(self.low, self.high)

    def suggest(self, trial: Any, name: str) -> Value:
        """One value, by an Optuna trial."""
        if self.none and not trial.suggest_categorical(f"{name}?", [True, False]):
            return None
        number = Number(self.low, self.high)
        return number.suggest(trial, f"{name} first"), number.suggest(trial, f"{name} last")

    def parameters(self, name: str, value: Value) -> dict[str, Any]:
        """What a trial would have to suggest for the value."""
        if value is None:
            return {f"{name}?": False}
        first, last = value if isinstance(value, tuple) else (value, value)
        number = Number(self.low, self.high)
        given = {f"{name}?": True} if self.none else {}
        return given | number.parameters(f"{name} first", first) | number.parameters(f"{name} last", last)


@dataclass(frozen=True)
class Choice:
    """One of some values: words, numbers, or None.

    Attributes:
        values: what is tried.
    """

    values: tuple[Value, ...]

    def suggest(self, trial: Any, name: str) -> Value:
        """One value, by an Optuna trial."""
        return trial.suggest_categorical(name, list(self.values))

    def parameters(self, name: str, value: Value) -> dict[str, Any]:
        """What a trial would have to suggest for the value."""
        return {name: value}


Parameter = Number | ByDepth | Choice


@dataclass(frozen=True)
class Space:
    """A preset, and which values its parameters may have.

    Attributes:
        preset: makes the composite; its print is the code.
        parameters: name -> values.
        start: what is tried first.
    """

    preset: Callable[..., Composite]
    parameters: Mapping[str, Parameter]
    start: Mapping[str, Value]

    def suggest(self, trial: Any) -> dict[str, Value]:
        """All parameters, by an Optuna trial."""
        return {name: parameter.suggest(trial, name) for name, parameter in self.parameters.items()}

    def first(self) -> dict[str, Any]:
        """What a trial would have to suggest to start where `start` says."""
        given: dict[str, Any] = {}
        for name, value in self.start.items():
            given |= self.parameters[name].parameters(name, value)
        return given

    def __str__(self) -> str:
        ranges = ", ".join(f"{name}: {parameter}" for name, parameter in self.parameters.items())
        return f"{getattr(self.preset, '__name__', self.preset)}({ranges})"


BIASES = Choice(("absorb", "ignore", "distribute"))


def space_for(model: nn.Module) -> Space:
    """Convolutional networks: `EpsilonGammaFlat` by γ, by depth and on sums, ε, bias; others: `AttnLRP` by the like."""
    modules = list(model.modules())
    attends = any("Attention" in type(m).__name__ or isinstance(m, nn.Embedding) for m in modules)
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in modules)
    if convolves and not attends:
        parameters: dict[str, Parameter] = {
            "gamma": ByDepth(0.01, 10.0),
            "gamma_residual": Choice((None, 1.0)),
            "epsilon": Number(1e-6, 1.0),
            "bias": BIASES,
        }
        return Space(
            EpsilonGammaFlat, parameters, {"gamma": 0.5, "gamma_residual": None, "epsilon": 1e-6, "bias": "absorb"}
        )
    parameters = {"gamma_linear": ByDepth(1e-3, 10.0, none=True), "epsilon": Number(1e-6, 1.0), "bias": BIASES}
    start = {"gamma_linear": None, "epsilon": 1e-6, "bias": "absorb"}
    if convolves:
        parameters["gamma_conv"], start["gamma_conv"] = ByDepth(0.01, 100.0), 0.25
    if attends:
        parameters["gamma_residual"], start["gamma_residual"] = Choice((None, 0.3, 1.0, 3.0)), 1.0
        parameters["attention"], start["attention"] = Choice(("attnlrp", "cp")), "attnlrp"
    return Space(AttnLRP, parameters, start)


def _rounded(x: float) -> float:
    return float(f"{x:.3g}")
