"""The metrics that `evaluate` knows by name, each a value: which way is better, and a function of a case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from relprop.analyzers import Analyzer
from relprop.errors import InputError
from relprop.evaluation import complexity, localization, randomization
from relprop.evaluation.occlusion import Curves, Occluder
from relprop.evaluation.stability import Sensitivity, sensitivity
from relprop.evaluation.subject import Inputs, Subject
from relprop.explanations.explanation import Explanation
from relprop.targets import Target

Explain = Callable[[nn.Module, Inputs, Target], Tensor]
"""Another library's method: (model, inputs, target) -> relevance of the input that is occluded, (B, ...)."""

Method = Analyzer | Explain | Tensor
"""An analyzer, a function, or relevance that is there already."""


@dataclass(frozen=True, eq=False)
class Case:
    """One method's relevance of a batch, and all that metrics may ask about it.

    Attributes:
        method: what explains.
        occluder: the model, its inputs, groups, fill.
        masks: where relevance should lie, bool, (B, *places).
        seed: of what is random.
    """

    method: Method
    occluder: Occluder
    masks: Tensor | None = None
    seed: int = 0

    @property
    def subject(self) -> Subject:
        """The model and its inputs."""
        return self.occluder.subject

    @cached_property
    def relevance(self) -> Tensor:
        """Of the input that is occluded, (B, ...)."""
        return relevance_of(self.method, self.subject, batch=self.occluder.batch)

    @cached_property
    def at_places(self) -> Tensor:
        """Signed relevance of each place, (B, *places)."""
        return self.occluder.groups.at_places(self.relevance)

    @cached_property
    def curves(self) -> Curves:
        """Most and least influential first."""
        return self.occluder.curves(self._ranks)

    @cached_property
    def erased(self) -> Mapping[str, Tensor]:
        """Comprehensiveness and sufficiency."""
        return self.occluder.erased(self._ranks)

    @cached_property
    def _ranks(self) -> Tensor:
        return self.occluder.ranks(self.relevance)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """To small changes of the input; NaN for relevance that was given."""
        if isinstance(self.method, Tensor):
            return Sensitivity(self._nan[None])
        subject, method, batch = self.subject, self.method, self.occluder.batch
        return sensitivity(lambda x: relevance_of(method, subject, x=x, batch=batch), subject.x, seed=self.seed)

    def of_model(self, model: nn.Module) -> Tensor:
        """Relevance by the same method of another model, at places."""
        subject, batch = self.subject, self.occluder.batch
        return self.occluder.groups.at_places(relevance_of(self.method, subject, model=model, batch=batch))

    def emprt(self) -> Tensor:
        """Of the shuffled model; NaN for relevance that was given."""
        if isinstance(self.method, Tensor):
            return self._nan
        random = self.of_model(randomization.randomized(self.subject.model, seed=self.seed))
        return randomization.emprt(self.at_places, random)

    def bottom_up(self) -> Tensor:
        """Mean similarity while modules are shuffled from below; NaN for relevance that was given."""
        if isinstance(self.method, Tensor):
            return self._nan
        subject = self.subject
        modules = randomization.modules_from_below(subject.model, subject.call)
        return randomization.bottom_up(self.of_model, subject.model, modules, seed=self.seed).mean

    def known(self) -> Tensor:
        """The masks.

        Raises:
            InputError: there are none.
        """
        if self.masks is None:
            raise InputError("This metric needs masks=, bool of shape (B, *places): where relevance should lie.")
        return self.masks

    @property
    def _nan(self) -> Tensor:
        return torch.full((len(self.subject),), torch.nan, dtype=torch.float64)


