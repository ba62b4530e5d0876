"""A contest as columns: methods score one pass after the other, and the ranking is made of all rows.

Numbers are those of `relprop.evaluation.contest` on all samples at once, but for methods that draw numbers for a whole
batch, of which Captum has some. What a row has to hold for that beside scores: `refused`, why methods could not explain
the sample, and `twins`, pairs of methods with the same relevance of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relprop.concepts.references import without_addresses
from relprop.errors import InputError
from relprop.evaluation import Contest, Evaluation, Patches
from relprop.evaluation.contesting import alike, reason_of, unscaled
from relprop.evaluation.entrants import Ground, Make, entrants
from relprop.evaluation.evaluating import made_baselines, occluder_of, setting_of
from relprop.evaluation.groups import Groups, groups_for
from relprop.evaluation.metrics import METRICS, Case, Method, as_metrics, of_relevance_alone
from relprop.evaluation.occlusion import Occluder
from relprop.evaluation.subject import Subject, at_rows
from relprop.jobs.datasets.columns import CONTEST, REFUSED, TWINS
from relprop.jobs.datasets.job import Job
from relprop.jobs.masks import Masks
from relprop.targets import TargetLike, as_target

RANDOM, CENTRE = BASELINES = ("random", "centre")
"""What knows nothing of the model."""
DRAWN = 1 << 22
"""Numbers that are drawn at once where they are passed over."""


def methods_in(columns: Sequence[str]) -> list[str]:
    """The methods of a contest, by the names of its columns."""
    named = (name.removeprefix(CONTEST).rpartition(":")[0] for name in columns if name.startswith(CONTEST))
    return list(dict.fromkeys(named))


def groups_of(job: Job, x: Tensor) -> Groups:
    """What of inputs (B, ...) is occluded together."""
    return groups_for(x) if job.patch is None else Patches(size=job.patch)


@dataclass(frozen=True, eq=False)
class _Scored:
    """What is known of one method on a pass: scores (B,), NaN without; why not; and relevance without its scale."""

    scores: Mapping[str, NDArray[np.float64]]
    reasons: Sequence[str | None]
    relevance: Tensor


class Contestants:
    """The methods of a job's contest.

    Args:
        job: what is asked for.
        model: that is explained.
        x: inputs like those that come, (1, ...).
        masks: where relevance should lie, if that is known.
        low: smallest possible value of the input, for the z^B-rule. high: largest possible value.

    Raises:
        InputError: a method that nobody knows.
    """

    def __init__(
        self, job: Job, model: nn.Module, x: Tensor, low: Tensor, high: Tensor, masks: Masks | None = None
    ) -> None:
        self._job, self._model, self._masks = job, model, masks
        self._metrics = as_metrics(job.scored_by, masks=masks is not None)
        ground = Ground(model, x, groups_of(job, x), low, high, batch=job.pass_size, seed=job.seed)
        self._methods = {name: _made(make) for name, make in entrants(job.contest, ground).items()}
        self._random = RandomRows(job.seed)
        self.names = [*BASELINES, *self._methods]
        self.setting = setting_of(self._occluder(x, None))
        del self.setting["samples"]

    def columns(self, x: Tensor, target: TargetLike, first: int) -> dict[str, Any]:
        """The contest's columns for a batch.

        Args:
            x: the batch.
            target: what is explained.
            first: number of the first sample.
        """
        occluder = self._occluder(x, target)
        places = (len(x), *occluder.labels.shape[1:])
        masks = None if self._masks is None else self._masks.rows(first, places).to(x.device)
        known = {RANDOM: self._random.rows(first, places), CENTRE: made_baselines((CENTRE,), occluder)[CENTRE]}
        scored = {name: self._scored(relevance.to(x.device), occluder, masks) for name, relevance in known.items()}
        scored |= {name: self._entered(method, x, target, occluder, masks) for name, method in self._methods.items()}
        found: dict[str, Any] = {
            f"{CONTEST}{name}:{score}": values for name, one in scored.items() for score, values in one.scores.items()
        }
        found[REFUSED] = [
            [f"{name}: {one.reasons[i]}" for name, one in scored.items() if one.reasons[i] is not None]
            for i in range(len(x))
        ]
        found[TWINS] = self._twins(scored, len(x))
        return found

    def _occluder(self, x: Tensor, target: TargetLike) -> Occluder:
        job = self._job
        return occluder_of(Subject(self._model, x, target), groups_of(job, x), None, job.steps, job.pass_size, job.seed)

    def _entered(
        self, method: Method | str, x: Tensor, target: TargetLike, occluder: Occluder, masks: Tensor | None
    ) -> _Scored:
        """One method on a pass; where one of the samples stops it, each by itself."""
        if isinstance(method, str):
            return self._refused(method, len(x))
        try:
            return self._scored(method, occluder, masks)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # other libraries raise whatever they raise
            alone = [self._alone(method, x, target, masks, i) for i in range(len(x))]
        reasons = [each.reasons[0] for each in alone]
        width = max(each.relevance.shape[1] for each in alone)
        nothing = torch.full((1, width), torch.nan)
        relevance = [each.relevance if why is None else nothing for each, why in zip(alone, reasons, strict=True)]
        scores = {m.name: np.concatenate([each.scores[m.name] for each in alone]) for m in self._metrics}
        return _Scored(scores, reasons, torch.cat(relevance))

    def _alone(self, method: Method, x: Tensor, target: TargetLike, masks: Tensor | None, place: int) -> _Scored:
        """One method on a pass of copies of one sample, of which that in its place counts."""
        rows = torch.full((len(x),), place, device=x.device)
        try:
            occluder = self._occluder(x[rows], at_rows(as_target(target), rows, len(x)))
            found = self._scored(method, occluder, None if masks is None else masks[rows])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return self._refused(without_addresses(reason_of(error)), 1)
        scores = {name: values[place : place + 1] for name, values in found.scores.items()}
        return _Scored(scores, [None], found.relevance[place : place + 1])

    def _refused(self, reason: str, count: int) -> _Scored:
        nothing = {metric.name: np.full(count, np.nan) for metric in self._metrics}
        return _Scored(nothing, [reason] * count, torch.empty(count, 0))

    def _scored(self, method: Method, occluder: Occluder, masks: Tensor | None) -> _Scored:
        case = Case(method, occluder, masks, self._job.seed)
        scores = {m.name: m.function(case).detach().double().cpu().numpy() for m in self._metrics}
        return _Scored(scores, [None] * len(occluder.subject), unscaled(case.relevance))

    def _twins(self, scored: Mapping[str, _Scored], count: int) -> list[NDArray[np.int32]]:
        pairs: list[list[int]] = [[] for _ in range(count)]
        if of_relevance_alone(self._metrics):
            for later, name in enumerate(self.names):
                for earlier, other in enumerate(self.names[len(BASELINES) : later], len(BASELINES)):
                    one, two = scored[name].relevance, scored[other].relevance
                    if one.shape == two.shape and one.shape[1]:
                        for i in alike(two, one).nonzero().flatten().tolist():
                            pairs[i] += [later, earlier]
        return [np.array(each, np.int32) for each in pairs]


class RandomRows:
    """The rows of one `torch.rand` for all samples, as `contest` draws it, without holding more than some.

    Args:
        seed: of the numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._at = seed, 0
        self._generator = torch.Generator().manual_seed(seed)

    def rows(self, first: int, places: Sequence[int]) -> Tensor:
        """Those from a sample on, (B, *places).

        Args:
            first: its number.
            places: the shape.
        """
        start = first * int(np.prod(places[1:]))
        if start < self._at:
            self._generator, self._at = torch.Generator().manual_seed(self._seed), 0
        while self._at < start:
            passed = min(start - self._at, DRAWN)
            torch.rand(passed, generator=self._generator)
            self._at += passed
        found = torch.rand(tuple(places), generator=self._generator)
        self._at += found.numel()
        return found


