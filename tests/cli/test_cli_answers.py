"""`relprop explain --prompt` and `--chat`, as a user meets them, with tiny models in folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support.compare import assert_close
from support.tokens import bytes_bpe
from support.torchvision_shim import install
from typer.testing import CliRunner

from relprop.analyzers import AnswerExplainer
from relprop.cli.app import app
from relprop.errors import InputError
from relprop.explanations.answers import ExplainedAnswer
from relprop.jobs.answer_plan import Question, contrasts, read_chats
from relprop.models import load_text

install()
transformers = pytest.importorskip("transformers")

PROMPT, ANSWER = "the quick brown", " fox jumps"
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
CHAT = [{"role": "user", "content": "the lazy dog"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    t5 = transformers.T5Config(
        vocab_size=320, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=0, architectures=["T5ForConditionalGeneration"],
    )  # fmt: skip
    bert = transformers.BertConfig(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    for name, model in {
        "decoder": transformers.LlamaForCausalLM(config),
        "t5": transformers.T5ForConditionalGeneration(t5),
        "encoder": transformers.BertModel(bert),
    }.items():
        tokenizer = bytes_bpe()
        tokenizer.chat_template = None if name == "t5" else TEMPLATE
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def run(*arguments: Any, code: int = 0, stdin: str | None = None) -> Any:
    env = {"COLUMNS": "250", "FORCE_COLOR": None, "NO_COLOR": "1"}
    result = CliRunner().invoke(app, ["explain", *(str(a) for a in arguments)], env=env, input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_given_answer(folders: Path, tmp_path: Path):
    model = f"hf:{folders / 'decoder'}"
    asked = ("--prompt", PROMPT, "--answer", ANSWER, "--contrast", "dog", "--out", tmp_path)
    said = run("--model", model, *asked).output
    loaded = load_text(model)
    found = AnswerExplainer(loaded.whole, loaded.tokenizer)(PROMPT, ANSWER, contrast={0: " dog"})
    assert "the given answer: fox jumps" in said
    assert f"{PROMPT}{ANSWER}" in said
    row = next(line for line in said.splitlines() if line.startswith("fox and not dog") or "and not dog" in line)
    assert f"{float(found.probability[0]):.3f}" in row
    for token, r in found.top(1, 4):
        assert (f"{token.strip()} {r:.3g}" in said) == (r > 0)
    with safe_open(tmp_path / "the-quick-brown.relevance.safetensors", "pt") as file:
        assert_close(file.get_tensor("relevance"), found.relevance, rtol=1e-5)
        assert_close(file.get_tensor("explained"), found.explained, rtol=1e-5)
        assert file.metadata()["model"] == model
        assert json.loads(file.metadata()["contrast"]) == {"0": "dog"}
    again = ExplainedAnswer.load(tmp_path / "the-quick-brown.tokens.json")
    assert again.answer == found.answer
    assert again.against[0] == " dog"
    assert_close(again.relevance, found.relevance.double(), rtol=1e-5)
    assert '<section class="answer-section"' in (tmp_path / "the-quick-brown.html").read_text("utf-8")


def test_what_the_model_says_as_json(folders: Path, tmp_path: Path):
    model = f"hf:{folders / 'decoder'}"
    asked = ("--prompt", "-", "--json", "--longest", 3, "--unit", "words", "--out", tmp_path, "--composite", "cplrp")
    said = json.loads(run("--model", model, *asked, stdin="the catx\n\na warm dogs\n").stdout)
    assert [each["asked"] for each in said] == ["the catx", "a warm dogs"]
    loaded = load_text(model)
    for each in said:
        ids = loaded.tokenizer(each["asked"], return_tensors="pt")
        wanted = loaded.whole.generate(**ids, max_new_tokens=3, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert each["answered"] == loaded.tokenizer.decode(wanted)
        assert each["composite"] == "cplrp"
        assert each["given"] is False
        assert ["<s>", *each["asked"].split()] == [piece["text"] for piece in each["prompt"]]
        assert len(each["relevance"]) == len(each["steps"]) == len(each["answer"])
    page = (tmp_path / "overview.html").read_text("utf-8")
    assert page.count('<section class="answer-section"') == 2


def test_chats(folders: Path, tmp_path: Path):
    model, loaded = f"hf:{folders / 'decoder'}", load_text(f"hf:{folders / 'decoder'}")
    explain = AnswerExplainer(loaded.whole, loaded.tokenizer)
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([*CHAT, {"role": "assistant", "content": ANSWER}]))
    (said,) = json.loads(run("--model", model, "--chat", chat, "--json", "--out", tmp_path / "one").stdout)
    assert said["answered"] == ANSWER
    assert_close(torch.tensor(said["relevance"]), explain(CHAT, ANSWER).relevance, rtol=1e-4)
    assert (tmp_path / "one" / "the-lazy-dog.html").exists()
    run("--model", f"hf:{folders / 't5'}", "--chat", chat, "--out", tmp_path / "two", code=2)


@pytest.mark.slow
def test_an_encoder_decoder(folders: Path, tmp_path: Path):
    model, loaded = f"hf:{folders / 't5'}", load_text(f"hf:{folders / 't5'}")
    assert loaded.kind == "encoder-decoder"
    asked = ("--prompt", PROMPT, "--answer", ANSWER, "--json", "--out", tmp_path)
    (said,) = json.loads(run("--model", model, *asked).stdout)
    found = AnswerExplainer(loaded.whole, loaded.tokenizer)(PROMPT, ANSWER)
    assert_close(torch.tensor(said["relevance"]), found.relevance, rtol=1e-4)
    run("--model", model, "--text", PROMPT, "--out", tmp_path, "--overwrite")
    (token,) = json.loads((tmp_path / "the-quick-brown.tokens.json").read_text())["target_name"].split("'")[1::2]
    with torch.no_grad():
        logits = loaded.whole(**loaded.encode(PROMPT), decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
    assert token == repr(loaded.tokenizer.decode([int(logits.argmax())]))[1:-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", PROMPT, "--text", "x"], "go without --text"),
        (["--prompt", PROMPT, "--target", "x"], "go without --target"),
        (["--answer", ANSWER], "need --prompt or --chat"),
        (["--json"], "give at least one picture or folder, or --text SENTENCE, or --prompt TEXT"),
        (["--prompt", PROMPT, "--unit", "lines"], "not 'lines'"),
        (["--prompt", "a", "--prompt", "b", "--answer", "c"], "of one prompt"),
        (["--prompt", " "], "no tokens to explain"),
        (["--prompt", PROMPT, "--chat", "x.json"], "give it alone"),
        (["--chat", "x.json"], "x.json cannot be read"),
        (["--prompt", "the " * 70], "has 72 tokens"),
        (["--prompt", PROMPT, "--answer", ANSWER, "--contrast", "brown fox jumps"], "tokens"),
        (["--prompt", PROMPT, "--contrast", "a", "--contrast", "0=b"], "for token 0"),
    ],
)
def test_refusals(folders: Path, tmp_path: Path, arguments: list[str], message: str):
    said = run("--model", f"hf:{folders / 'decoder'}", *arguments, "--out", tmp_path / "out", code=2)
    assert message in re.sub(r"\s+", " ", said.output)
    assert not (tmp_path / "out").exists()


def test_an_encoder_gives_no_answers(folders: Path, tmp_path: Path):
    said = run("--model", f"hf:{folders / 'encoder'}", "--prompt", PROMPT, "--out", tmp_path / "out", code=2)
    assert "use --text" in said.output


def test_an_answer_without_its_space_is_noticed(folders: Path, tmp_path: Path):
    said = run("--model", f"hf:{folders / 'decoder'}", "--prompt", PROMPT, "--answer", "fox", "--out", tmp_path)
    assert "without a space" in said.output


def test_files_of_chats(tmp_path: Path):
    lines = tmp_path / "chats.jsonl"
    lines.write_text(
        json.dumps(CHAT) + "\n\n" + json.dumps({"prompt": "a", "answer": "b", "contrast": {"1": "c"}}) + "\n"
        + json.dumps({"messages": [*CHAT, {"role": "assistant", "content": "yes"}], "contrast": "no"})
    )  # fmt: skip
    assert read_chats(lines) == [
        Question(CHAT), Question("a", "b", {1: "c"}), Question(CHAT, "yes", {0: "no"}),
    ]  # fmt: skip
    both = tmp_path / "both.json"
    both.write_text(json.dumps([CHAT, CHAT]))
    assert read_chats(both) == [Question(CHAT), Question(CHAT)]
    for text in ("[]", "[1]", '{"messages": []}', '[{"role": "user"}]', '{"prompt": "a", "contrast": ["b"]}', "nothing",
                 '[{"role": "assistant", "content": "x"}]'):  # fmt: skip
        both.write_text(text)
        with pytest.raises(InputError, match=r"both\.json"):
            read_chats(both)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "there is no chat"),
        ("true", "there is no chat"),
        ('"hello"', "there is no chat"),
        ('{"role": "user", "content": "x"}', "no list of messages"),
        ('[{"role": "user", "content": [{"type": "text", "text": "x"}]}]', "has to be a text"),
        ('{"prompt": "a", "answer": 5}', "answer is 5, and has to be a text"),
        ('{"prompt": ""}', "has nothing to explain"),
        ('{"prompt": "", "answer": "x"}', "nothing before it"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_chat(tmp_path: Path, text: str, message: str):
    chat = tmp_path / "chat.json"
    chat.write_text(text)
    with pytest.raises(InputError, match=message) as said:
        read_chats(chat)
    assert str(chat) in str(said.value)


def test_the_line_that_is_no_chat_is_named(tmp_path: Path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\ufeff" + json.dumps(CHAT) + "\n\n{" + json.dumps(CHAT), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 3 of the chats .*chats\.jsonl"):
        read_chats(chats)
    odd = [{"role": "user", "content": "a\u2028b"}]
    chats.write_text("\ufeff" + json.dumps(odd, ensure_ascii=False) + "\r\n", encoding="utf-8", newline="")
    assert read_chats(chats) == [Question(odd)]


def test_contrasts_by_number():
    assert contrasts(["London"]) == {0: "London"}
    assert contrasts(["2= London", "-1=x=y"]) == {2: " London", -1: "x=y"}
    assert contrasts([]) is None


def test_a_gguf_file_that_is_not_there(tmp_path: Path):
    said = run("--model", f"hf:{tmp_path}/tiny.gguf", "--prompt", PROMPT, "--out", tmp_path / "out", code=2)
    assert f"there is no file tiny.gguf in {tmp_path}" in said.output
    said = run("--model", f"hf:{tmp_path}/none/tiny.gguf", "--prompt", PROMPT, "--out", tmp_path / "out", code=2)
    assert "none is no folder" in said.output
