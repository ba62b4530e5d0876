"""The job of `relprop explain --text`: explain each sentence of a plan, and write what comes out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor

from relprop.errors import RelpropError
from relprop.explanations.explanation import Explanation
from relprop.explanations.files import replacing
from relprop.explanations.ledger import Ledger
from relprop.explanations.text import ExplainedText, save_page
from relprop.jobs.pictures import save_relevance
from relprop.jobs.text_plan import ALL, Sentence, TextOutputs, TextPlan

FORGOTTEN = 5e-4  # sinks with less of all relevance that was kept or arrived are not named
LARGE = 1e3  # times the output: relevance that cancels to that extent means nothing


@dataclass(frozen=True)
class Books:
    """One sentence's accounts: `output` is what the tokens got plus what the sinks kept."""

    output: float
    tokens: float
    sinks: Mapping[str, float]
    imbalance: float

    @classmethod
    def of(cls, ledger: Ledger) -> Books:
        """The accounts of a ledger of one sentence."""
        return cls(ledger.output, ledger.input, ledger.sinks, ledger.imbalance)

    def __str__(self) -> str:
        parts = {"tokens": self.tokens, **self.sinks}
        enough = FORGOTTEN * sum(abs(amount) for amount in parts.values())
        named = [(name, amount) for name, amount in parts.items() if name == "tokens" or abs(amount) > enough]
        (_, first), *others = named
        sums = "".join(
            f" {'-' if amount < 0 else '+'} {name.replace('_', ' ')} {abs(amount):.3g}" for name, amount in others
        )
        return f"{self.output:.4g} = tokens {first:.3g}{sums}"


@dataclass(frozen=True, eq=False)
class TextResult:
    """What is known about one sentence after its explanation."""

    sentence: Sentence
    outputs: TextOutputs
    explained: ExplainedText
    target: int | None
    target_name: str
    output: float
    books: Books


def explain_texts(plan: TextPlan) -> Iterator[TextResult]:
    """Explain sentences one by one, write three files for each target of each, and yield a result for each.

    Raises:
        RelpropError: the model cannot be explained, or a file cannot be written.
    """
    for sentence in plan.sentences:
        inputs = sentence.inputs["input_ids"], sentence.inputs["attention_mask"]
        for k, explanation in enumerate(plan.lrp.each(*inputs, targets=plan.targets, audit=True)):
            yield _explained(plan, sentence, k, explanation)


def _explained(plan: TextPlan, sentence: Sentence, k: int, explanation: Explanation) -> TextResult:
    """Write the files of one of the targets."""
    assert isinstance(explanation.relevance, Tensor)  # token ids are the only input that carries relevance
    assert explanation.ledger is not None
    relevance = explanation.relevance[0].cpu()
    _check(sentence, relevance, explanation.ledger, plan)
    index, name = plan.explained(k, explanation.output)
    books = Books.of(explanation.ledger)
    explained = ExplainedText.of(
        plan.loaded.tokenizer,
        sentence.text,
        relevance.double().sum(-1),
        title=f"{name}: {books.output:.4g}",
        notes=(f"{books}. The books balance to {books.imbalance:.0e}.",),
    )
    result = TextResult(sentence, sentence.outputs[k], explained, index, name, books.output, books)
    _write(plan, result, relevance)
    return result


def finish_texts(plan: TextPlan, results: Sequence[TextResult]) -> None:
    """Put all explanations on one page, where there are several.

    Raises:
        RelpropError: the file cannot be written.
    """
    if len(results) > 1:
        save_page(plan.options.out / ALL, [result.explained for result in results], _heading(plan), shared=True)


def _check(sentence: Sentence, relevance: Tensor, ledger: Ledger, plan: TextPlan) -> None:
    other = "cplrp" if plan.options.composite != "cplrp" else "attnlrp-gamma"
    if not relevance.isfinite().all():
        raise RelpropError(f"the relevance of {sentence.text[:40]!r} is not finite; try --composite {other}")
    if abs(ledger.input) > LARGE * abs(ledger.output):
        warnings.warn(
            f"{sentence.text[:40]!r}: the tokens got {ledger.input:.1e} of an output of {ledger.output:.3g}, so nearly "
            f"all of it cancels and colours mean little; try --composite {other}",
            stacklevel=2,
        )


def record(plan: TextPlan, result: TextResult) -> dict[str, Any]:
    """Everything that is known about one of the targets of a sentence, for JSON."""
    explained, books, outputs = result.explained, result.books, result.outputs
    ids = result.sentence.inputs["input_ids"][0].tolist()
    return {
        **_facts(plan, result),
        "files": [file.name for file in (outputs.page, outputs.relevance, outputs.tokens)],
        "relevance_sum": books.tokens,
        "sinks": dict(books.sinks),
        "imbalance": books.imbalance,
        "tokens": [
            {"id": i, "token": p.token, "text": p.text, "before": p.before, "special": p.special, "relevance": r}
            for i, p, r in zip(ids, explained.pieces, explained.relevance, strict=True)
        ],
        "words": [{"text": text, "relevance": r} for text, r in explained.words()],
    }


def _heading(plan: TextPlan) -> str:
    return f"{plan.model_name}, {plan.options.composite}"


def _write(plan: TextPlan, result: TextResult, relevance: Tensor) -> None:
    outputs = result.outputs
    save_page(outputs.page, [result.explained], _heading(plan))
    with replacing(outputs.relevance) as path:
        save_relevance(path, {"relevance": relevance}, {key: str(value) for key, value in _facts(plan, result).items()})
    with replacing(outputs.tokens) as path:
        path.write_text(json.dumps(record(plan, result), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _facts(plan: TextPlan, result: TextResult) -> dict[str, Any]:
    return {
        "relprop": version("relprop"),
        "model": plan.model_name,
        "kind": plan.loaded.kind,
        "composite": plan.options.composite,
        "text": result.sentence.text,
        "target": result.target,
        "target_name": result.target_name,
        "output": result.output,
        "normalize_output": False,
    }
