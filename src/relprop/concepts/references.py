"""What a channel means: the samples of a dataset in which it matters most, and where it looks in them.

By relevance: the samples whose class a feature speaks for most, and by activation: those that excite it most
(Achtibat et al. 2023).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from relprop.analyzers.analyzer import in_one
from relprop.analyzers.lrp import LRP
from relprop.analyzers.options import Conditions, Options
from relprop.concepts.batches import input_of, inputs_and_labels, placed_with, rows_of
from relprop.concepts.groups import Blocks, Channels
from relprop.concepts.store import UNKNOWN, Batch, Store, refuse_other
from relprop.engine.graph.signature import batch_size
from relprop.engine.program.condition import Choice, Mask
from relprop.errors import InputError
from relprop.explanations.explanation import Explanation
from relprop.targets import TargetLike

Kind = Literal["relevance", "activation"]


@dataclass(frozen=True)
class ReferenceSample:
    """A sample that shows what a feature means.

    Attributes:
        sample: its number in the dataset. score: what it is among the highest by.
        label: its class, -1 if it has none.
        input: the sample, without a dimension of samples.
        relevance: of the sample for the feature, (C, H, W) or whatever shape inputs have.
        field: of the sample for the feature's strongest entry: its receptive field, as far as it mattered.
    """

    sample: int
    score: float
    label: int
    input: Any
    relevance: Tensor
    field: Tensor


class References:
    """The samples of a dataset with the highest scores of each feature of a layer.

    - `kind="relevance"`: a feature's relevance for the sample's class, summed over places, in units of that output.
    - `kind="activation"`: a feature's largest positive value at the layer.

    Args:
        lrp: the analyzer.
        layer: whose output has the features.
        kind: what samples are ordered by.
        group: what a feature is. None: `Channels()`.
        target: what relevance speaks for, in every sample. None: the sample's label, and for samples without one their
            largest output.
        k: samples kept per feature.
        per_class: samples kept per feature and class, for `statistics`.
        preprocessing: what was done to the samples, in words of your own: scores of other preprocessings do not mix.
        dataset: which data it is, in words of your own.
        path: a file that holds the store: read now if it is there, written by `collect`.

    Raises:
        InputError: it is none of these, or the file was made with other things.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from relprop import LRP
        >>> from relprop.concepts import References
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> data = [(torch.rand(5, 1, 4, 4), torch.arange(5) % 3) for _ in range(3)]
        >>> references = References(LRP(model), "1", k=2).collect(data)
        >>> references.store.top.sample.shape, references.store.count
        (torch.Size([4, 2]), 15)
    """

    def __init__(
        self,
        lrp: LRP,
        layer: str,
        *,
        kind: Kind = "relevance",
        group: Blocks | None = None,
        target: TargetLike = None,
        k: int = 40,
        per_class: int = 10,
        preprocessing: str = "",
        dataset: str = "",
        path: str | Path | None = None,
    ) -> None:
        check_layer(lrp, layer, group)
        if kind not in ("relevance", "activation"):
            raise InputError(f"kind={kind!r} is neither 'relevance' nor 'activation'.")
        if not all(isinstance(n, int) and n > 0 for n in (k, per_class)):
            raise InputError(f"k={k!r}, per_class={per_class!r}: give how many samples to keep, at least 1.")
        self.lrp, self.layer, self.kind, self.target = lrp, layer, kind, target
        self.group: Blocks = Channels() if group is None else group
        self.path = None if path is None else Path(path)
        made = {"layer": layer, "group": repr(self.group), "kind": kind}
        made |= {"preprocessing": preprocessing, "dataset": dataset}
        made |= {"target": "" if kind == "activation" else without_addresses(repr(target))}
        self.store = Store({**fingerprint_of(lrp), **made}, k, per_class)
        if self.path is not None and self.path.exists():
            self.load(self.path)

    def load(self, path: str | Path) -> References:
        """Go on from a file that `save` wrote.

        Args:
            path: of the file.

        Raises:
            InputError: it is no such file, or was made with another model, composite, layer, dataset, ...
        """
        found = Store.load(path)
        refuse_other(self.store.made_with, found.made_with)
        self.store = found
        return self

    def save(self, path: str | Path | None = None) -> None:
        """Write the store as one safetensors file, whole or not at all.

        Args:
            path: of the file; None: the one given at first.

        Raises:
            InputError: there is no path.
        """
        where = self.path if path is None else Path(path)
        if where is None:
            raise InputError("There is no file to write to: save(path), or References(..., path=...).")
        self.store.save(where)

    def collect(self, batches: Iterable[Any], *, start: int = 0, every: int = 50) -> References:
        """See the samples of a dataset, or of a part of it. Those that were seen before are passed over.

        Args:
            batches: each an input (B, ...), a dict of keyword inputs, or a pair of that and labels (B,).
            start: number of the first sample.
            every: after so many batches the file at `path` is written, and at the end.

        Raises:
            InputError: a batch that is none, or scores that are not finite.
        """
        collect(batches, [self], start=start, every=every)
        return self

    def statistics(self, feature: int, n: int | None = 5) -> list[tuple[int, float]]:
        """The classes that answer most to a feature: (class, mean of its highest scores), highest first.

        Args:
            feature: its number.
            n: how many classes; None: all.
        """
        return self.store.statistics(feature, n)

    def of(self, feature: int, dataset: Any, n: int = 8, *, label: int | None = None) -> list[ReferenceSample]:
        """The feature's first samples, with what of them it looks at, all on one forward pass.

        By relevance, the sample's class is explained under the condition that relevance passes the feature; by
        activation, relevance starts at the feature with its rectified value.

        Args:
            feature: its number.
            dataset: `dataset[i]` is the i-th sample as it was collected, without a dimension of samples; or a pair of
                that and a label.
            n: how many.
            label: of which class, at most `per_class` of it; None: of all.

        Raises:
            InputError: nothing was collected, or the layer has no such feature, or no sample of the class was seen.
        """
        if label is not None and label not in self.store.classes:
            raise InputError(f"label={label}: samples of classes {list(self.store.classes)} were seen.")
        top = self.store.top if label is None else self.store.classes[label]
        if not 0 <= feature < len(top.sample):
            raise InputError(f"There are {len(top.sample)} features with reference samples, no feature {feature}.")
        n = min(n, top.found)
        numbers, places, labels = (t[feature, :n].long() for t in (top.sample, top.neuron, top.label))
        samples = [input_of(dataset[int(i)]) for i in numbers]
        batch = pytree.tree_map(lambda *parts: torch.stack(parts), *samples)
        whole, single = self._explained(batch, torch.full((n,), feature), places, labels)
        return [
            ReferenceSample(
                int(numbers[i]), float(top.score[feature, i]), int(labels[i]), samples[i], whole[i], single[i]
            )
            for i in range(n)
        ]

    def _explained(
        self, batch: Any, features: Int[Tensor, " B"], places: Int[Tensor, " B"], labels: Int[Tensor, " B"]
    ) -> list[Tensor]:
        """Relevance of a batch for a feature each, and for one entry of it."""
        group, inputs = self.group, in_one(placed_with(self.lrp.model, batch))

        def masks(like: Tensor) -> tuple[Tensor, Tensor]:
            return group.mask(features[:, None], like), group.single(features, places, like)

        def at(i: int) -> Any:
            return lambda value: value.clamp(min=0) * masks(value)[i]

        def under(i: int) -> Conditions:
            return {self.layer: Choice(lambda arrived: Mask(masks(arrived.like)[i]))}

        if self.kind == "activation":
            found = self.lrp.ask(inputs, [at(0), at(1)], Options(start=self.layer))
        else:
            target = self.target if self.target is not None else _labels_as_target(labels)
            found = self.lrp.ask(inputs, [target] * 2, Options(paths="through"), [under(0), under(1)])
        return [relevance_of(part).detach().cpu() for part in found]

    def __repr__(self) -> str:
        return f"References({self.layer!r}, {self.group!r}, kind={self.kind!r}, {self.store.count} samples)"


def collect(batches: Iterable[Any], references: Sequence[References], *, start: int = 0, every: int = 50) -> None:
    """See a dataset once for several layers, or by relevance and by activation.

    Args:
        batches: as in `References.collect`.
        references: of one analyzer and one target.
        start: number of the first sample.
        every: after so many batches files are written.

    Raises:
        InputError: they are of several analyzers or targets, or a batch is none.
    """
    if not references or any(r.lrp is not references[0].lrp for r in references):
        raise InputError("Collect for references of one analyzer at a time, at least for one.")
    if len({id(r.target) for r in references if r.kind == "relevance"}) > 1:
        raise InputError("Collect for references of one target at a time.")
    now = fingerprint_of(references[0].lrp)
    for r in references:  # the model may have been trained on meanwhile
        refuse_other({name: r.store.fingerprint[name] for name in now}, now)
    for i, given in enumerate(batches, 1):
        inputs, labels = inputs_and_labels(given)
        inputs = placed_with(references[0].lrp.model, inputs)
        length = batch_size(*in_one(inputs)) or 1
        numbers = torch.arange(start, start + length)
        start += length
        fresh = ~torch.stack([r.store.has(numbers) for r in references]).all(0)
        if bool(fresh.any()):
            _see(
                references,
                rows_of(inputs, fresh, length),
                None if labels is None else labels[fresh.to(labels.device)],
                numbers[fresh],
            )
        if i % every == 0:
            _write(references)
    _write(references)


def _see(references: Sequence[References], inputs: Any, labels: Tensor | None, numbers: Tensor) -> None:
    """Add a batch to those that did not see it yet."""
    layers: dict[str, list[str]] = {
        kind: [r.layer for r in references if r.kind == kind] for kind in ("relevance", "activation")
    }
    targets = [r.target for r in references if r.kind == "relevance" and r.target is not None]
    target = targets[0] if targets else labels
    expl = references[0].lrp.explain(inputs, target, layers=layers["relevance"], activations=layers["activation"])
    named = labels if labels is not None else expl.target
    classes = torch.full_like(numbers, UNKNOWN) if named is None else named.cpu().long()
    for r in references:
        value = (expl.layers if r.kind == "relevance" else expl.activations)[r.layer]
        score, neuron = scored(r.group.entries(value.detach()), r.kind)
        if r.kind == "relevance":
            score = r.lrp.in_units_of_the_amount(expl, score)
        batch = Batch(score.cpu(), neuron.cpu(), numbers, classes)
        r.store = r.store.added(batch.rows(~r.store.has(numbers)))


def scored(entries: Float[Tensor, "B n m"], kind: Kind) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
    """Each feature's score, the sum of relevance or the largest rectified value, and its strongest entry."""
    largest = entries.max(2)
    return (entries.sum(2) if kind == "relevance" else largest.values.clamp(min=0)), entries.argmax(2)


