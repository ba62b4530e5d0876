"""What pages say on whether an explanation can be trusted: occlusion, shuffled weights, and the books."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from relprop.analyzers import Analyzer
from relprop.errors import RelpropError
from relprop.evaluation.evaluating import evaluate
from relprop.evaluation.fills import ZeroEmbedding
from relprop.evaluation.randomization import randomized, rank_correlation
from relprop.evaluation.result import Evaluation
from relprop.explanations.origin import sample_of, scores_of, target_of
from relprop.explanations.report.checks import Curve, Finding, Trust, register_check

STEPS = 16
SIMILAR = 0.5
"""A rank correlation with the shuffled model's explanation that is too much."""
BALANCED = 1e-3
QUESTIONS = (
    "Does the output change most where it says?",
    "Does it depend on what the model has learned?",
    "Is all relevance accounted for?",
)
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
        part = Finding(QUESTIONS[0], "open", said)
        return Trust([part, _conservation(origin, sample, origin.target)])
    args, kwargs = origin.inputs()
    count = len(explanation.relevance if isinstance(explanation.relevance, Tensor) else explanation.relevance[0])
    alone = pytree.tree_map(lambda leaf: sample_of(leaf, sample, count), (tuple(args), kwargs))
    inputs = alone[1] if not alone[0] else alone[0] if len(alone[0]) > 1 else alone[0][0]
    target = target_of(explanation, origin, sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not isinstance(origin.analyzer, Analyzer):
            return _of_a_program(explanation, sample, inputs, target)
        fill = _fill(origin.analyzer.explained, inputs)
        occluded, curves = _occlusion(origin.analyzer, inputs, target, fill=fill)
        return Trust([occluded, _randomization(origin, alone, target), _conservation(origin, sample, target)], curves)


def _of_a_program(explanation: Any, sample: int, inputs: Any, target: Any) -> Trust:
    """What can be asked of a program from a file: its answers to other inputs."""
    learned, books = QUESTIONS[1:]
    said = "Not measured: the weights of a program in a file cannot be shuffled. The analyzer that wrote it says."
    findings = [Finding(learned, "open", said), Finding(books, "open", "A program in a file keeps no books.")]
    scores, own = scores_of(explanation.output), explanation.relevance
    one = isinstance(inputs, Tensor) and isinstance(own, Tensor) and explanation.amount is not None
    if not one or scores is None or scores.dim() < 2:
        said = "Not measured: a program in a file says that of one input and one entry of its output only."
        return Trust([Finding(QUESTIONS[0], "open", said), *findings])
    program = explanation.origin.analyzer.explained
    occluded, curves = _occlusion(own[sample : sample + 1], inputs, target, model=program)
    return Trust([occluded, *findings], curves)


def _occlusion(method: Any, inputs: Any, target: Any, **options: Any) -> tuple[Finding, list[Curve]]:
    question = QUESTIONS[0]
    try:
        found = evaluate({"own": method}, inputs, target, ["srg"], steps=STEPS, **options)
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
    question = QUESTIONS[1]
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
    question = QUESTIONS[2]
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
