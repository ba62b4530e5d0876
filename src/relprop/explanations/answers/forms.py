"""Explained answers in the forms of inseq and of Captum's language models."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError, MissingExtraError
from relprop.explanations.answers.answer import ExplainedAnswer
from relprop.explanations.files import replacing

SEQUENCES, TOKENS = "inseq.data.attribution", "inseq.utils.typing"


def save_inseq(path: str | Path, answers: Sequence[ExplainedAnswer], **info: Any) -> None:
    """Write answers to a file that `inseq.FeatureAttributionOutput.load` reads.

    Each becomes a sequence of coarse scores, one for each pair of tokens, with the steps' `probability`, `entropy` and
    `logit` (the amount that was explained). A decoder's prompt is the beginning of its target, as there; an
    encoder-decoder's is the source, and its target starts with the token that the decoder starts with.

    Args:
        path: a .json file.
        answers: of the same model; of tokens or of units.
        info: what else the file says of them, such as `model_name`; what JSON can hold.

    Raises:
        InputError: there are no answers. MissingExtraError: safetensors is not installed. RelpropError: the file
            cannot be written.
    """
    if not answers:
        raise InputError("there are no answers to save")
    known = {
        "attribution_method": "lrp",
        "attributed_fn": "logit",
        "step_scores": ["probability", "entropy", "logit"],
        "input_texts": ["".join(each.source) for each in answers],
        "generated_texts": ["".join(each.tokens[len(each.source) :]).strip() for each in answers],
    }
    sequences = [_sequence(each) for each in answers]
    attributes = {"sequence_attributions": sequences, "step_attributions": None, "info": known | info}
    text = json.dumps(_instance(SEQUENCES, "FeatureAttributionOutput", attributes), indent=1, sort_keys=True)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def captum_result(answer: ExplainedAnswer) -> Any:
    """An answer as Captum's `LLMAttributionResult`, whose plots then are there: what the prompt has, and no more.

    `token_attr` is (A, P), `seq_attr` its sum over the answer (P,), and `output_probs` (A,).

    Args:
        answer: of tokens or of units.

    Raises:
        MissingExtraError: captum is not installed.
    """
    try:
        from captum.attr import LLMAttributionResult
    except ImportError as error:
        raise MissingExtraError(f"Captum's form needs captum: pip install captum ({error})") from error
    matrix = answer.relevance[:, : len(answer.prompt)].detach().float()
    names = {"input_tokens": list(answer.prompt), "output_tokens": list(answer.answer)}
    found = LLMAttributionResult(seq_attr=matrix.sum(0), token_attr=matrix, **names)
    found.output_probs = answer.probability.detach().float()
    return found


def _sequence(answer: ExplainedAnswer) -> dict[str, Any]:
    S, P, A = len(answer.source), len(answer.prompt), len(answer.answer)
    ids = answer.ids or (-1,) * (P + A)
    tokens = [
        _instance(TOKENS, "TokenWithId", {"token": p.token, "id": i}) for p, i in zip(answer.pieces, ids, strict=True)
    ]
    columns = answer.relevance.detach().float().cpu().T.clone()
    for i in range(A):
        columns[P + i :, i] = torch.nan  # not yet said
    start = P - S if answer.translated else P
    scores = {"probability": answer.probability, "entropy": answer.entropy, "logit": answer.explained}
    return _instance(
        SEQUENCES,
        "CoarseFeatureAttributionSequenceOutput",
        {
            "source": tokens[:S],
            "target": tokens[S:] if answer.translated else tokens,
            "source_attributions": _packed(columns[:S]) if answer.translated else None,
            "target_attributions": _packed(columns[S:] if answer.translated else columns),
            "step_scores": {name: _packed(each.detach().float().cpu()) for name, each in scores.items()},
            "sequence_scores": {},
            "attr_pos_start": start,
            "attr_pos_end": start + A,
            "_aggregator": [],
            "_dict_aggregate_fn": None,
            "_attribution_dim_names": None,
            "_num_dimensions": 2,
        },
    )


def _instance(module: str, name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"__instance_type__": [module, name], "attributes": attributes}


def _packed(tensor: Tensor) -> str:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise MissingExtraError(f"inseq's form needs safetensors: pip install 'relprop[cli]' ({error})") from error
    return base64.b64encode(save({"attribution": tensor.contiguous()})).decode()
