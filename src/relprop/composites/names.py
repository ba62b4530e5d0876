"""Composites by name, for the command line and whoever else has names only: one table.

make_composite("epsilon-gamma-box", Given(model, low, high), "pictures")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from relprop.composites.composite import Composite
from relprop.composites.presets import (
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGamma,
    EpsilonGammaBox,
    EpsilonGammaFlat,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from relprop.composites.primitives import GlobalTypeMap
from relprop.composites.transformers import CPLRP, AttnLRP, ResLRP, for_vision_transformers, recommended
from relprop.engine.layers.kinds import ConvLayer, LinearLayer
from relprop.errors import CompositeError
from relprop.rules import EpsilonRule, GammaRule

Kind = Literal["pictures", "text"]
RECOMMENDED = "recommended"
"""The name of the default."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a composite may need to know: the model, and the lowest and the highest possible input."""

    model: nn.Module
    low: Tensor | None = None
    high: Tensor | None = None


@dataclass(frozen=True)
class Named:
    """A composite's name in words of the command line, what it explains, how it is made, and what it is."""

    name: str
    kinds: tuple[Kind, ...]
    make: Callable[[Given], Composite]
    about: str


def _box(given: Given) -> Composite:
    assert given.low is not None  # pictures have bounds
    assert given.high is not None
    return EpsilonGammaBox(given.low, given.high)


PICTURES: tuple[Kind, ...] = ("pictures",)
TEXT: tuple[Kind, ...] = ("text",)
BOTH = PICTURES + TEXT

TABLE = (
    Named(
        "epsilon-gamma-flat",
        PICTURES,
        lambda _: EpsilonGammaFlat(),
        "generalized gamma = 0.5 for convolutions, epsilon for linear layers, flat for the first",
    ),
    Named(
        "epsilon-plus-flat",
        PICTURES,
        lambda _: EpsilonPlusFlat(),
        "z-plus for convolutions, epsilon for linear layers, flat for the first layer",
    ),
    Named(
        "epsilon-plus",
        PICTURES,
        lambda _: EpsilonPlus(),
        "z-plus for convolutions, epsilon for linear layers",
    ),
    Named(
        "epsilon-alpha2-beta1-flat",
        PICTURES,
        lambda _: EpsilonAlpha2Beta1Flat(),
        "alpha = 2, beta = 1 for convolutions, epsilon for linear layers, flat for the first layer",
    ),
    Named(
        "epsilon-alpha2-beta1",
        PICTURES,
        lambda _: EpsilonAlpha2Beta1(),
        "alpha = 2, beta = 1 for convolutions, epsilon for linear layers",
    ),
    Named(
        "epsilon-gamma",
        PICTURES,
        lambda _: EpsilonGamma(),
        "generalized gamma = 0.5 for convolutions, epsilon for linear layers",
    ),
    Named(
        "epsilon-gamma-box",
        PICTURES,
        _box,
        "generalized gamma for convolutions, epsilon for linear layers, z-box with pixel bounds for the first layer",
    ),
    Named(
        "attnlrp",
        BOTH,
        lambda _: AttnLRP(),
        "AttnLRP: attention is shared between values and softmax",
    ),
    Named(
        "attnlrp-epsilon",
        TEXT,
        lambda _: AttnLRP(epsilon=1e-6),
        "AttnLRP with epsilon = 1e-6 in linear layers",
    ),
    Named(
        "attnlrp-gamma",
        BOTH,
        lambda _: AttnLRP(gamma_linear=0.25),
        "AttnLRP with gamma = 0.25 in linear layers",
    ),
    Named(
        "cplrp",
        BOTH,
        lambda _: CPLRP(),
        "CP-LRP: attention weights count as constants",
    ),
    Named(
        "cplrp-epsilon",
        TEXT,
        lambda _: CPLRP(epsilon=1e-6),
        "CP-LRP with epsilon = 1e-6 in linear layers",
    ),
    Named(
        "cplrp-gamma",
        BOTH,
        lambda _: CPLRP(gamma_linear=0.25),
        "CP-LRP with gamma = 0.25 in linear layers",
    ),
    Named(
        "reslrp",
        BOTH,
        lambda _: ResLRP(),
        "AttnLRP with generalized gamma on residual sums",
    ),
    Named(
        "reslrp-cp",
        BOTH,
        lambda _: ResLRP(attention="cp"),
        "CP-LRP with generalized gamma on residual sums",
    ),
    Named(
        "reslrp-gamma",
        BOTH,
        lambda _: for_vision_transformers(),
        "ResLRP with gamma = 0.05 in linear layers and 0.25 in convolutions",
    ),
    Named(
        "zero",
        BOTH,
        lambda _: Composite(),
        "the 0-rule everywhere: input times gradient, where the network is piecewise linear",
    ),
    Named(
        "epsilon",
        BOTH,
        lambda _: Composite(EpsilonRule()),
        "the epsilon-rule everywhere",
    ),
    Named(
        "gamma",
        PICTURES,
        lambda _: Composite(GlobalTypeMap({ConvLayer: GammaRule(), LinearLayer: GammaRule()})),
        "the gamma-rule for convolutions and linear layers",
    ),
    Named(
        RECOMMENDED,
        BOTH,
        lambda given: recommended(given.model),
        "one of these, by the model's kinds of layers: the default",
    ),
)


def composite_names(kind: Kind) -> list[str]:
    """The names of composites for pictures or for text."""
    return [row.name for row in TABLE if kind in row.kinds]


def name_for(name: str, model: nn.Module) -> str:
    """The name itself; of `recommended` that of the composite which it stands for with this model."""
    if name != RECOMMENDED:
        return name
    chosen = recommended(model)
    made = ((row.name, row.make(Given(model))) for row in TABLE if row.make is not _box)
    return next(known for known, composite in made if composite == chosen)


def check_composite(name: str, kind: Kind) -> None:
    """Refuse a name that no composite of that kind has.

    Raises:
        CompositeError: with the names that exist.
    """
    if name not in composite_names(kind):
        words = " for text" if kind == "text" else ""
        raise CompositeError(f"unknown composite {name!r}{words}; choose one of {', '.join(composite_names(kind))}")


def make_composite(name: str, given: Given, kind: Kind) -> Composite:
    """The composite of that name.

    Raises:
        CompositeError: there is none.
    """
    check_composite(name, kind)
    return next(row for row in TABLE if row.name == name).make(given)