@dataclass(frozen=True)
class Metric:
    """A number for each sample.

    Attributes:
        name: the head of its column.
        function: a case -> (B,).
        better: which way; None: it tells no good from bad.
    """

    name: str
    function: Callable[[Case], Tensor]
    better: Literal["higher", "lower"] | None = "higher"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("srg", lambda case: case.curves.srg),
        Metric("relative_srg", lambda case: case.curves.relative_srg),
        Metric("abpc", lambda case: case.curves.abpc),
        Metric("aopc", lambda case: case.curves.aopc),
        Metric("insertion", lambda case: case.curves.insertion),
        Metric("deletion", lambda case: case.curves.deletion, "lower"),
        Metric("comprehensiveness", lambda case: case.erased["comprehensiveness"]),
        Metric("sufficiency", lambda case: case.erased["sufficiency"], "lower"),
        Metric("mass", lambda case: localization.mass_accuracy(case.at_places, case.known())),
        Metric("rank", lambda case: localization.rank_accuracy(case.at_places, case.known())),
        Metric("pointing", lambda case: localization.pointing_game(case.at_places, case.known())),
        Metric("entropy", lambda case: complexity.entropy(case.at_places), None),
        Metric("gini", lambda case: complexity.gini(case.at_places), None),
        Metric("effective", lambda case: complexity.effective_complexity(case.at_places), None),
        Metric("max_sensitivity", lambda case: case.sensitivity.max, "lower"),
        Metric("mean_sensitivity", lambda case: case.sensitivity.mean, "lower"),
        Metric("emprt", lambda case: case.emprt()),
        Metric("bottom_up", lambda case: case.bottom_up(), "lower"),
    )
}
"""By name."""

OF_RELEVANCE_ALONE = METRICS.keys() - {"max_sensitivity", "mean_sensitivity", "emprt", "bottom_up"}
"""Methods with the same relevance have the same of these; the others ask the method again."""

WITH_CURVES = {"srg", "relative_srg", "abpc", "aopc", "insertion", "deletion"}


def as_metrics(metrics: Sequence[str | Metric] | None, *, masks: bool) -> list[Metric]:
    """Metrics by name or as they are; None: SRG, comprehensiveness and Gini index, and localization with masks.

    Raises:
        InputError: an unknown name.
    """
    if metrics is None:
        metrics = ["srg", "comprehensiveness", "gini", *(["mass", "rank", "pointing"] if masks else [])]
    metrics = [metrics] if isinstance(metrics, (str, Metric)) else list(metrics)
    unknown = [m for m in metrics if not isinstance(m, Metric) and m not in METRICS]
    if unknown:
        raise InputError(f"unknown metrics {unknown}; choose among {', '.join(METRICS)}, or give a Metric.")
    return [m if isinstance(m, Metric) else METRICS[m] for m in metrics]


def of_relevance_alone(metrics: Sequence[Metric]) -> bool:
    """Whether methods with the same relevance have the same scores; a metric of one's own may look at more."""
    return all(METRICS.get(m.name) is m and m.name in OF_RELEVANCE_ALONE for m in metrics)


def relevance_of(
    method: Method, subject: Subject, *, x: Tensor | None = None, model: nn.Module | None = None, batch: int = 64
) -> Tensor:
    """Relevance of the input that is changed, (B, ...), of the subject's targets.

    Args:
        method: what explains.
        subject: the model and its inputs.
        x: other values of that input.
        model: another model.
        batch: samples that are explained at once.
    """
    if isinstance(method, Tensor):
        return method
    if isinstance(method, Analyzer) and model is not None:
        method = method.on(model)
    found = []
    for rows in torch.split(torch.arange(len(subject)), batch):
        inputs, target = subject.of(slice(int(rows[0]), int(rows[-1]) + 1), x)
        if isinstance(method, Analyzer):
            found.append(_of_input(method.explain(inputs, target=target), subject.key))
        else:
            found.append(method(model or subject.model, inputs, target))
    return torch.cat(found).detach()


def _of_input(explanation: Explanation, key: str | int) -> Tensor:
    if isinstance(key, str):
        if key not in explanation.by_input:
            raise InputError(f"There is no relevance of the input {key!r}, only of {list(explanation.by_input)}.")
        return explanation.by_input[key]
    several = explanation.relevance
    return several if isinstance(several, Tensor) else several[key]
