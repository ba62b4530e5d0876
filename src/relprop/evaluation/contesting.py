"""Methods against each other on one model: composites, other analyzers, Captum's methods, and what knows no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError, RelpropError
from relprop.evaluation.entrants import Entrant, Ground, Make, entrants
from relprop.evaluation.evaluating import made_baselines, occluder_of, setting_of
from relprop.evaluation.fills import Fill
from relprop.evaluation.groups import Groups
from relprop.evaluation.metrics import Case, Metric, as_metrics, of_relevance_alone
from relprop.evaluation.occlusion import Curves, Occluder
from relprop.evaluation.progress import bar
from relprop.evaluation.ranking import Contest
from relprop.evaluation.result import Evaluation
from relprop.evaluation.subject import Inputs, Subject, Track
from relprop.targets import TargetLike


def contest(
    model: nn.Module,
    inputs: Inputs,
    targets: TargetLike = None,
    methods: Iterable[Entrant] | Mapping[str, Entrant] | None = None,
    scores: Sequence[str | Metric] | None = None,
    masks: Any = None,
    *,
    groups: Groups | None = None,
    fill: Fill | Callable[[Tensor, Tensor], Tensor] | float | Tensor | None = None,
    track: Track = "logit",
    steps: int = 25,
    baselines: Sequence[str] = ("random", "centre"),
    changed: str | int | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    batch: int = 64,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 2000,
    progress: bool = False,
    **options: Any,
) -> Contest:
    """Rank methods on a batch by scores that `evaluate` knows.

    All explain the same entry of the output of the same samples, and all orders are asked of the same occlusion. A
    method that cannot run on this model says why in a row of its own, and the others go on. The answer repeats, but
    for the seconds.

    Args:
        model: what is explained.
        inputs: of the model, in one object: a tensor, a tuple, or a dict of keyword inputs.
        targets: as in an analyzer's call.
        methods: names, composites, rules, analyzers; a mapping gives names of one's own, and takes functions and
            relevance too. Names are those of composites on the command line, `gradient`, `input-times-gradient`,
            `smoothgrad`, `integrated-gradients`, `gradcam`, `occlusion`, and `captum:NAME`; `composites`,
            `analyzers` and `captum` stand for all of each. None: all three.
        scores: metrics, of which the first ranks. None: SRG, and with masks mass accuracy.
        masks: where relevance should lie, bool, (B, *places).
        groups: as in `evaluate`.
        fill: as in `evaluate`.
        track: as in `evaluate`.
        steps: as in `evaluate`.
        baselines: rows that know nothing of the model.
        changed: which of several inputs is occluded, by name or number. None: the first.
        low: smallest possible value of that input, for the z^B-rule. None: that of each channel in this batch.
        high: largest possible value, likewise.
        batch: inputs that the model is given at once.
        seed: of all that is random.
        confidence: of the intervals.
        resamples: how often the samples are drawn for them.
        progress: show a bar.
        **options: of analyzers, such as `output=` or `classes=`.

    Raises:
        InputError: a method that nobody knows, masks that do not fit, or no method runs on this model.

    Examples:
        >>> import torch
        >>> from relprop.evaluation import contest
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> model.weight.data = torch.tensor([[4.0, -2.0, 1.0, 0.0]])
        >>> x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 0.5, 1.0]])
        >>> contest(model, x, 0, ["zero", "gradient", "gradcam"], baselines=()).ranking()
        ['zero', 'gradient']
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(f"confidence={confidence} must lie between 0 and 1, and resamples={resamples} be at least 1.")
    if scores is None:
        scores = ["srg", *(["mass"] if masks is not None else [])]
    chosen = as_metrics(scores, masks=masks is not None)
    if chosen[0].better is None:
        raise InputError(f"{chosen[0].name!r} tells no good from bad, so it cannot rank.")
    subject = Subject(model, inputs, targets, track, changed, options.get("output"), options.get("classes"))
    occluder = occluder_of(subject, groups, fill, steps, batch, seed)
    ground = Ground(model, subject.x, occluder.groups, low, high, changed, batch, seed, options)
    made = entrants(methods, ground)
    marked = None if masks is None else torch.as_tensor(masks, device=subject.x.device).bool()
    case = partial(Case, occluder=occluder, masks=marked, seed=seed)
    field = _Field(chosen)
    with bar(progress) as shown:
        task = shown.add_task("contest", total=len(made) + len(baselines))
        for name, relevance in made_baselines(baselines, occluder).items():
            field.score(name, case(relevance))  # what is wrong with masks or metrics shows here, for it is no method's
            shown.advance(task)
        for name, make in made.items():
            shown.update(task, description=name)
            field.enter(name, make, case)
            shown.advance(task)
    return field.result(occluder, baselines, confidence, resamples)


class _Field:
    """Methods, as they come in."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.scores: dict[str, dict[str, Tensor]] = {}
        self.curves: dict[str, Curves] = {}
        self.failed: dict[str, str] = {}
        self.same: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._seen: dict[str, Tensor] = {}
        self._of_relevance = of_relevance_alone(metrics)

    def enter(self, name: str, make: Make, case: Callable[..., Case]) -> None:
        start = time.perf_counter()
        try:
            entered = case(make())
            relevance = entered.relevance
            self.seconds[name] = time.perf_counter() - start
            twin = self._twin(relevance)
            if twin is not None:
                self.same[name] = twin
                return
            self.score(name, entered)
            self._seen[name] = unscaled(relevance)
        except Exception as error:  # other libraries raise whatever they raise
            self.scores.pop(name, None)
            self.seconds.pop(name, None)
            self.failed[name] = reason_of(error)

    def score(self, name: str, case: Case) -> None:
        self.scores[name] = {m.name: m.function(case).detach().double().cpu() for m in self.metrics}
        if "curves" in vars(case):
            self.curves[name] = case.curves

    def _twin(self, relevance: Tensor) -> str | None:
        """An earlier method with the same relevance, whose scores are the same."""
        if not self._of_relevance:
            return None
        mine = unscaled(relevance)
        close = (n for n, seen in self._seen.items() if seen.shape == mine.shape and bool(alike(seen, mine).all()))
        return next(close, None)

    def result(self, occluder: Occluder, baselines: Sequence[str], confidence: float, resamples: int) -> Contest:
        if not set(self.scores) - set(baselines):
            raise InputError(f"no method runs on this model: {'; '.join(f'{n}: {r}' for n, r in self.failed.items())}")
        evaluation = Evaluation(
            self.scores, {m.name: m.better for m in self.metrics}, setting_of(occluder), self.curves
        )
        return Contest(evaluation, self.failed, self.same, self.seconds, tuple(baselines), confidence, resamples)


def unscaled(relevance: Tensor) -> Tensor:
    """Each sample by its largest magnitude, which no score of relevance alone looks at."""
    flat = relevance.detach().double().cpu().flatten(1)
    most = flat.abs().amax(1, keepdim=True)
    return flat / torch.where(most > 0, most, 1)


def alike(one: Tensor, other: Tensor) -> Tensor:
    """Which samples have the same relevance by two methods, (B,), of what `unscaled` gives."""
    return (one - other).abs().amax(1) <= 1e-4


def reason_of(error: Exception) -> str:
    """The first line of what an error says, with its kind where it is none of ours."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return text if isinstance(error, RelpropError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