def contest_of(table: Any, setting: Mapping[str, Any], confidence: float, resamples: int) -> Contest:
    """The contest that rows make, of the samples that were explained.

    Args:
        table: of Arrow, with a contest's columns and `error`.
        setting: what was asked, of `Contestants.setting`.
        confidence: of intervals.
        resamples: how often samples are drawn for them.

    Raises:
        InputError: there was no contest, no sample was explained, or no method ran.
    """
    methods = methods_in(table.column_names)
    if not methods:
        raise InputError("the job held no contest: run it with contest=[...], the methods")
    table = table.filter(table["error"].is_null())
    if not len(table):
        raise InputError("no sample has an explanation")
    scores: dict[str, dict[str, Tensor]] = {}
    for name in table.column_names:
        if not name.startswith(CONTEST):
            continue
        method, _, score = name.removeprefix(CONTEST).rpartition(":")
        values = table[name].to_numpy().astype(np.float64)
        scores.setdefault(method, {})[score] = torch.from_numpy(values)
    failed = _failed(table[REFUSED].to_pylist())
    same = _same(table[TWINS].combine_chunks(), methods, failed, len(table))
    kept = {method: of for method, of in scores.items() if method not in failed and method not in same}
    if not set(kept) - set(BASELINES):
        raise InputError(f"no method runs on this model: {'; '.join(f'{n}: {r}' for n, r in failed.items())}")
    better = {score: METRICS[score].better for score in next(iter(scores.values()))}
    evaluation = Evaluation(kept, better, {"samples": len(table), **setting})
    return Contest(evaluation, failed, same, {}, BASELINES, confidence, resamples)


def _failed(refused: Sequence[Sequence[str]]) -> dict[str, str]:
    """Method -> why it does not count: one that cannot explain some of the samples is not compared on the others."""
    reasons: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for each in refused:
        for text in each:
            name, _, reason = text.partition(": ")
            reasons.setdefault(name, reason)
            counts[name] += 1
    return {
        name: reason if counts[name] == len(refused) else f"{counts[name]} of {len(refused)} samples: {reason}"
        for name, reason in reasons.items()
    }


def _same(twins: Any, methods: Sequence[str], failed: Mapping[str, str], samples: int) -> dict[str, str]:
    """Method -> the first earlier one that has the same relevance of all samples, and is no twin itself."""
    flat = twins.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    counts = Counter(map(tuple, flat.tolist()))
    found: dict[str, str] = {}
    for later, name in enumerate(methods):
        for earlier in range(len(BASELINES), later):
            other = methods[earlier]
            if counts[later, earlier] == samples and not {name, other} & failed.keys() and other not in found:
                found[name] = other
                break
    return found


def _made(make: Make) -> Method | str:
    """A method, or why there is none."""
    try:
        return make()
    except Exception as error:  # other libraries raise whatever they raise
        return without_addresses(reason_of(error))
