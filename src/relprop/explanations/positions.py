"""What positions have of an explanation's relevance, as one number for each position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from relprop.errors import InputError

PositionForm = Literal["signed", "positive", "absolute"]
IDS = "position_ids"
"""The input that learned positions are looked up by."""


def relevance_of_positions(
    places: Mapping[str, Tensor], by_input: Mapping[str, Tensor], form: PositionForm
) -> Float[Tensor, "B T"]:
    """Relevance of each position, see `Explanation.positions`.

    Args:
        places: (B, T, D) each, called after a module, a colon, and what kept it there.
        by_input: relevance of inputs, `position_ids` among them or not.
        form: how parts are put together.

    Raises:
        InputError: there is none, of several lengths, or an unknown form.
    """
    if form not in get_args(PositionForm):
        raise InputError(f"form={form!r} is none of {', '.join(get_args(PositionForm))}.")
    known = dict(places) | {f":{name}": R for name, R in by_input.items() if name.partition("@")[0] == IDS}
    if not known:
        raise InputError(
            "No position has relevance here. Call the analyzer with positions=True, with AttnLRP(rope='half') for "
            "rotary positions; learned ones may also be given as an input, position_ids."
        )
    lengths = {R.shape[1] for R in known.values()}
    if len(lengths) > 1:
        raise InputError(
            f"Positions of sequences of several lengths, {sorted(lengths)}, have relevance: take those that you mean "
            f"out of `places`: {', '.join(known)}."
        )
    modules: dict[str, list[Tensor]] = {}
    for name, relevance in known.items():
        modules.setdefault(name.partition("@")[0].rpartition(":")[0], []).append(relevance)
    return torch.stack([_of_module(parts, form) for parts in modules.values()]).sum(0)


def _of_module(parts: list[Tensor], form: PositionForm) -> Float[Tensor, "B T"]:
    """Of the parts that were kept in one module."""
    if form == "absolute":
        return torch.stack([part.sum(-1).abs() for part in parts]).sum(0)
    if form == "positive":
        return sum(parts[1:], parts[0]).clamp(min=0).sum(-1)
    return torch.stack([part.sum(-1) for part in parts]).sum(0)
