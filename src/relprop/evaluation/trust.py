"""What pages say on whether an explanation can be trusted: occlusion, shuffled weights, and the books."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.errors import RelpropError
from relprop.evaluation.evaluating import evaluate
from relprop.evaluation.fills import ZeroEmbedding
from relprop.evaluation.randomization import randomized, rank_correlation
from relprop.evaluation.result import Evaluation
from relprop.explanations.origin import target_of
from relprop.explanations.report.checks import Curve, Finding, Trust, register_check

STEPS = 16
SIMILAR = 0.5
"""A rank correlation with the shuffled model's explanation that is too much."""
BALANCED = 1e-3
NAMES: dict[str, Any] = {"own": "this explanation", "random": "at random", "centre": "the middle"}


@register_check
def trust(explanation: Any, sample: int = 0) -> Trust:
    """Whether hiding what an explanation names changes the output, other weights change it, and its books balance.

    Args:
        explanation: of a batch, as an analyzer returned it.
        sample: which of the batch.

    Returns:
        Three findings, and the curves of occlusion beside those of chance and of the middle.
    """
    origin = explanation.origin
    if origin is None:
        return Trust([Finding("Was it checked?", "open", "No: it comes from a file, without its model.")])
    if origin.part():
        said = "Not measured: it explains a part of the model, by start= or conditions=."
        part = Finding("Does the output change most where it says?", "open", said)
        return Trust([part, _conservation(origin, sample, origin.target)])
    args, kwargs = origin.inputs()
    count = len(explanation.relevance if isinstance(explanation.relevance, Tensor) else explanation.relevance[0])
    alone = pytree.tree_map(lambda leaf: _row(leaf, sample, count), (tuple(args), kwargs))
    inputs = alone[1] if not alone[0] else alone[0] if len(alone[0]) > 1 else alone[0][0]
    target = target_of(explanation, origin, sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        occluded, curves = _occlusion(origin.analyzer, inputs, target)
        return Trust([occluded, _randomization(origin, alone, target), _conservation(origin, sample, target)], curves)


def _row(leaf: Any, sample: int, count: int) -> Any:
    whole = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
    return leaf[sample : sample + 1] if whole else leaf


def _occlusion(analyzer: Any, inputs: Any, target: Any) -> tuple[Finding, list[Curve]]:
    question = "Does the output change most where it says?"
    try:
        found = evaluate(
            {"own": analyzer}, inputs, target, ["srg"], steps=STEPS, fill=_fill(analyzer.explained, inputs)
        )
    except (RelpropError, RuntimeError, TypeError) as error:
        return Finding(question, "open", f"Not measured: {error}"), []
    own, chance, middle = (found.mean(name, "srg") for name in NAMES)
    said = (
        f"The gain over hiding the least important first (SRG) is {own:.3g}; at random it is {chance:.3g}, and "
        f"{middle:.3g} where only the middle counts. Hidden are {found.setting['groups']}, by {found.setting['fill']}."
    )
    return Finding(question, "passes" if own > max(chance, middle) else "fails", said), _curves(found)


def _fill(model: nn.Module, inputs: Any) -> ZeroEmbedding | None:
    """Token ids are hidden by the embedding 0; all else by what suits it."""
    leaves = pytree.tree_leaves(inputs)
    if any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        return None
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return ZeroEmbedding(found[0]) if found else None


def _curves(found: Evaluation) -> list[Curve]:
    lines = []
    for kind, name in NAMES.items():
        curves = found.curves[kind]
        x = curves.fractions.tolist()
        for y, order in ((curves.mif, "most important first"), (curves.lif, "least important first")):
            lines.append(Curve(f"{name}, {order}", kind, x, y[0].tolist()))  # type: ignore[arg-type]
    return lines


def _randomization(origin: Any, alone: Any, target: Any) -> Finding:
    question = "Does it depend on what the model has learned?"
    try:
        args, kwargs = alone
        own = origin.analyzer(*args, target=target, **kwargs).relevance
        other = origin.analyzer.on(randomized(origin.analyzer.explained))(*args, target=target, **kwargs).relevance
        pair = [each if isinstance(each, Tensor) else each[0] for each in (own, other)]
        similar = float(rank_correlation(pair[0].detach(), pair[1].detach()))
    except (RelpropError, RuntimeError, TypeError) as error:
        return Finding(question, "open", f"Not measured: {error}")
    said = f"With shuffled weights, relevance has a rank correlation of {similar:.2f} with this one."
    return Finding(question, "passes" if similar < SIMILAR else "fails", said)


def _conservation(origin: Any, sample: int, target: Any) -> Finding:
    question = "Is all relevance accounted for?"
    if "audit" not in origin.analyzer.OPTIONS:
        return Finding(question, "open", f"{type(origin.analyzer).__name__} keeps no books.")
    try:
        ledger = origin.ask(target, sample, audit=True).ledger
    except RelpropError as error:
        return Finding(question, "open", f"Not looked at: {error}")
    said = f"The worst account is off by {ledger.imbalance:.1e} of what came to it."
    if ledger.trouble:
        return Finding(question, "fails", f"{said} {ledger.trouble}")
    return Finding(question, "passes" if ledger.imbalance < BALANCED else "fails", said)
