"""A composite for one model, searched for by a score: γ, ε, bias policy, by depth."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relprop.analyzers import LRP
from relprop.composites import Composite, recommended
from relprop.errors import InputError, MissingExtraError, RelpropError
from relprop.evaluation.evaluating import evaluate, occluder_of
from relprop.evaluation.fills import Fill
from relprop.evaluation.groups import Groups
from relprop.evaluation.metrics import Case, Metric, as_metrics
from relprop.evaluation.occlusion import Occluder
from relprop.evaluation.progress import bar
from relprop.evaluation.ranking import Contest
from relprop.evaluation.spaces import Space, space_for
from relprop.evaluation.subject import Inputs, Subject, Track
from relprop.evaluation.tuned import RECOMMENDED, TUNED, Tried, Tuned
from relprop.targets import TargetLike

STUDY = "relprop"
DATABASES = (".db", ".sqlite", ".sqlite3")


def tune(
    model: nn.Module,
    inputs: Inputs,
    targets: TargetLike = None,
    score: str | Metric = "srg",
    masks: Any = None,
    *,
    space: Space | None = None,
    trials: int = 40,
    held_out: float = 0.5,
    storage: str | Path | None = None,
    groups: Groups | None = None,
    fill: Fill | Callable[[Tensor, Tensor], Tensor] | float | Tensor | None = None,
    track: Track = "logit",
    steps: int = 25,
    changed: str | int | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Tuned:
    """Search a composite for a model, by a score on some samples, and say what it gains on the others.

    Optuna's TPE searches, and starts where a preset starts. What it says of itself is too good, for it has been chosen
    by those samples; what it gains over `recommended(model)` on those held out counts. With a storage, a search that
    was killed goes on where it was, and finds what it would have found.

    Args:
        model: what is explained.
        inputs: of the model, in one object: a tensor, a tuple, or a dict of keyword inputs.
        targets: as in an analyzer's call.
        score: a metric that tells good from bad.
        masks: where relevance should lie, bool, (B, *places).
        space: what is searched. None: γ by depth, ε, bias policy and γ of residual sums, as suits the model.
        trials: how many composites are tried.
        held_out: the share of the samples that the search does not see, drawn by the seed.
        storage: a file that keeps the search: a SQLite database if it ends in .db or .sqlite, else a journal. None:
            memory.
        groups: as in `evaluate`.
        fill: as in `evaluate`.
        track: as in `evaluate`.
        steps: as in `evaluate`.
        changed: as in `evaluate`.
        batch: inputs that the model is given at once.
        seed: of all that is random.
        progress: show a bar.
        **options: of `LRP`, such as `output=`.

    Raises:
        InputError: too few samples, or the storage holds another search.
        MissingExtraError: Optuna is missing.
    """
    optuna = _optuna()
    (metric,) = as_metrics([score], masks=masks is not None)
    if metric.better is None or trials < 1 or not 0 < held_out < 1:
        raise InputError(
            f"tune needs a score that tells good from bad, trials >= 1 and 0 < held_out < 1; got {metric.name!r}, "
            f"trials={trials}, held_out={held_out}."
        )
    space = space_for(model) if space is None else space
    whole = Subject(model, inputs, targets, track, changed, options.get("output"), options.get("classes"))
    search, rest = _split(len(whole), held_out, seed)
    shared = {"track": track, "changed": changed, "groups": groups, "fill": fill, "steps": steps, "batch": batch}
    part = _Part(model, whole, masks, search, shared, seed, options)
    objective = _Objective(space, metric, part)
    asked = _asked(space, metric, part, seed)
    study = _study(optuna, storage, metric, asked)
    with _quiet(optuna), bar(progress) as shown:
        task = shown.add_task("tune", total=trials, completed=min(_done(study), trials))
        while _done(study) < trials:
            number = _done(study)
            if number == 0 and not any(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
                study.enqueue_trial(space.first())
            # Each trial draws by its own number, so that a search that goes on does not draw the first ones again.
            study.sampler = optuna.samplers.TPESampler(seed=100_003 * seed + number)
            study.optimize(objective, n_trials=1)
            shown.advance(task)
    return _result(study, metric, space, part, _Part(model, whole, masks, rest, shared, seed, options))


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the samples."""

    model: nn.Module
    whole: Subject
    masks: Any
    rows: Tensor
    shared: Mapping[str, Any]
    seed: int
    options: Mapping[str, Any]

    @property
    def masked(self) -> Tensor | None:
        return None if self.masks is None else torch.as_tensor(self.masks, device=self.whole.x.device).bool()[self.rows]

    def occluder(self) -> Occluder:
        inputs, target = self.whole.of(self.rows)
        s, whole = self.shared, self.whole
        subject = Subject(self.model, inputs, target, s["track"], s["changed"], whole.output, whole.classes)
        return occluder_of(subject, s["groups"], s["fill"], s["steps"], s["batch"], self.seed)

    def contest(self, composite: Composite, metric: Metric) -> Contest:
        inputs, target = self.whole.of(self.rows)
        made = {TUNED: composite, RECOMMENDED: recommended(self.model)}
        methods = {name: LRP(self.model, each, **self.options) for name, each in made.items()}
        return Contest(
            evaluate(methods, inputs, target, [metric], self.masked, baselines=(), seed=self.seed, **self.shared)
        )


