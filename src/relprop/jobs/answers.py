"""The job of `relprop explain --prompt`: explain the answer to each prompt of a plan, and write what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from relprop.errors import RelpropError
from relprop.explanations.answers import ExplainedAnswer, save_page
from relprop.explanations.answers.page import Shown
from relprop.explanations.files import replacing
from relprop.jobs.answer_plan import AnswerPlan, Question
from relprop.jobs.pictures import save_relevance
from relprop.jobs.text_plan import ALL, TextOutputs


@dataclass(frozen=True, eq=False)
class AnswerResult:
    """What is known about one prompt after its explanation."""

    question: Question
    outputs: TextOutputs
    found: ExplainedAnswer

    def shown(self) -> Shown:
        """What a page shows of it."""
        return self.found.shown(self.question.words.strip()[:200])


def explain_answers(plan: AnswerPlan) -> Iterator[AnswerResult]:
    """Explain answers one by one, write three files for each, and yield a result for each.

    Raises:
        RelpropError: the model cannot be explained, a contrast does not fit, or a file cannot be written.
    """
    options = plan.options
    for question, outputs in zip(options.questions, plan.outputs, strict=True):
        asked = {"contrast": question.contrast, "longest": options.longest, "unit": options.unit}
        found = plan.explainer(question.prompt, question.answer, **asked)  # type: ignore[arg-type]
        if not found.relevance.isfinite().all():
            other = "cplrp" if options.composite != "cplrp" else "attnlrp-gamma"
            raise RelpropError(f"the relevance of {question.words[:40]!r} is not finite; try --composite {other}")
        result = AnswerResult(question, outputs, found)
        _write(plan, result)
        yield result


def finish_answers(plan: AnswerPlan, results: Sequence[AnswerResult]) -> None:
    """Put all answers on one page, where there are several.

    Raises:
        RelpropError: the file cannot be written.
    """
    if len(results) > 1:
        save_page(plan.options.out / ALL, [result.shown() for result in results], _heading(plan))


def record(plan: AnswerPlan, result: AnswerResult) -> dict[str, Any]:
    """Everything that is known about an answer, for JSON."""
    return {**_facts(plan, result), **result.found.record()}


def _heading(plan: AnswerPlan) -> str:
    return f"{plan.model_name}, {plan.options.composite}"


def _facts(plan: AnswerPlan, result: AnswerResult) -> dict[str, Any]:
    contrast = result.question.contrast
    return {
        "relprop": version("relprop"),
        "model": plan.model_name,
        "kind": plan.loaded.kind,
        "composite": plan.options.composite,
        "asked": result.question.prompt,
        "answered": "".join(result.found.answer),
        "given": result.question.answer is not None,
        "contrast": None if contrast is None else {str(place): token for place, token in contrast.items()},
        "unit": plan.options.unit,
    }


def _write(plan: AnswerPlan, result: AnswerResult) -> None:
    outputs = result.outputs
    save_page(outputs.page, [result.shown()], _heading(plan))
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in _facts(plan, result).items()}
    tensors = {name: getattr(result.found, name).cpu() for name in ("relevance", "explained", "probability", "entropy")}
    with replacing(outputs.relevance) as path:
        save_relevance(path, tensors, facts)
    with replacing(outputs.tokens) as path:
        text = json.dumps(record(plan, result), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", "utf-8")
