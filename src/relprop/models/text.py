"""Language models with their tokenizers, by what their checkpoint says that they are: `load_text`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from relprop.errors import InputError, ModelError
from relprop.models.loaded import optional_import
from relprop.models.sources import parse
from relprop.models.spec import Spec

Kind = Literal["classifier", "causal-lm", "encoder", "encoder-decoder"]
KINDS: dict[str, Kind] = {  # how the name of an architecture ends, the longer ends first
    "ForSequenceClassification": "classifier",
    "ForConditionalGeneration": "encoder-decoder",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "MarianMTModel": "encoder-decoder",
    "Model": "encoder",
}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model",
    "sentencepiece.bpe.model", "tokenization_*.py",
)  # fmt: skip


class ClassLogits(nn.Module):
    """A sequence classifier whose output is its logits (B, K)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class NextToken(nn.Module):
    """A causal language model whose output is the logits of the token that follows the last one, (B, V)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits[:, -1]


class FirstToken(nn.Module):
    """An encoder-decoder whose output is the logits of the first token that it answers, (B, V)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.start = int(cast(Any, model).config.decoder_start_token_id)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        start = torch.full_like(input_ids[:, :1], self.start)
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=start, use_cache=False
        ).logits
        return logits[:, -1]


class SentenceEmbedding(nn.Module):
    """An encoder whose output is the mean of its last hidden states over the tokens that are not masked, (B, D)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * (mask / mask.sum(1, keepdim=True))).sum(1)


WRAPPERS: dict[Kind, type[ClassLogits | NextToken | FirstToken | SentenceEmbedding]] = {
    "classifier": ClassLogits,
    "causal-lm": NextToken,
    "encoder-decoder": FirstToken,
    "encoder": SentenceEmbedding,
}


@dataclass(frozen=True)
class TextModel:
    """A language model in eval mode, with its tokenizer.

    Attributes:
        model: takes `input_ids` and `attention_mask` (B, T); returns (B, K): logits of classes, logits of the next
            token or an encoder-decoder's first one, or the sentence's embedding, by `kind`.
        name: the specification that it came from.
        classes: names of the outputs of a classifier.
        longest: how many tokens it takes, or None where nobody says.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    kind: Kind
    classes: list[str] | None = None
    longest: int | None = None

    @property
    def whole(self) -> nn.Module:
        """The model as transformers knows it, which `AnswerExplainer` takes."""
        return cast(nn.Module, self.model.model)

    def encode(self, text: str) -> dict[str, Tensor]:
        """The model's inputs for one sentence, (1, T) each.

        Raises:
            InputError: the text has no tokens, more than the model takes, or is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text {text!a} is not valid Unicode; is it UTF-8?") from error
        ids = self.tokenizer(text)["input_ids"]
        if not text.strip() or not ids:
            raise InputError(f"the text {text!r} has no tokens to explain")
        if self.longest is not None and len(ids) > self.longest:
            raise InputError(f"the text {text[:40]!r}... has {len(ids)} tokens, but {self.name} takes {self.longest}")
        device = next(self.model.parameters()).device
        input_ids = torch.tensor([ids], device=device)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def load_text(spec: str) -> TextModel:
    """Load the model and the tokenizer that `"hf:ID_OR_FOLDER"` names, in float32.

    What the model is goes by `architectures` in its config: a sequence classifier, a causal language model, an
    encoder-decoder, or an encoder, whose embeddings are averaged. `"hf:ID_OR_FOLDER/FILE.gguf"` is a causal language
    model whose weights are dequantized; it takes the packages gguf and accelerate.

    Raises:
        ModelError: there is no such folder, no tokenizer, no weights, or the model is of another kind.
        MissingExtraError: transformers is not installed.
    """
    parsed = parse(spec)
    if parsed.source != "hf":
        raise ModelError(f"text is for language models, --model hf:ID_OR_FOLDER, not {spec}")
    where, options = _where(parsed)
    with _without_broken_torchvision(), _quiet():
        transformers = optional_import("transformers")
        for needed in ("gguf", "accelerate") if options else ():
            optional_import(needed, "gguf")
        kind, architecture, config = _architecture(transformers, where, options, parsed)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        except Exception as error:
            raise ModelError(f"the tokenizer of {parsed} could not be loaded: {error}") from error
        try:
            made = getattr(transformers, architecture)
            model, info = made.from_pretrained(where, output_loading_info=True, **options)
        except Exception as error:  # OSError, ValueError, ImportError, RuntimeError for other shapes, ...
            raise ModelError(f"{parsed} could not be loaded: {error}") from error
    absent = sorted(key for key in info["missing_keys"] if not (kind == "encoder" and "pooler" in key))
    if absent:
        raise ModelError(f"{parsed} lacks {len(absent)} weights of {architecture}, such as {absent[0]}")
    classes = [str(config.id2label[i]) for i in range(len(config.id2label))] if kind == "classifier" else None
    floats = nn.Module.float(model)  # transformers' own refuses what came out of a GGUF file, whose weights are floats
    wrapped = WRAPPERS[kind](floats).eval()
    return TextModel(wrapped, tokenizer, str(parsed), kind, classes, _longest(tokenizer, config))


def _where(spec: Spec) -> tuple[str, dict[str, str]]:
    """A folder that exists and has a tokenizer, or an id of the hub; and which file there, if it is of GGUF."""
    name, options = spec.name, dict[str, str]()
    if name.endswith(".gguf"):
        name, _, file = name.rpartition("/")
        name, options = name or ".", {"gguf_file": file}
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
            raise ModelError(f"{spec}: {folder} is no folder; save a model there with model.save_pretrained(...)")
        return name, options
    if options:
        if not (folder / options["gguf_file"]).is_file():
            raise ModelError(f"{spec}: there is no file {options['gguf_file']} in {folder}")
        return str(folder), options
    if not (folder / "config.json").is_file():
        raise ModelError(f"{spec}: the folder {folder} has no config.json, so there is no Hugging Face model in it")
    if not any(True for pattern in TOKENIZER_FILES for _ in folder.glob(pattern)):
        raise ModelError(f"{spec}: the folder has no tokenizer; save one there with tokenizer.save_pretrained(...)")
    return str(folder), options


def _architecture(transformers: Any, where: str, options: dict[str, str], spec: Spec) -> tuple[Kind, str, Any]:
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:
        raise ModelError(f"the config of {spec} could not be loaded: {error}") from error
    if options:  # such a file says of what kind its layers are, and holds a decoder
        return "causal-lm", "AutoModelForCausalLM", config
    name = (config.architectures or ["(none)"])[0]
    kind = next((kind for end, kind in KINDS.items() if name.endswith(end)), None)
    known = kind is not None and hasattr(transformers, name)
    if not known or bool(getattr(config, "is_encoder_decoder", False)) != (kind == "encoder-decoder"):
        raise ModelError(
            f"{spec} is a {name}; relprop explains text for sequence classifiers (...ForSequenceClassification), "
            "causal language models (...ForCausalLM, ...LMHeadModel), encoder-decoders (...ForConditionalGeneration) "
            "and encoders (...Model). Others: LRP from Python"
        )
    assert kind is not None
    return kind, name, config


def _longest(tokenizer: Any, config: Any) -> int | None:
    known = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    limits = [int(n) for n in known if n is not None and 0 < n < 10**9]  # tokenizers say 1e30 for "no limit"
    return min(limits, default=None)


@contextmanager
def _without_broken_torchvision() -> Iterator[None]:
    """Where torchvision is installed but cannot be imported, hide it from transformers, which text does not need.

    transformers imports torchvision wherever it finds it, before any model, and fails with it. While the block runs,
    Python's own mark for a module that must not be imported stands in its place.
    """
    if not _broken("torchvision"):
        yield
        return
    before = {key: module for key, module in sys.modules.items() if key == "torchvision"}
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    try:
        _forget_torchvision()
        yield
    finally:
        del sys.modules["torchvision"]
        sys.modules.update(before)


def _broken(module: str) -> bool:
    """It is installed, but its import fails."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    except Exception:
        return True
    return False


def _forget_torchvision() -> None:
    """Let transformers look again whether torchvision is there: it remembers, and may have been asked before."""
    with suppress(ImportError, AttributeError):
        importlib.import_module("transformers.utils").is_torchvision_available.cache_clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for files that are on this machine; the setting is put back."""
    logging: Any = optional_import("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
