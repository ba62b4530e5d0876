"""Explained answers as inseq and Captum know them, read by the packages themselves where they are installed."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as tensors_of
from support.compare import assert_close
from support.torchvision_shim import install

from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer, captum_result, save_inseq
from relprop.explanations.text import Piece

install()


def explained(translated: bool = False) -> ExplainedAnswer:
    names = ["<s>", " the", " city", " of"], [" Par", "is", "."]
    relevance = torch.arange(1.0, 22).reshape(3, 7).double()
    for i in range(3):
        relevance[i, 4 + i :] = 0
    steps = torch.tensor([5.0, 4, 3]), torch.tensor([0.5, 0.25, 0.125]), torch.tensor([1.0, 2, 3])
    pieces = tuple(
        Piece(name.replace(" ", "Ġ"), name.strip(), name[: name.startswith(" ")]) for name in (*names[0], *names[1])
    )
    return ExplainedAnswer(
        *names, relevance, *steps, pieces=pieces, ids=(0, 11, 12, 13, 14, 15, 16), translated=translated
    )


def written(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def tensor(packed: str) -> torch.Tensor:
    return tensors_of(base64.b64decode(packed))["attribution"]


def test_what_inseq_finds_of_a_decoder(tmp_path: Path):
    found = explained()
    save_inseq(tmp_path / "a.json", [found, found], model_name="tiny")
    output = written(tmp_path / "a.json")
    assert output["__instance_type__"] == ["inseq.data.attribution", "FeatureAttributionOutput"]
    assert output["attributes"]["info"]["model_name"] == "tiny"
    assert output["attributes"]["info"]["input_texts"] == ["<s> the city of"] * 2
    assert output["attributes"]["info"]["generated_texts"] == ["Paris."] * 2
    first, _ = output["attributes"]["sequence_attributions"]
    known = first["attributes"]
    assert [token["attributes"] for token in known["target"]][3:5] == [
        {"token": "Ġof", "id": 13}, {"token": "ĠPar", "id": 14},
    ]  # fmt: skip
    assert [token["attributes"]["token"] for token in known["source"]] == ["<s>", "Ġthe", "Ġcity", "Ġof"]
    assert (known["attr_pos_start"], known["attr_pos_end"]) == (4, 7)
    assert known["source_attributions"] is None
    columns = tensor(known["target_attributions"])
    assert columns.shape == (7, 3)
    assert known["_num_dimensions"] == columns.dim()
    for i in range(3):
        assert columns[: 4 + i, i].tolist() == found.relevance[i, : 4 + i].tolist()
        assert columns[4 + i :, i].isnan().all()
    assert tensor(known["step_scores"]["probability"]).tolist() == [0.5, 0.25, 0.125]
    assert tensor(known["step_scores"]["logit"]).tolist() == [5, 4, 3]


def test_what_inseq_finds_of_an_encoder_decoder(tmp_path: Path):
    found = explained(translated=True)
    save_inseq(tmp_path / "a.json", [found])
    (each,) = written(tmp_path / "a.json")["attributes"]["sequence_attributions"]
    known = each["attributes"]
    assert [token["attributes"]["token"] for token in known["source"]] == ["<s>", "Ġthe", "Ġcity"]
    assert [token["attributes"]["token"] for token in known["target"]] == ["Ġof", "ĠPar", "is", "."]
    assert tensor(known["source_attributions"]).tolist() == found.relevance[:, :3].T.tolist()
    assert tensor(known["target_attributions"])[0].tolist() == found.relevance[:, 3].tolist()
    assert (known["attr_pos_start"], known["attr_pos_end"]) == (1, 4)
    assert known["_num_dimensions"] == tensor(known["source_attributions"]).dim()


def test_units_have_no_ids(tmp_path: Path):
    save_inseq(tmp_path / "a.json", [explained().by("words")])
    (each,) = written(tmp_path / "a.json")["attributes"]["sequence_attributions"]
    assert [token["attributes"]["id"] for token in each["attributes"]["target"]] == [-1] * 6
    with pytest.raises(InputError, match="no answers"):
        save_inseq(tmp_path / "b.json", [])


def test_inseq_reads_what_was_written(tmp_path: Path):
    inseq = pytest.importorskip("inseq")
    for translated in (False, True):
        found = explained(translated)
        save_inseq(tmp_path / "a.json", [found])
        output = inseq.FeatureAttributionOutput.load(tmp_path / "a.json")
        (each,) = output.sequence_attributions
        assert each.attr_pos_start == (1 if translated else 4)
        assert [token.token for token in each.target][-3:] == ["ĠPar", "is", "."]
        assert [token.id for token in each.target][-3:] == [14, 15, 16]
        scores = each.target_attributions
        assert each._num_dimensions == scores.ndim  # as inseq counts them behind each of its aggregations
        for i in range(3):
            seen = scores[:, i][~scores[:, i].isnan()]
            assert seen.tolist() == found.relevance[i, 3 if translated else 0 : 4 + i].tolist()
        assert each.step_scores["probability"].tolist() == [0.5, 0.25, 0.125]
        shown = output.show(display=False, return_html=True)
        assert "Par" in shown
        output.save(tmp_path / "again.json", overwrite=True)
        again = inseq.FeatureAttributionOutput.load(tmp_path / "again.json")
        assert_close(again.sequence_attributions[0].step_scores["entropy"], found.entropy, rtol=1e-6)


def test_captums_result_has_the_prompts_part():
    pytest.importorskip("captum")
    found = explained()
    result = captum_result(found)
    assert type(result).__name__ == "LLMAttributionResult"
    assert result.input_tokens == found.prompt
    assert result.output_tokens == found.answer
    assert result.token_attr.tolist() == found.relevance[:, :4].tolist()
    assert result.seq_attr.tolist() == found.relevance[:, :4].sum(0).tolist()
    assert result.output_probs.tolist() == [0.5, 0.25, 0.125]
    assert result.seq_attr_dict[" city"] == float(found.relevance[:, 2].sum())
    figure, axis = result.plot_token_attr()
    assert axis.images[0].get_array().shape == (3, 4)
    figure.clear()
    words = captum_result(replace(found).by("words"))
    assert words.output_tokens == [" Paris", "."]
    assert math.isclose(float(words.seq_attr.sum()), float(result.seq_attr.sum()), rel_tol=1e-6)
