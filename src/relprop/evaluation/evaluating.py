"""Explanations held against each other, and against chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers import Analyzer
from relprop.analyzers.augmentation import Augmentation
from relprop.errors import InputError
from relprop.evaluation.fills import Fill, as_fill, fill_for
from relprop.evaluation.groups import Groups, groups_for
from relprop.evaluation.metrics import WITH_CURVES, Case, Method, Metric, as_metrics
from relprop.evaluation.occlusion import Curves, Occluder
from relprop.evaluation.progress import bar
from relprop.evaluation.result import Evaluation
from relprop.evaluation.subject import Inputs, Subject, Track
from relprop.targets import TargetLike


def evaluate(
    analyzers: Method | Mapping[str, Method],
    inputs: Inputs,
    targets: TargetLike = None,
    metrics: Sequence[str | Metric] | None = None,
    masks: Any = None,
    *,
    groups: Groups | None = None,
    fill: Fill | Callable[[Tensor, Tensor], Tensor] | float | Tensor | None = None,
    track: Track = "logit",
    steps: int = 25,
    baselines: Sequence[str] = ("random", "centre"),
    changed: str | int | None = None,
    model: nn.Module | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Score explanations of a batch by several metrics.

    Every method explains the same entry of the output, the target's for the unchanged inputs. The answer does not
    depend on `batch`, and repeats.

    Args:
        analyzers: a method, or several by name: analyzers, functions `(model, inputs, target) -> relevance`, or
            relevance (B, ...) itself.
        inputs: of the model, in one object: a tensor, a tuple, or a dict of keyword inputs.
        targets: as in an analyzer's call.
        metrics: names of `relprop.evaluation.METRICS`, or metrics of your own. None: SRG, comprehensiveness, the Gini
            index, and with masks mass and rank accuracy and the pointing game.
        masks: where relevance should lie, bool, (B, *places).
        groups: what is occluded together. None: patches of a 16th of a picture, tokens, or features.
        fill: what takes its place: a `Fill`, a number or tensor, or a function (inputs, hidden) -> inputs. None: the
            blurred picture, else 0.
        track: the value that is looked at: `"logit"`, `"probability"`, or a function of the outputs.
        steps: points of a curve behind its first.
        baselines: rows beside those of the methods: `"random"` relevance, and a `"centre"` prior.
        changed: which of several inputs is occluded, by name or number. None: the first.
        model: what is asked, where no method is an analyzer.
        batch: inputs that the model is given at once.
        seed: of all that is random.
        progress: show a bar.

    Raises:
        InputError: methods of different models, unknown metrics, masks that do not fit.

    Examples:
        A linear model, and the one explanation that is right:

        >>> import torch
        >>> from relprop import LRP, evaluate
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> model.weight.data = torch.tensor([[4.0, -2.0, 1.0, 0.0]])
        >>> found = evaluate({"LRP": LRP(model)}, torch.ones(1, 4), 0, ["srg"], baselines=())
        >>> round(found.mean("LRP", "srg"), 3)  # LIF 3, 5, 5, 4, 0 and MIF 3, -1, -2, -2, 0: (15.5 + 3.5) / 4
        4.75
    """
    methods = dict(analyzers) if isinstance(analyzers, Mapping) else {type(analyzers).__name__: analyzers}
    chosen = as_metrics(metrics, masks=masks is not None)
    asked = _model_of(methods, model)
    first = next(iter(_analyzers(methods)), None)
    output, classes = (None, None) if first is None else (first._output, first._classes)
    subject = Subject(asked, inputs, targets, track, changed, output, classes)
    occluder = occluder_of(subject, groups, fill, steps, batch, seed)
    marked = None if masks is None else torch.as_tensor(masks, device=subject.x.device).bool()
    cases = {
        name: Case(method, occluder, marked, seed)
        for name, method in (methods | made_baselines(baselines, occluder)).items()
    }
    scores: dict[str, dict[str, Tensor]] = {name: {} for name in cases}
    curves: dict[str, Curves] = {}
    with bar(progress) as shown:
        task = shown.add_task("evaluate", total=len(cases) * len(chosen))
        for name, case in cases.items():
            for metric in chosen:
                scores[name][metric.name] = metric.function(case).detach().double().cpu()
                shown.advance(task)
            if any(metric.name in WITH_CURVES for metric in chosen):
                curves[name] = case.curves
    return Evaluation(scores, {m.name: m.better for m in chosen}, setting_of(occluder), curves)


def _model_of(methods: Mapping[str, Method], model: nn.Module | None) -> nn.Module:
    if not methods:
        raise InputError("There is nothing to evaluate: give at least one method.")
    analyzers = _analyzers(methods)
    if model is None and not analyzers:
        raise InputError("No method is an analyzer: say by model= which model is explained.")
    sources = {id(a._source): a for a in analyzers}
    if len(sources) > 1 or len({a._strip for a in analyzers}) > 1:
        raise InputError("The analyzers explain different models; scores of one evaluation are of one model.")
    return analyzers[0].explained if model is None else model


def _analyzers(methods: Mapping[str, Method]) -> list[Analyzer]:
    """Those among the methods; of means over another analyzer's answers, that one."""
    found = []
    for method in methods.values():
        while isinstance(method, Augmentation):
            method = method.analyzer
        if isinstance(method, Analyzer):
            found.append(method)
    return found


def occluder_of(
    subject: Subject,
    groups: Groups | None,
    fill: Fill | Callable[[Tensor, Tensor], Tensor] | float | Tensor | None,
    steps: int,
    batch: int,
    seed: int,
) -> Occluder:
    """The occluder of `evaluate`'s arguments, with what suits the input where they are None."""
    x = subject.x
    chosen = fill_for(x) if fill is None else as_fill(fill)
    return Occluder(subject, groups or groups_for(x), chosen, steps, batch, seed)


def made_baselines(baselines: Sequence[str], occluder: Occluder) -> dict[str, Tensor]:
    """Relevance at places that knows nothing of the model."""
    places = (len(occluder.subject), *occluder.labels.shape[1:])
    known = {"random": _random, "centre": _centre}
    unknown = set(baselines) - set(known)
    if unknown:
        raise InputError(f"unknown baselines {sorted(unknown)}; choose among {', '.join(known)}.")
    return {name: known[name](places, occluder.seed).to(occluder.labels.device) for name in baselines}


def _random(places: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(places, generator=torch.Generator().manual_seed(seed))


def _centre(places: tuple[int, ...], seed: int) -> Tensor:
    """Falls from 1 in the middle of the input to 0 in its corners."""
    squares = torch.zeros(places[1:])
    for axis, size in enumerate(places[1:]):
        away = (2 * torch.arange(size) - (size - 1)) / max(size - 1, 1)
        squares = squares + away.reshape(-1, *[1] * (len(places) - axis - 2)) ** 2
    return (1 - (squares / max(len(places) - 1, 1)).sqrt()).expand(places)


def setting_of(occluder: Occluder) -> dict[str, Any]:
    """What was asked, for the result."""
    track = occluder.subject.track
    return {
        "samples": len(occluder.subject),
        "groups": repr(occluder.groups),
        "fill": f"{type(occluder.fill).__name__}(...)" if _holds_tensor(occluder.fill) else repr(occluder.fill),
        "track": track if isinstance(track, str) else getattr(track, "__name__", "own"),
        "steps": len(occluder.fractions) - 1,
        "seed": occluder.seed,
    }


def _holds_tensor(fill: Fill) -> bool:
    return any(isinstance(value, Tensor) for value in vars(fill).values())