def fingerprint_of(lrp: LRP) -> dict[str, str]:
    """What relevance depends on: the model, by a hash of its structure and values, and the analyzer's rules."""
    digest = hashlib.sha256(without_addresses(repr(lrp.model)).encode())
    for name, value in lrp.model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    composite = without_addresses(f"{lrp.composite!r}")
    return {"model": digest.hexdigest(), "composite": composite, "settings": without_addresses(lrp.settings)}


def check_layer(lrp: LRP, layer: str, group: Any) -> None:
    """Raise `InputError` unless these are an analyzer, the name of a layer, and features made of entries."""
    if not isinstance(lrp, LRP):
        raise InputError(f"Give an LRP analyzer, got {type(lrp).__name__}: LRP(model, composite).")
    if not isinstance(layer, str):
        raise InputError(f"layer={layer!r}: give a layer's name; print the analyzer to see them.")
    if group is not None and (not isinstance(group, Blocks) or group.members):
        raise InputError(f"group={group!r}: give features that are made of entries, such as Channels() or Heads(12).")


def relevance_of(explanation: Explanation) -> Tensor:
    """Relevance of the first input."""
    relevance = explanation.relevance
    return relevance if isinstance(relevance, Tensor) else relevance[0]


def _labels_as_target(labels: Int[Tensor, " B"]) -> Tensor | None:
    return None if bool((labels == UNKNOWN).any()) else labels


def _write(references: Sequence[References]) -> None:
    for r in references:
        if r.path is not None:
            r.save()


def without_addresses(text: str) -> str:
    """A repr without what differs from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
