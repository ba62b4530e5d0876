"""What `relprop explain --prompt` is going to do: everything is checked here, before anything is written."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from relprop.analyzers.answers import AnswerExplainer
from relprop.composites.names import RECOMMENDED, Given, check_composite, make_composite, name_for
from relprop.errors import InputError, ModelError
from relprop.explanations.answers import Unit
from relprop.explanations.shown import encodable
from relprop.jobs.files import check_folder, unique_names
from relprop.jobs.picture_plan import device_named
from relprop.jobs.text_plan import ALL, TextOutputs, slug
from relprop.models import TextModel, load_text

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """A prompt, the answer that is explained (None: what the model says), and what it is explained against.

    `contrast` is by the number of the answer's token.
    """

    prompt: str | Messages
    answer: str | None = None
    contrast: Mapping[int, str] | None = None

    @property
    def words(self) -> str:
        """What was asked: the prompt, or the last message."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]


@dataclass(frozen=True)
class AnswerOptions:
    """The command line's arguments, as they were given."""

    questions: tuple[Question, ...]
    model: str
    out: Path
    composite: str = RECOMMENDED
    unit: Unit = "tokens"
    longest: int = 32
    device: str = "cpu"
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class AnswerPlan:
    """Checked: the model loads and writes text, prompts fit, files can be written."""

    options: AnswerOptions
    loaded: TextModel
    explainer: AnswerExplainer
    outputs: list[TextOutputs]

    @property
    def model_name(self) -> str:
        """The model's name, in characters that any file can hold."""
        return encodable(self.loaded.name)


def make_answer_plan(options: AnswerOptions) -> AnswerPlan:
    """Check everything that can be wrong.

    Raises:
        RelpropError: what is wrong, and what to do about it.
    """
    device = device_named(options.device)
    check_composite(options.composite, "text")
    for question in options.questions:
        _check(question)
    names = unique_names([Path(slug(question.words)) for question in options.questions])
    outputs = [TextOutputs.of(options.out, name) for name in names]
    files = [file for each in outputs for file in (each.page, each.relevance, each.tokens)]
    check_folder(options.out, [*files, options.out / ALL], options.overwrite)
    loaded = load_text(options.model)
    if loaded.kind not in ("causal-lm", "encoder-decoder"):
        raise ModelError(f"{loaded.name} gives no answers, it is a {loaded.kind}: use --text, not --prompt")
    model = loaded.whole.to(device)
    options = replace(options, composite=name_for(options.composite, loaded.model))
    composite = make_composite(options.composite, Given(loaded.model), "text")
    plan = AnswerPlan(options, loaded, AnswerExplainer(model, loaded.tokenizer, composite), outputs)
    for question in options.questions:
        _check_length(plan, question)
    return plan


def read_chats(path: Path) -> list[Question]:
    """The questions of a file: one chat, or several.

    A chat is a list of messages, `{"role": ..., "content": ...}`; if the last one is the assistant's, it is the answer.
    Or it is a record with `messages` or `prompt`, and perhaps `answer` and `contrast`, a text or texts by the number of
    the answer's token. A .jsonl file has one of these a line, a .json file one of them or a list of them.

    Raises:
        InputError: there is no such file, or something else is in it.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"the chat {path} cannot be read: {error}") from error
    found = _lines(text, path) if path.suffix == ".jsonl" else _json(text, f"the chat {path}")
    if isinstance(found, Mapping) or (isinstance(found, list) and found and _is_message(found[0])):
        found = [found]
    if not isinstance(found, list) or not found:
        raise InputError(f"there is no chat in {path}")
    return [_question(each, f"chat {i} of {path}") for i, each in enumerate(found)]


def contrasts(given: Sequence[str]) -> dict[int, str] | None:
    """`TEXT` for the first token of the answer, `N=TEXT` for the N-th, counted from 0.

    Raises:
        InputError: two of them are for one token.
    """
    found: dict[int, str] = {}
    for text in given:
        numbered = re.fullmatch(r"(-?\d+)=(.+)", text, re.DOTALL)
        place, token = (int(numbered[1]), numbered[2]) if numbered else (0, text)
        if place in found:
            raise InputError(f"--contrast has {found[place]!r} and {token!r} for token {place} of the answer; give one")
        found[place] = token
    return found or None


def _lines(text: str, path: Path) -> list[Any]:
    lines = enumerate(text.split("\n"), 1)  # and not at what only looks like the end of a line, within a text
    return [_json(line, f"line {number} of the chats {path}") for number, line in lines if line.strip()]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error


def _question(each: Any, where: str) -> Question:
    record = each if isinstance(each, Mapping) else {"messages": each}
    prompt = record.get("prompt", record.get("messages"))
    if not isinstance(prompt, str) and not _is_chat(prompt):
        hint = "; the content of a message has to be a text" if _has_parts(prompt) or _has_parts([each]) else ""
        raise InputError(
            f'{where} is no list of messages {{"role": ..., "content": ...}} and no record that has one{hint}'
        )
    answer, contrast = record.get("answer"), record.get("contrast")
    if not (answer is None or isinstance(answer, str)):
        raise InputError(f"{where}: answer is {answer!r}, and has to be a text")
    if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
        answer, prompt = (prompt[-1]["content"] if answer is None else answer), prompt[:-1]
    if not prompt:
        raise InputError(
            f"{where} has {'nothing to explain' if answer is None else 'an answer, but nothing before it'}"
        )
    if isinstance(contrast, str):
        contrast = {0: contrast}
    try:
        contrast = {int(place): str(token) for place, token in contrast.items()} if contrast else None
    except (AttributeError, ValueError) as error:
        raise InputError(f"{where}: contrast is {contrast!r}, not a text and not texts by number of token") from error
    return Question(prompt, answer, contrast)


def _is_chat(each: Any) -> TypeGuard[Messages]:
    return isinstance(each, list) and bool(each) and all(_is_message(message) for message in each)


def _has_parts(each: Any) -> bool:
    """A chat whose messages consist of parts, as those with pictures do."""
    return isinstance(each, list) and any(isinstance(m, Mapping) and isinstance(m.get("content"), list) for m in each)


def _is_message(each: Any) -> bool:
    return isinstance(each, Mapping) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)


def _check(question: Question) -> None:
    texts = [question.prompt] if isinstance(question.prompt, str) else [m["content"] for m in question.prompt]
    for text in [*texts, question.answer or ""]:
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"the text {text!a} is not valid Unicode; is it UTF-8?")
    if not question.words.strip():
        raise InputError(f"the prompt {question.words!r} has no tokens to explain")
    together = isinstance(question.prompt, str) and question.answer and question.prompt[-1] + question.answer[0]
    if together and together.isalnum():
        warnings.warn(
            f"the answer {question.answer!r} follows {question.prompt[-12:]!r} without a space; with one it would be "
            f"{' ' + str(question.answer)!r}",
            stacklevel=2,
        )


def _check_length(plan: AnswerPlan, question: Question) -> None:
    tokens, most = len(plan.explainer.prompt_ids(question.prompt)), plan.loaded.longest
    if most is not None and tokens >= most:
        raise InputError(
            f"the prompt {question.words[:40]!r}... has {tokens} tokens, but {plan.loaded.name} takes {most}, with its "
            "answer"
        )
