"""The job: which channels of a layer explain each picture, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.concepts import CRP, ConceptExplanation, TopNFeatures
from relprop.errors import InputError
from relprop.explanations.files import replacing
from relprop.explanations.sheet import Panel, contact_sheet
from relprop.jobs.picture_plan import Picture, PictureOptions, PicturePlan, make_picture_plan
from relprop.jobs.pictures import batches_of, draw, save_relevance, stacked

MOST = 64
"""Heatmaps on the sheet; more pictures are in the files alone, and the sheet says so."""

SHEET, FOUND, RELEVANCE = "concepts.png", "concepts.json", "concepts.safetensors"


@dataclass(frozen=True)
class Shares:
    """The channels of one picture: number, and relevance at the layer, as a share of what came there."""

    picture: Picture
    predicted: str
    channels: list[tuple[int, float]]


def explain_concepts(options: PictureOptions, layer: str | None, count: int) -> list[Shares]:
    """Explain each picture by the channels of a layer that have the most relevance, and write what comes out.

    Args:
        options: those of `explain`, with one target at most.
        layer: its name. None: the last convolution that has others behind it in the table's order, or the last.
        count: how many channels.

    Raises:
        RelpropError: what is wrong, before anything is written.
    """
    if len(options.targets) > 1:
        raise InputError("concepts explain one target: give --target once")
    plan = make_picture_plan(options, (SHEET, FOUND, RELEVANCE))
    layer = last_convolution(plan.lrp, plan.model_name) if layer is None else layer
    crp = CRP(plan.lrp, layer, TopNFeatures(count))
    shares: list[Shares] = []
    panels: list[Panel] = []
    kept: dict[str, Tensor] = {}
    for pictures, found, shown in _explained(plan, crp):
        names = [plan.asked[0].name(c, plan.class_name) for c in plan.asked[0].classes(found.output.detach().cpu())]
        relevance = torch.stack([part.relevance.detach().cpu() for part in found])  # type: ignore[union-attr]
        parts = found.feature_relevance / found.scores.sum(1)
        for i, picture in enumerate(pictures):
            channels = list(zip(found.features[:, i].tolist(), parts[:, i].tolist(), strict=True))
            shares.append(Shares(picture, names[i], channels))
            kept[picture.name] = relevance[:, i]
            if len(panels) >= MOST:
                continue
            panels += [
                Panel(f"channel {channel}: {share:.0%}", f"{names[i]}, {picture.name}", images[i])
                for (channel, share), images in zip(channels, shown, strict=True)
            ]
    _write(plan, layer, shares, panels, kept)
    return shares


def last_convolution(lrp: LRP, model: str) -> str:
    """The name of the layer that is looked at if nothing else is said."""
    names = [row.name for row in lrp.layers if any("conv" in name for name in row.operators) and row.nodes]
    if not names:
        raise InputError(f"{model} has no convolution: name a layer with --layer, see relprop layers")
    return names[-1]


def _explained(plan: PicturePlan, crp: CRP) -> Iterator[tuple[list[Picture], ConceptExplanation, list[list[tuple]]]]:  # type: ignore[type-arg]
    for pictures, seen in batches_of(plan):
        found = crp(stacked(plan, seen), target=plan.asked[0].target)
        shown = [draw(plan, seen, part.relevance.cpu()) for part in found if isinstance(part.relevance, Tensor)]
        yield pictures, found, shown


def _write(plan: PicturePlan, layer: str, shares: list[Shares], panels: list[Panel], kept: dict[str, Tensor]) -> None:
    folder, count = plan.options.out, len(shares[0].channels)
    drawn = len(panels) // count
    some = f"The first {drawn} of {len(shares)} pictures: " if drawn < len(shares) else ""
    title = f"{some}{plan.model_name}, {plan.options.composite}: channels of {layer} with the most relevance"
    with replacing(folder / SHEET) as path:
        contact_sheet(panels, title, plan.options.cmap, together=count).save(path)
    record = {
        "relprop": version("relprop"),
        "model": plan.model_name,
        "composite": plan.options.composite,
        "layer": layer,
        "pictures": [
            {
                "picture": s.picture.name,
                "explained": s.predicted,
                "channels": [{"channel": channel, "share": share} for channel, share in s.channels],
            }
            for s in shares
        ],
    }
    with replacing(folder / FOUND) as path:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with replacing(folder / RELEVANCE) as path:
        save_relevance(path, kept, {key: str(record[key]) for key in ("relprop", "model", "composite", "layer")})
