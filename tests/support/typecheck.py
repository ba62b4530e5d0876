"""The type checker that is on while tests run: beartype, with ints welcome where floats are asked for."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

INSIDE = ["relprop.engine", "relprop.explanations.ledger", "relprop.rules", "relprop.targets"]
"""Packages and modules that are checked."""

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
