"""What `relprop explain --text` is going to do: everything is checked here, before anything is written."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from relprop.analyzers.lrp import LRP
from relprop.composites.names import RECOMMENDED, Given, check_composite, make_composite, name_for
from relprop.errors import TargetError
from relprop.explanations.shown import encodable
from relprop.jobs.asked import Asked, asked_for
from relprop.jobs.files import check_folder, unique_names, with_labels
from relprop.jobs.picture_plan import device_named
from relprop.models import TextModel, load_text
from relprop.targets import Similarity, TargetLike, embedding_length
from relprop.targets.names import resolve_target

ALL = "overview.html"  # all sentences on one page, where there are several
NAME_LENGTH = 40


@dataclass(frozen=True)
class TextOptions:
    """The command line's arguments, as they were given."""

    texts: tuple[str, ...]
    model: str
    out: Path
    composite: str = RECOMMENDED
    targets: tuple[str, ...] = ()
    against: str | None = None
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
    """A sentence to explain, the files for each target, and what the model takes."""

    text: str
    outputs: tuple[TextOutputs, ...]
    inputs: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class TextPlan:
    """Checked: the model loads and can be explained, the sentences fit, the target exists, files can be written.

    `asked` is what is explained of classes or next tokens, `other` is the embedding to compare with.
    """

    options: TextOptions
    sentences: list[Sentence]
    loaded: TextModel
    lrp: LRP
    asked: list[Asked]
    other: Tensor | None

    @property
    def targets(self) -> list[TargetLike]:
        """What `LRP` calls the targets."""
        if self.loaded.kind != "encoder":
            return [asked.target for asked in self.asked]
        return [embedding_length if self.other is None else Similarity(self.other)]

    def explained(self, k: int, outputs: Tensor) -> tuple[int | None, str]:
        """The index, if there is one, and the name of what the k-th target explains, given outputs (1, ...)."""
        if self.loaded.kind == "encoder":
            said = "length of the embedding" if self.other is None else f"similarity to “{self.options.similar_to}”"
            return None, said
        (index,) = self.asked[k].classes(outputs)
        kind = {"classifier": "", "encoder-decoder": "first token "}.get(self.loaded.kind, "next token ")
        return index, kind + self.asked[k].name(index, self._output_name)

    def _output_name(self, index: int) -> str:
        if self.loaded.kind == "classifier":
            return encodable(self.loaded.classes[index]) if self.loaded.classes else f"class {index}"
        return repr(self.loaded.tokenizer.decode([index]))

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
    names = unique_names([Path(slug(text)) for text in options.texts])
    outputs = [
        tuple(TextOutputs.of(options.out, name) for name in several) for several in with_labels(names, options.targets)
    ]
    files = [file for several in outputs for each in several for file in (each.page, each.relevance, each.tokens)]
    check_folder(options.out, [*files, options.out / ALL], options.overwrite)
    loaded = load_text(options.model)
    loaded = replace(loaded, model=loaded.model.to(device))
    asked, other = _asked(options, loaded)
    sentences = [Sentence(t, o, loaded.encode(t)) for t, o in zip(options.texts, outputs, strict=True)]
    inputs = sentences[0].inputs
    options = replace(options, composite=name_for(options.composite, loaded.model))
    composite = make_composite(options.composite, Given(loaded.model), "text")
    lrp = LRP(
        loaded.model, composite, example_inputs=(inputs["input_ids"], inputs["attention_mask"]), normalize_output=False
    )
    return TextPlan(options, sentences, loaded, lrp, asked, other)


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


def _asked(options: TextOptions, loaded: TextModel) -> tuple[list[Asked], Tensor | None]:
    """What is explained of outputs, and the embedding to compare with."""
    if loaded.kind == "encoder":
        if options.targets or options.against is not None:
            raise TargetError(f"{loaded.name} has no classes but embeddings: use --similar-to SENTENCE, not --target")
        if options.similar_to is None:
            return [], None
        with torch.no_grad():
            return [], loaded.model(**loaded.encode(options.similar_to))
    if options.similar_to is not None:
        raise TargetError(f"--similar-to compares embeddings, but {loaded.name} is a {loaded.kind}: use --target")
    if loaded.kind in ("causal-lm", "encoder-decoder"):
        tokens = len(loaded.tokenizer.get_vocab())
        return asked_for(options.targets, options.against, lambda text: resolve_token(text, loaded), tokens), None
    classes = len(loaded.classes or ())
    return asked_for(
        options.targets, options.against, lambda text: resolve_target(text, loaded.classes, classes), classes
    ), None


def slug(text: str) -> str:
    """A file name of the first words."""
    words = re.sub(r"[^\w]+", "-", text.casefold()).strip("-_")
    short = words[: NAME_LENGTH + 1]
    return (short[: short.rfind("-")] if len(short) > NAME_LENGTH and "-" in short else short[:NAME_LENGTH]) or "text"