class _Objective:
    """A trial -> its mean score."""

    def __init__(self, space: Space, metric: Metric, part: _Part) -> None:
        self.space, self.metric, self.part = space, metric, part
        self.occluder, self.masks = part.occluder(), part.masked

    def __call__(self, trial: Any) -> float:
        parameters = self.space.suggest(trial)
        trial.set_user_attr("parameters", json.dumps(parameters))
        try:
            lrp = LRP(self.part.model, self.space.preset(**parameters), **self.part.options)
            scores = self.metric.function(Case(lrp, self.occluder, self.masks, self.part.seed))
        except RelpropError as error:  # such as relevance that is not finite
            raise _optuna().TrialPruned(str(error)) from error
        mean = float(scores[~scores.isnan()].mean())
        if math.isnan(mean):
            raise _optuna().TrialPruned(f"no sample has a {self.metric.name}")
        return mean


def _split(samples: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of the search, and the others, each in order."""
    rest = round(held_out * samples)
    if rest < 2 or samples - rest < 2:
        raise InputError(
            f"held_out={held_out} of {samples} samples leaves {samples - rest} to search by and {rest} to say what was "
            "gained; both need 2."
        )
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return order[rest:].sort().values, order[:rest].sort().values


def _study(optuna: Any, storage: str | Path | None, metric: Metric, asked: Mapping[str, Any]) -> Any:
    """The search in the storage, or a new one.

    Raises:
        InputError: the storage holds a search for something else.
    """
    direction = "maximize" if metric.better == "higher" else "minimize"
    with _quiet(optuna):
        kept = _storage(optuna, storage)
        study = optuna.create_study(storage=kept, study_name=STUDY, direction=direction, load_if_exists=True)
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", dict(asked))
    elif known != dict(asked):
        other = [name for name in asked if known.get(name) != asked[name]]
        raise InputError(f"{storage} holds a search with another {' and '.join(other)}: give another file.")
    return study


def _storage(optuna: Any, storage: str | Path | None) -> Any:
    if storage is None:
        return None
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in DATABASES:
        return f"sqlite:///{path}"
    journal = optuna.storages.journal
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))


def _done(study: Any) -> int:
    """Trials that have ended; of one that was running when its process died nothing is known."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _asked(space: Space, metric: Metric, part: _Part, seed: int) -> dict[str, Any]:
    """What makes a search another one, but for how long it is."""
    occluder = part.occluder()
    setting = {name: str(part.shared[name]) for name in ("track", "steps", "changed")}
    return {
        "model": _digest(part.model.state_dict().values()),
        "samples": _digest([occluder.subject.x, part.rows]),
        "score": metric.name,
        "space": str(space),
        "seed": seed,
        "setting": {"groups": repr(occluder.groups), "fill": type(occluder.fill).__name__, **setting},
    }


def _digest(tensors: Any) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _result(study: Any, metric: Metric, space: Space, part: _Part, rest: _Part) -> Tuned:
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]
    tried = [Tried(_read(t.user_attrs["parameters"]), t.value if t.state.name == "COMPLETE" else None) for t in ended]
    if all(t.score is None for t in tried):
        raise InputError(f"none of {len(tried)} composites runs on this model: give another space.")
    sign = 1.0 if metric.better == "higher" else -1.0
    best = max((t for t in tried if t.score is not None), key=lambda t: sign * (t.score or 0.0))
    composite = space.preset(**best.parameters)
    start = recommended(part.model)
    return Tuned(
        composite,
        composite.name,
        best.parameters,
        tried,
        part.contest(composite, metric),
        rest.contest(composite, metric),
        start.name or repr(start.default_rule),
    )


def _read(text: str) -> dict[str, Any]:
    """Parameters as JSON has them, with pairs in the place of lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("tune needs Optuna: pip install 'relprop[tune]'") from error
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna says something for each trial; what it says is what the caller wants it to, afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
