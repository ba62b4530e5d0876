"""From an explanation to what is on its page: other classes, layers and the ledger are asked for, where it can be."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ImageError, InputError, RelpropError, TargetError
from relprop.explanations.figures.view import View, name_of, views_of
from relprop.explanations.ledger import Ledger
from relprop.explanations.origin import scores_of, target_of
from relprop.explanations.report.checks import Finding, Trust, trust_of
from relprop.explanations.report.drawn import bars_of, panel_of
from relprop.explanations.report.parts import Bar, Panel, Sample
from relprop.targets import Contrast

OTHERS = 3
LAYERS = 16
BARS = 12


@dataclass(frozen=True, eq=False)
class Item:
    """One sample of an explanation, as a section of a page.

    Attributes:
        explanation: of a batch.
        sample: which of it.
        name: the section's heading; None: its number.
        picture: shown in the place of the input.
        names: of tokens, features or channels.
    """

    explanation: Any
    sample: int = 0
    name: str | None = None
    picture: Any = None
    names: Sequence[Any] | None = None


def items_of(
    explanation: Any,
    samples: Sequence[int],
    pictures: Sequence[Any] | None,
    headings: Sequence[str] | None,
    names: Sequence[Any] | None,
) -> list[Item]:
    """Some samples of one explanation.

    Args:
        explanation: of a batch.
        samples: which of it.
        pictures: one for each of them, or None.
        headings: one for each of them, or None.
        names: see `Item`.

    Raises:
        ImageError: another number of pictures or headings than of samples.
    """
    for what, given in (("pictures", pictures), ("headings", headings)):
        if given is not None and len(given) != len(samples):
            raise ImageError(f"{len(given)} {what} for {len(samples)} samples: give one for each")
    return [
        Item(explanation, i, headings[n] if headings else None, pictures[n] if pictures else None, names)
        for n, i in enumerate(samples)
    ]


def collected(
    item: Item,
    *,
    targets: Sequence[Any] | None = None,
    layers: bool = True,
    trust: bool = True,
    kind: str | None = None,
) -> Sample:
    """Everything about one sample.

    Args:
        item: which.
        targets: other classes to switch to; None: those with the largest outputs beside the explained one.
        layers: step through the layers.
        trust: run the checks.
        kind: as in `relprop.figures.plot`.

    Raises:
        ImageError: the relevance has no form of its own.
    """
    expl, i = item.explanation, item.sample
    drawn: dict[str, Any] = {"kind": kind, "names": item.names, "picture": item.picture}
    (view,) = views_of(expl, [i], **drawn)
    asked = _asked(expl, i, layers)
    panels = [panel_of(view, name_of(expl, i) or "explained")]
    for label, other in _others(expl, i, targets):
        (seen,) = views_of(other, [0], **drawn | {"names": _alone(item.names, i)})
        panels.append(panel_of(seen, label))
    ledger = expl.ledger if asked is None or asked.ledger is None else asked.ledger
    steps = _of_sample(expl, i) if asked is None else _of_sample(asked, 0)
    return Sample(
        item.name or f"Sample {i}",
        panels,
        _layers(steps, view) if layers else [],
        [] if ledger is None else _sinks(ledger),
        "" if ledger is None else _books(ledger),
        _trust(expl, i) if trust else None,
    )


def _asked(expl: Any, i: int, layers: bool) -> Any:
    """The same explanation of the sample alone, with books and layers, where its analyzer has them."""
    if expl.origin is None:
        return None
    known = expl.origin.analyzer.OPTIONS
    options: dict[str, Any] = {"audit": True} if "audit" in known else {}
    options |= {"layers": True} if layers and "layers" in known else {}
    if not options:
        return None
    with warnings.catch_warnings(), suppress(InputError):  # some questions are for whole batches
        warnings.simplefilter("ignore")  # trouble is on the page
        return expl.origin.ask(target_of(expl, expl.origin, i), i, **options)
    return None


def _others(expl: Any, i: int, targets: Sequence[Any] | None) -> list[tuple[str, Any]]:
    """Explanations for other classes of a sample, and for why it is the explained one and not these."""
    if expl.origin is None or expl.origin.part():
        return []
    index = None if expl.target is None else int(expl.target[i])
    output = scores_of(expl.output)
    flat = output[i].detach().float() if output is not None and output.dim() == 2 else None
    if targets is None:
        if index is None or flat is None or not expl.origin.others:
            return []
        best = flat.argsort(descending=True, stable=True)[: OTHERS + 1].tolist()
        targets = [k for k in best if k != index][:OTHERS]
    found = []
    for target in targets:
        other = expl.origin.ask(target, i)
        found.append((name_of(other, 0) or str(target), other))
    if index is not None and flat is not None:
        own = name_of(expl, i)
        for label, other in found[:2]:
            if other.target is not None and int(other.target[0]) != index:
                with suppress(TargetError):  # a program from a file explains one entry at a time
                    contrast = expl.origin.ask(Contrast(index, int(other.target[0])), i)
                    found.append((f"{own}, not {label}", contrast))
    return found


def _of_sample(expl: Any, sample: int) -> dict[str, Tensor]:
    """Relevance of one sample at the layers that the explanation has, and that have a batch dimension."""
    first = expl.relevance if isinstance(expl.relevance, Tensor) else expl.relevance[0]
    return {name: r[sample] for name, r in expl.layers.items() if r.dim() > 1 and len(r) == len(first)}


def _layers(layers: Mapping[str, Tensor], view: View) -> list[Panel]:
    """Layers from the input to the output, at most `LAYERS` of them, without those that change nothing."""
    different: list[tuple[str, Tensor]] = []
    for name, relevance in layers.items():
        if not different or not _alike(different[-1][1], relevance):
            different.append((name, relevance))
    step = max(1.0, len(different) / LAYERS)
    chosen = [different[int(k * step)] for k in range(min(len(different), LAYERS))]
    return [_layer(name, relevance.detach().cpu().float(), view) for name, relevance in chosen]


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _layer(name: str, relevance: Tensor, view: View) -> Panel:
    """A map or the same tokens where the layer has them, else its strongest units."""
    value = f"shape {tuple(relevance.shape)}"
    if view.kind == "tokens" and relevance.dim() == 2 and len(relevance) == len(view.relevance):
        return panel_of(View("tokens", relevance.sum(-1), names=view.names), name, value)
    if relevance.dim() == 3 and min(relevance.shape[1:]) > 1:
        return panel_of(View("picture", relevance.sum(0)), name, value)
    flat = relevance.flatten()
    units = [f"unit {k}" for k in range(len(flat))]
    limit = float(flat.abs().max())
    return Panel(name, value, float(flat.double().sum()), limit, bars=bars_of(flat, units, most=BARS))


def _sinks(ledger: Ledger) -> list[Bar]:
    amounts = {"inputs": ledger.input, **{name: amount for name, amount in ledger.sinks.items() if amount}}
    most = max((abs(amount) for amount in amounts.values()), default=1.0) or 1.0
    return [Bar(name, amount, amount / most) for name, amount in amounts.items()]


def _books(ledger: Ledger) -> str:
    return (
        f"{ledger.output:.4g} started at the output; {ledger.input:.4g} reached the inputs, and sinks kept "
        f"{sum(ledger.sinks.values()):.4g}. The worst account is off by {ledger.imbalance:.1e}."
    )


def _trust(expl: Any, i: int) -> Trust | None:
    try:
        found = trust_of(expl, i)
    except RelpropError as error:
        return Trust([Finding("Was it checked?", "open", f"No: {error}")])
    return found if found.findings else None


def _alone(names: Sequence[Any] | None, i: int) -> Sequence[Any] | None:
    """Names of one sample, of those that are given for each."""
    return names[i] if names and isinstance(names[0], (list, tuple)) else names
