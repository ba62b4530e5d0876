"""A job on sentences: rows are what the analyzer says of each, and a line that is none is a row with an error."""

from __future__ import annotations

import json

import pytest
import torch
from support.jobs import files_of
from support.tokens import transformers, word_piece

import relprop.jobs
from relprop import LRP
from relprop.composites import ResLRP
from relprop.errors import RelpropError
from relprop.models import load_text

pytest.importorskip("pyarrow")

SENTENCES = ["the cat sleeps", "on warm windowsill", "the the cat", "a b", "cat on the warm cat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = word_piece()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes, id2label={0: "bad", 1: "good"})
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [{"id": f"n{i}", "text": text, "label": "good"} for i, text in enumerate(SENTENCES)]
    text = [json.dumps(row) for row in rows]
    text[2:2] = ["{no json", "", json.dumps({"id": "empty", "text": " "})]
    path.write_text("\n".join(text) + "\n")
    return path


def test_rows_are_what_the_analyzer_says(model, lines, tmp_path):
    options = {"model": model, "source": lines, "pass_size": 2, "shard_size": 4}
    finished = relprop.jobs.run(**options, out=tmp_path / "out")
    assert [(f.index, f.key) for f in finished.failed] == [(2, "2"), (3, "empty")]
    assert "no JSON object with a text in 'text'" in finished.failed[0].error
    rows = [row for row in relprop.jobs.open(tmp_path / "out") if row["error"] is None]
    loaded = load_text(model)
    lrp = LRP(loaded.model, ResLRP(attention="cp"))
    for i, (row, text) in enumerate(zip(rows, SENTENCES, strict=True)):
        inputs = loaded.encode(text)
        expl = lrp(inputs["input_ids"], inputs["attention_mask"])
        r = expl.relevance[0].sum(-1)
        assert row["key"] == f"n{i}"
        assert list(row["tokens"]) == loaded.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        torch.testing.assert_close(torch.tensor(row.heatmap), r, atol=2e-3 * float(r.abs().max()), rtol=0)
        assert row["target"] == int(expl.target)
        assert row["arrived"] == pytest.approx(float(r.sum()), abs=1e-5)


@pytest.mark.slow
def test_a_divided_job_has_the_same_bytes(model, lines, tmp_path):
    options = {"model": model, "source": lines, "pass_size": 2, "shard_size": 4}
    relprop.jobs.run(**options, out=tmp_path / "out")
    relprop.jobs.run(**options, out=tmp_path / "again", shard="0/2")
    relprop.jobs.run(**options, out=tmp_path / "again", shard="1/2", workers=3, batch_size=1)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


@pytest.mark.slow
def test_labels_are_explained_and_plain_lines_are_texts(model, lines, tmp_path):
    relprop.jobs.run(model=model, source=lines, out=tmp_path / "out", target="label")
    assert relprop.jobs.open(tmp_path / "out").counts("target") == {1: 5, None: 2}
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES))
    relprop.jobs.run(model=model, source=tmp_path / "texts.txt", out=tmp_path / "plain", target="bad")
    assert relprop.jobs.open(tmp_path / "plain").counts("target") == {0: 5}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "demo"}, "text is for language models"),
        ({"layers": "0"}, "leave layers out for text"),
        ({"composite": "epsilon-plus"}, "unknown composite 'epsilon-plus' for text"),
        ({"target": "ugly"}, "no class is named 'ugly'"),
        ({"column": "sentence"}, "no column 'sentence'; it has id, text, label"),
    ],
)
def test_what_is_wrong_is_said(model, lines, tmp_path, changed, told):
    with pytest.raises(RelpropError, match=told):
        relprop.jobs.run(**({"model": model, "source": lines, "out": tmp_path / "out"} | changed))
