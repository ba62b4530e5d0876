"""What `relprop explain --text` is going to do: everything is checked here, before anything is written."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import DEFAULTS, Given, check_composite, make_composite
from relprop.errors import TargetError
from relprop.explanations.shown import encodable
from relprop.jobs.files import check_folder, unique_names
from relprop.jobs.picture_plan import device_named
from relprop.models import TextModel, load_text
from relprop.targets.embeddings import embedding_length, similarity_to
from relprop.targets.names import resolve_target

ALL = "overview.html"  # all sentences on one page, where there are several
NAME_LENGTH = 40


@dataclass(frozen=True)
class TextOptions:
    """The command line's arguments, as they were given."""

    texts: tuple[str, ...]
    model: str
    out: Path
    composite: str = DEFAULTS["text"]
    target: str | None = None
    similar_to: str | None = None
    device: str = "cpu"
    overwrite: bool = False


@dataclass(frozen=True)
class TextOutputs:
    """The three files that explain one sentence."""

    page: Path
    relevance: Path
    tokens: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> TextOutputs:
        """The files of the sentence that has this name."""
        kinds = ("html", "relevance.safetensors", "tokens.json")
        return cls(*(folder / f"{name}.{kind}" for kind in kinds))


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence to explain, as the model takes it."""

    text: str
    outputs: TextOutputs
    inputs: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class TextPlan:
    """Checked: the model loads and can be explained, the sentences fit, the target exists, files can be written.

    `target` is an output's index, or None for the largest output; `other` is the embedding to compare with.
    """

    options: TextOptions
    sentences: list[Sentence]
    loaded: TextModel
    lrp: LRP
    target: int | None
    other: Tensor | None

    @property
    def seed(self) -> int | Callable[[Tensor], Tensor] | None:
        """What `LRP` calls the target."""
        if self.loaded.kind != "encoder":
            return self.target
        return embedding_length if self.other is None else similarity_to(self.other)

    def target_name(self, index: int | None) -> str:
        """What an explained output is called."""
        if index is None:
            return "length of the embedding" if self.other is None else f"similarity to “{self.options.similar_to}”"
        if self.loaded.kind == "classifier":
            return encodable(self.loaded.classes[index]) if self.loaded.classes else f"class {index}"
        return f"next token {self.loaded.tokenizer.decode([index])!r}"

    @property
    def model_name(self) -> str:
        """The model's name, in characters that any file can hold."""
        return encodable(self.loaded.name)


def make_text_plan(options: TextOptions) -> TextPlan:
    """Check everything that can be wrong.

    Raises:
        RelpropError: what is wrong, and what to do about it.
    """
    device = device_named(options.device)
    check_composite(options.composite, "text")
    names = unique_names([Path(_slug(text)) for text in options.texts])
    outputs = [TextOutputs.of(options.out, name) for name in names]
    files = [file for each in outputs for file in (each.page, each.relevance, each.tokens)]
    check_folder(options.out, [*files, options.out / ALL], options.overwrite)
    loaded = load_text(options.model)
    loaded = replace(loaded, model=loaded.model.to(device))
    target, other = _target(options, loaded)
    sentences = [Sentence(t, o, loaded.encode(t)) for t, o in zip(options.texts, outputs, strict=True)]
    inputs = sentences[0].inputs
    composite = make_composite(options.composite, Given(loaded.model), "text")
    lrp = LRP(
        loaded.model, composite, example_inputs=(inputs["input_ids"], inputs["attention_mask"]), normalize_output=False
    )
    return TextPlan(options, sentences, loaded, lrp, target, other)


def resolve_token(text: str, loaded: TextModel) -> int:
    """The id of a token that was given as its text, its name in the vocabulary, or `#ID`.

    Where a text is one token with a space before it and another one without, a warning says which one was taken.

    Raises:
        TargetError: the text is several tokens, or no token has that id.
    """
    vocabulary = loaded.tokenizer.get_vocab()
    if text in vocabulary:
        return _warned(int(vocabulary[text]), text, loaded)
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return _warned(int(ids[0]), text, loaded)
    names = loaded.tokenizer.convert_ids_to_tokens(ids)
    if re.fullmatch(r"#\d+", text):
        if int(text[1:]) < len(vocabulary):
            return int(text[1:])
        raise TargetError(f"target {text} is out of range: the vocabulary has {len(vocabulary)} tokens")
    raise TargetError(f"target {text!r} is {len(ids)} tokens: {', '.join(names)}; give one of them, or #ID")


def _warned(taken: int, text: str, loaded: TextModel) -> int:
    """The same id, after a warning where the text stands for another token in a sentence."""
    for written in (text, f" {text}"):
        ids = loaded.tokenizer(written, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != taken and not text[:1].isspace():
            mine, other = loaded.tokenizer.convert_ids_to_tokens([taken, ids[0]])
            warnings.warn(
                f"the target {text!r} is the token {mine!r}; behind a space it is another one, "
                f"--target {other} or #{ids[0]}",
                stacklevel=2,
            )
            break
    return taken


def _target(options: TextOptions, loaded: TextModel) -> tuple[int | None, Tensor | None]:
    if options.similar_to is not None and loaded.kind != "encoder":
        raise TargetError(f"--similar-to compares embeddings, but {loaded.name} is a {loaded.kind}: use --target")
    if loaded.kind == "encoder":
        if options.target is not None:
            raise TargetError(f"{loaded.name} has no classes but embeddings: use --similar-to SENTENCE, not --target")
        if options.similar_to is None:
            return None, None
        with torch.no_grad():
            return None, loaded.model(**loaded.encode(options.similar_to))
    if options.target is None:
        return None, None
    if loaded.kind == "causal-lm":
        return resolve_token(options.target, loaded), None
    return resolve_target(options.target, loaded.classes, len(loaded.classes or ())), None


def _slug(text: str) -> str:
    """A file name of the first words."""
    words = re.sub(r"[^\w]+", "-", text.casefold()).strip("-_")
    short = words[: NAME_LENGTH + 1]
    return (short[: short.rfind("-")] if len(short) > NAME_LENGTH and "-" in short else short[:NAME_LENGTH]) or "text"
