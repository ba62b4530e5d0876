"""`relprop explain --text`, as a user meets it, with tiny models of three kinds in folders."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors import safe_open
from support.tokens import bytes_bpe, word_piece
from support.torchvision_shim import install
from typer.testing import CliRunner

from relprop import LRP
from relprop.cli.app import COMPOSITES, app
from relprop.composites import CPLRP, AttnLRP, Composite, ResLRP
from relprop.composites.names import Given, composite_names, make_composite
from relprop.errors import InputError, ModelError
from relprop.jobs.text_plan import resolve_token
from relprop.models import load_text
from relprop.models import text as text_models
from relprop.rules import EpsilonRule
from relprop.targets import Difference

install()
transformers = pytest.importorskip("transformers")

TEXT, OTHER = "The cat sleeps on the windowsill.", "a warm cat"
SIZES = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Kind -> a folder with a model of that kind, random weights, and its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    wide = {"initializer_range": 0.3}
    labels = {"id2label": {0: "bad", 1: "fine", 2: "good"}, "label2id": {"bad": 0, "fine": 1, "good": 2}}
    bert = transformers.BertConfig(**SIZES, **wide)
    models = {
        "classifier": transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **wide, **labels)),
        "encoder": transformers.BertModel(bert),
        "causal-lm": transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **wide)),
        "masked-lm": transformers.BertForMaskedLM(bert),
    }
    for name, parameter in models["classifier"].named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    for kind, model in models.items():
        model.save_pretrained(root / kind)
        (bytes_bpe() if kind == "causal-lm" else word_piece()).save_pretrained(root / kind)
    models["encoder"].save_pretrained(root / "no-tokenizer")
    return root


def run(*arguments, code=0, stdin=None):
    """Run `relprop explain` and check its exit code."""
    env = {"COLUMNS": "250", "FORCE_COLOR": None, "NO_COLOR": "1"}
    result = CliRunner().invoke(app, ["explain", *(str(a) for a in arguments)], env=env, input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(folder, name):
    with safe_open(folder / f"{name}.relevance.safetensors", "pt") as file:
        relevance, metadata = file.get_tensor("relevance"), file.metadata()
    return relevance, metadata, json.loads((folder / f"{name}.tokens.json").read_text("utf-8"))


# Each kind of model, against the library.


def test_a_classifier_explains_its_predicted_class(folders, tmp_path):
    result = run("--text", TEXT, "--model", f"hf:{folders / 'classifier'}", "--out", tmp_path / "o")
    relevance, metadata, tokens = read(tmp_path / "o", "the-cat-sleeps-on-the-windowsill")
    model = transformers.BertForSequenceClassification.from_pretrained(folders / "classifier").eval()
    inputs = word_piece()(TEXT, return_tensors="pt")
    expected = LRP(model, ResLRP(attention="cp"), normalize_output=False)(**inputs)
    logits = expected.output["logits"][0]
    torch.testing.assert_close(relevance, expected.relevance[0], rtol=1e-3, atol=1e-5)
    name = ["bad", "fine", "good"][int(logits.argmax())]
    assert (metadata["target_name"], metadata["target"]) == (name, str(int(logits.argmax())))
    assert tokens["output"] == pytest.approx(logits.max().item(), rel=1e-4)
    assert [each["token"] for each in tokens["tokens"]] == word_piece().convert_ids_to_tokens(inputs["input_ids"][0])
    assert [each["id"] for each in tokens["tokens"]] == inputs["input_ids"][0].tolist()
    assert [each["relevance"] for each in tokens["tokens"]] == pytest.approx(relevance.double().sum(1).tolist())
    assert f"{name}: {float(logits.max()):.4g}" in result.stdout
    assert "[CLS] The cat sleeps on the windowsill. [SEP]" in result.stdout
    assert (tmp_path / "o" / "the-cat-sleeps-on-the-windowsill.html").read_text("utf-8").count("data-tip=") == 10
    assert len(list((tmp_path / "o").iterdir())) == 3


def test_a_class_by_name_or_index(folders, tmp_path):
    model = f"hf:{folders / 'classifier'}"
    for target, name in (("Good", "good"), ("1", "fine")):
        run("--text", OTHER, "--model", model, "--target", target, "--out", tmp_path / "o", "--overwrite")
        _, facts, tokens = read(tmp_path / "o", "a-warm-cat")
        assert facts["target_name"] == name
        loaded = load_text(model)
        logits = dict(zip(loaded.classes, loaded.model(**loaded.encode(OTHER))[0].tolist(), strict=True))
        assert tokens["output"] == pytest.approx(logits[name], rel=1e-4)


def test_a_language_model_explains_the_next_token(folders, tmp_path):
    model = f"hf:{folders / 'causal-lm'}"
    run("--text", "the cat", "--model", model, "--composite", "cplrp", "--out", tmp_path / "o")
    relevance, _, tokens = read(tmp_path / "o", "the-cat")
    causal = transformers.LlamaForCausalLM.from_pretrained(folders / "causal-lm").eval()
    ids = torch.tensor([bytes_bpe()("the cat")["input_ids"]])
    logits = causal(ids).logits[0, -1]
    assert tokens["target"] == int(logits.argmax())
    expected = LRP(causal, CPLRP(), normalize_output=False)(
        input_ids=ids, attention_mask=torch.ones_like(ids), target=(ids.shape[1] - 1, int(logits.argmax()))
    )
    torch.testing.assert_close(relevance, expected.relevance[0], rtol=1e-3, atol=1e-5)
    # CP-LRP without biases: nothing is kept
    assert tokens["relevance_sum"] == pytest.approx(tokens["output"], rel=1e-3)
    assert tokens["output"] == pytest.approx(logits.max().item(), rel=1e-4)


def test_several_classes_against_another_one(folders, tmp_path):
    model = f"hf:{folders / 'classifier'}"
    asked = ("--target", "good", "--target", "2", "--against", "bad")
    assert "names one class twice" in run("--text", OTHER, "--model", model, *asked, "--out", tmp_path, code=2).stderr
    asked = ("--target", "good", "--target", "1", "--against", "bad")
    result = run("--text", OTHER, "--model", model, *asked, "--out", tmp_path / "o")
    loaded = load_text(model)
    inputs, lrp = loaded.encode(OTHER), LRP(loaded.model, ResLRP(attention="cp"), normalize_output=False)
    for given, index in (("good", 2), ("1", 1)):
        relevance, facts, tokens = read(tmp_path / "o", f"a-warm-cat.{given}")
        expected = lrp(**inputs, target=Difference(index, 0))
        torch.testing.assert_close(relevance, expected.relevance[0], rtol=1e-3, atol=1e-5)
        assert tokens["output"] == pytest.approx(float(expected.amount), rel=1e-3)
        assert facts["target_name"] == f"{['bad', 'fine', 'good'][index]} against bad"
        assert facts["target_name"] in result.stdout
    assert (tmp_path / "o" / "overview.html").exists()


def test_a_token_by_its_text_its_name_or_its_number(folders, tmp_path):
    loaded = load_text(f"hf:{folders / 'causal-lm'}")
    wanted = loaded.tokenizer.convert_tokens_to_ids("Ġthe")
    assert [resolve_token(target, loaded) for target in (" the", "Ġthe", f"#{wanted}")] == [wanted] * 3
    result = run("--text", "the cat", "--model", loaded.name, "--target", " the", "--out", tmp_path / "o")
    assert read(tmp_path / "o", "the-cat")[2]["target"] == wanted
    assert "next token ' the': " in result.stdout


def test_an_encoder_explains_a_similarity(folders, tmp_path):
    model = f"hf:{folders / 'encoder'}"
    result = run("--text", TEXT, "--similar-to", OTHER, "--model", model, "--out", tmp_path / "o")
    relevance, _, tokens = read(tmp_path / "o", "the-cat-sleeps-on-the-windowsill")
    bert, tokenizer = transformers.BertModel.from_pretrained(folders / "encoder").eval(), word_piece()
    with torch.no_grad():
        u, v = (bert(torch.tensor([tokenizer(t)["input_ids"]])).last_hidden_state.mean(1)[0] for t in (TEXT, OTHER))
    cosine = float(torch.cosine_similarity(u, v, dim=0))
    assert tokens["output"] == pytest.approx(cosine, abs=1e-5)
    assert f"similarity to “{OTHER}”: {cosine:.4g}" in result.stdout
    kept = sum(tokens["sinks"].values())
    assert tokens["relevance_sum"] + kept == pytest.approx(cosine, abs=1e-4)
    assert float(relevance.double().sum()) == pytest.approx(tokens["relevance_sum"], abs=1e-5)


def test_without_another_sentence_it_is_the_length_and_the_command_says_what_is_better(folders, tmp_path):
    result = run("--text", OTHER, "--model", f"hf:{folders / 'encoder'}", "--out", tmp_path / "o")
    bert = transformers.BertModel.from_pretrained(folders / "encoder").eval()
    ids = torch.tensor([word_piece()(OTHER)["input_ids"]])
    length = bert(ids).last_hidden_state.mean(1).norm().item()
    assert read(tmp_path / "o", "a-warm-cat")[2]["output"] == pytest.approx(length, rel=1e-4)
    assert "--similar-to SENTENCE explains a similarity" in result.stdout


# What is printed and written.


def test_several_sentences_and_lines_of_stdin(folders, tmp_path):
    lines = "the first line\n\n  the second <line> \n"
    result = run("--text", OTHER, "--text", "-", "--text", OTHER, "--model", f"hf:{folders / 'encoder'}",
                 "--out", tmp_path / "o", stdin=lines)  # fmt: skip
    names = {"a-warm-cat", "the-first-line", "the-second-line", "a-warm-cat-2"}
    kinds = ("html", "relevance.safetensors", "tokens.json")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        *(f"{name}.{kind}" for name in names for kind in kinds), "overview.html",
    }  # fmt: skip
    page = (tmp_path / "o" / "overview.html").read_text("utf-8")
    assert page.count("<section>") == 4
    assert "&lt;" in page
    assert "<line>" not in page
    assert read(tmp_path / "o", "the-second-line")[2]["text"] == "the second <line>"
    assert "all sentences have one scale" in result.stdout


def test_everything_as_json(folders, tmp_path):
    """A record for each sentence and target, the one that lies beside its page; nothing else on stdout."""
    model, out = f"hf:{folders / 'classifier'}", tmp_path / "o"
    asked = ("--text", OTHER, "--text", "the <cat>\u00e9", "--target", "good", "--target", "1")
    said = json.loads(run(*asked, "--model", model, "--out", out, "--json").stdout)
    names = ["a-warm-cat.good", "a-warm-cat.1", "the-cat-é.good", "the-cat-é.1"]
    assert [each["files"][0] for each in said] == [f"{name}.html" for name in names]
    for record, name in zip(said, names, strict=True):
        assert record == json.loads((out / f"{name}.tokens.json").read_text("utf-8"))
        assert record["files"] == [f"{name}.{kind}" for kind in ("html", "relevance.safetensors", "tokens.json")]
        assert all((out / file).exists() for file in record["files"])
        kept = record["relevance_sum"] + sum(record["sinks"].values())
        assert kept == pytest.approx(record["output"], rel=1e-3, abs=1e-5)
    assert [each["target_name"] for each in said] == ["good", "fine"] * 2
    error = run(*asked, "--model", model, "--out", out, "--json", code=2)
    assert "would be overwritten" in error.stderr
    assert error.stdout == ""


def test_the_books_are_printed_and_balance(folders, tmp_path):
    result = run("--text", OTHER, "--model", f"hf:{folders / 'classifier'}", "--out", tmp_path / "o")
    tokens = read(tmp_path / "o", "a-warm-cat")[2]
    assert tokens["relevance_sum"] + sum(tokens["sinks"].values()) == pytest.approx(tokens["output"], rel=1e-4)
    assert tokens["imbalance"] < 1e-4
    line = next(line for line in result.stdout.splitlines() if " = tokens " in line)
    assert "bias" in line
    assert "position embeddings" in line


@pytest.mark.parametrize("composite", ["attnlrp-gamma", "epsilon"])
def test_another_composite(composite, folders, tmp_path):
    model = f"hf:{folders / 'causal-lm'}"
    run("--text", "cat", "--model", model, "--composite", composite, "--out", tmp_path / "o", "-q")
    relevance, facts, _ = read(tmp_path / "o", "cat")
    assert facts["composite"] == composite
    causal = transformers.LlamaForCausalLM.from_pretrained(folders / "causal-lm").eval()
    lrp = LRP(causal, {"attnlrp-gamma": AttnLRP(gamma_linear=0.25), "epsilon": EpsilonRule()}[composite],
              normalize_output=False)  # fmt: skip
    ids = torch.tensor([bytes_bpe()("cat")["input_ids"]])
    expected = lrp(input_ids=ids, target=(ids.shape[1] - 1, int(facts["target"]))).relevance[0]
    torch.testing.assert_close(relevance, expected, rtol=1e-3, atol=1e-5)


def test_the_help_names_every_composite():
    names = composite_names("text")
    assert all(f" {name}" in COMPOSITES for name in names + composite_names("pictures"))
    assert all(isinstance(make_composite(name, Given(torch.nn.Linear(1, 1)), "text"), Composite) for name in names)


def test_quiet_prints_nothing_and_existing_files_stop_the_job(folders, tmp_path):
    arguments = ("--text", OTHER, "--model", f"hf:{folders / 'classifier'}", "--out", tmp_path / "o", "--quiet")
    assert run(*arguments).output == ""
    assert "would be overwritten; use --overwrite" in run(*arguments, code=2).stderr


# Errors: one paragraph, exit code 2, nothing written.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "hf:CLASSIFIER"], "give at least one picture or folder, or --text"),
        (["a.png", "--text", "a", "--model", "hf:CLASSIFIER"], "give pictures or --text, not both"),
        (["--text", "a", "--model", "hf:./nowhere"], "nowhere is no folder"),
        (["--text", "a", "--model", "hf:NO_TOKENIZER"], "has no tokenizer; save one there"),
        (["--text", "a", "--model", "hf:EMPTY"], "has no config.json"),
        (["--text", "a", "--model", "hf:MASKED"], "is a BertForMaskedLM; relprop explains text for"),
        (["--text", "a", "--model", "demo"], "text is for language models, --model hf:ID_OR_FOLDER, not demo"),
        (["--text", "a", "--model", "bert"], "'bert' is no model specification"),
        (["--text", " ", "--model", "hf:CLASSIFIER"], "--text is empty"),
        (["--text", "-", "--model", "hf:CLASSIFIER"], "no text on stdin"),
        (["--text", "cat " * 40, "--model", "hf:CLASSIFIER"], "has 42 tokens, but hf:"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--composite", "plus"], "unknown composite 'plus' for text"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--target", "goood"], "did you mean good"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--target", "3"], "target 3 is out of range"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--similar-to", "b"], "is a classifier: use --target"),
        (["--text", "a", "--model", "hf:ENCODER", "--target", "1"], "use --similar-to SENTENCE, not --target"),
        (["--text", "a", "--model", "hf:CAUSAL", "--target", "the dog"], "give one of them, or #ID"),
        (["--text", "a", "--model", "hf:CAUSAL", "--target", "#999"], "target #999 is out of range"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--size", "8"], "are for pictures, not for --text"),
        (["--model", "demo", "--similar-to", "a"], "--similar-to needs --text"),
        (["--text", "a", "--model", "hf:CLASSIFIER", "--device", "gpu"], "the device 'gpu' cannot be used"),
    ],
)  # fmt: skip
def test_errors(arguments, message, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {
        "CLASSIFIER": folders / "classifier",
        "ENCODER": folders / "encoder",
        "CAUSAL": folders / "causal-lm",
        "MASKED": folders / "masked-lm",
        "NO_TOKENIZER": folders / "no-tokenizer",
        "EMPTY": tmp_path / "empty",
    }
    for name, place in places.items():
        arguments = [argument.replace(f"hf:{name}", f"hf:{place}") for argument in arguments]
    result = run(*arguments, "--out", tmp_path / "out", code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr.replace("\n", " ")
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_head_is_refused(folders, tmp_path):
    folder = tmp_path / "headless"
    transformers.BertModel.from_pretrained(folders / "encoder").save_pretrained(folder)
    word_piece().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelError, match=r"lacks 2 weights of BertForSequenceClassification, such as classifier"):
        load_text(f"hf:{folder}")


def test_text_that_is_not_unicode_is_refused(folders):
    with pytest.raises(InputError, match="not valid Unicode"):
        load_text(f"hf:{folders / 'encoder'}").encode("a\udcff")


def test_a_torchvision_that_cannot_be_imported_is_hidden_while_text_models_load(monkeypatch):
    def broken(name):
        raise RuntimeError(f"operator {name}::nms does not exist")

    import torchvision

    forgotten = []
    monkeypatch.setattr(text_models, "_forget_torchvision", lambda: forgotten.append(True))
    with text_models._without_broken_torchvision():
        assert sys.modules["torchvision"] is torchvision
    monkeypatch.setattr(text_models.importlib, "import_module", broken)
    with text_models._without_broken_torchvision():
        assert sys.modules["torchvision"] is None
    assert sys.modules["torchvision"] is torchvision
    assert forgotten == [True]


def test_a_target_that_is_another_token_behind_a_space_is_said(folders, tmp_path):
    loaded = load_text(f"hf:{folders / 'causal-lm'}")
    bare, spaced = loaded.tokenizer.convert_tokens_to_ids(["the", "Ġthe"])
    assert bare != spaced
    with pytest.warns(UserWarning, match=f"'the' is the token 'the'; behind a space .* --target Ġthe or #{spaced}"):
        assert resolve_token("the", loaded) == bare
    result = run("--text", "the cat", "--model", loaded.name, "--target", "the", "--out", tmp_path / "o")
    assert "behind a space" in result.stderr


def test_lines_on_stdin_that_are_no_text_are_refused(folders, tmp_path):
    model = f"hf:{folders / 'encoder'}"
    error = run("--text", "-", "--model", model, "--out", tmp_path / "o", code=2, stdin=b"odd \xff\n").stderr
    assert "not valid Unicode" in error


def test_a_checkpoint_that_brings_code_is_refused_without_a_question(folders, tmp_path):
    folder = tmp_path / "code"
    transformers.BertModel.from_pretrained(folders / "encoder").save_pretrained(folder)
    word_piece().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    run("--text", "a", "--model", f"hf:{folder}", "--out", tmp_path / "o", code=2, stdin="y\ny\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["classifier", "encoder", "causal-lm"])
def test_check_says_whether_a_language_model_can_be_explained(folders, kind):
    asked = ["check", "--model", f"hf:{folders / kind}", "--text", TEXT, "--json"]
    result = CliRunner().invoke(app, asked, env={"NO_COLOR": "1"})
    found = json.loads(result.stdout)
    assert result.exit_code == {"fine": 0, "doubtful": 1}[found["verdict"]], result.output
    assert found["composite"] == {"causal-lm": "attnlrp"}.get(kind, "reslrp-cp")
    assert all(line["imbalance"] < 1e-3 for line in found["lines"])
    assert any(line["operator"] == "scaled_dot_product_attention" for line in found["lines"])
    assert found["arrived"] + sum(share for _, share in found["sinks"]) == pytest.approx(1.0, abs=2e-2)
