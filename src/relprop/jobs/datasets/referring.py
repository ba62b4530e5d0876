"""Reference samples of concepts from the rows of a job: collected as it is, resumed, divided and merged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.concepts import References
from relprop.concepts.references import fingerprint_of
from relprop.concepts.store import Batch
from relprop.errors import InputError
from relprop.jobs.datasets.columns import PLACES, SCORES, rows_in
from relprop.jobs.datasets.job import LABEL, PREDICTED
from relprop.jobs.datasets.manifest import Manifest

FACTS = ("index", "target", "amount")


def reference_columns(layer: str) -> list[str]:
    """What has to be read of the rows."""
    return [*FACTS, f"{SCORES}{layer}", f"{PLACES}{layer}"]


def references_of(batches: Iterable[Any], manifest: Manifest, lrp: LRP, layer: str, **options: Any) -> References:
    """The samples that matter most to each channel of a layer, as `References.collect` finds them.

    Args:
        batches: of Arrow, with `reference_columns`.
        manifest: of the job.
        lrp: the job's analyzer, made anew.
        layer: whose channels they are.
        options: of `References`: `k`, `per_class`, `preprocessing`, `dataset`, `path`.

    Raises:
        InputError: the job explained something else, with another analyzer, or kept too little.
    """
    if f"{PLACES}{layer}" not in manifest.columns:
        raise InputError(
            f"the job kept no places of {layer!r}: run it with layers={[layer]!r} and keep=['scores', 'places']"
        )
    made = manifest.made_with
    if made["target"] not in (LABEL, PREDICTED):
        raise InputError(f"the job explained target={made['target']!r}; references are of labels or predictions")
    here = fingerprint_of(lrp)
    there = {"model": made["weights"], "composite": made["rules"], "settings": made["settings"]}
    other = [name for name in there if here[name] != there[name]]
    if other:
        raise InputError(f"the job was run with another {' and '.join(other)} than this analyzer's")
    found = References(lrp, layer, **options)
    for batch in batches:
        rows = [row for row in rows_in(batch) if row["target"] is not None]
        if rows:
            found.store = found.store.added(_seen(rows, layer))
    return found


def _seen(rows: list[dict[str, Any]], layer: str) -> Batch:
    """What some rows say of the layer's channels, with scores in units of the output."""

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(row[name]) for row in rows]))

    amount = column("amount").abs().float()
    scores = column(f"{SCORES}{layer}") * torch.where(amount == 0, 1, amount)[:, None]
    return Batch(scores, column(f"{PLACES}{layer}"), column("index"), column("target").long())
