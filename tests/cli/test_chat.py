"""`tune chat`: the dialogue that transformers would have with the same folder, its commands, adapters, two models."""

import io
import json
import shutil

import peft
import pytest
import torch
import transformers
from tiny_run import make_model

from torchtune.chat import Dialogue
from torchtune.cli import main
from torchtune.demo import ASSETS
from torchtune.errors import CheckpointError

DEMO = ASSETS / "model"
SHORT = ["--temperature", "0", "--max-new-tokens", "12"]
HELLO, MORE = "Which word comes after stone?", "And after that one?"


@pytest.fixture
def chat(monkeypatch, capsys):
    """Runs the command with these lines as its input, and gives what it printed."""

    def run(*words, lines=(HELLO,)):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        main(["chat", *map(str, words), *SHORT])
        return capsys.readouterr().out

    return run


def their_dialogue(model, messages: list[str], system: str | None = None) -> list[str]:
    """transformers' greedy answers to one message after the other."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    said, answers = [{"role": "system", "content": system}] if system else [], []
    for message in messages:
        said.append({"role": "user", "content": message})
        ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        new = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, pad_token_id=0)
        answers.append(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True))
        said.append({"role": "assistant", "content": answers[-1]})
    return answers


@pytest.fixture(scope="module")
def demo():
    return transformers.AutoModelForCausalLM.from_pretrained(DEMO)


def test_a_dialogue_is_that_of_transformers(chat, demo):
    assert chat(DEMO, lines=[HELLO, "", MORE]).splitlines() == their_dialogue(demo, [HELLO, MORE])
    assert their_dialogue(demo, [HELLO, MORE])[1] != their_dialogue(demo, [MORE])[0]


def test_commands(chat, demo):
    lines = [HELLO, "/reset", MORE, "/system Be brief.", MORE, "/reset", HELLO, "/system", HELLO, "/quit", MORE]
    alone = {message: their_dialogue(demo, [message])[0] for message in (HELLO, MORE)}
    briefly = {message: their_dialogue(demo, [message], "Be brief.")[0] for message in (HELLO, MORE)}
    expected = [alone[HELLO], alone[MORE], briefly[MORE], briefly[HELLO], alone[HELLO]]
    assert chat(DEMO, lines=lines).splitlines() == expected
    assert "There is no /sistem" in chat(DEMO, lines=["/sistem x"])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, demo):
    """A folder of PEFT above the demo's model, and PEFT's model."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    base = transformers.AutoModelForCausalLM.from_pretrained(DEMO)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(folder)
    return folder, model.eval()


def test_an_adapter_finds_its_base(chat, demo, adapter, tmp_path):
    folder, theirs = adapter
    expected = their_dialogue(theirs, [HELLO, MORE])
    assert chat(folder, lines=[HELLO, MORE]).splitlines() == expected != their_dialogue(demo, [HELLO, MORE])
    inner = tmp_path / "epoch_0" / "adapter"
    shutil.copytree(folder, inner)
    assert chat(inner, lines=[HELLO, MORE]).splitlines() == expected


def test_an_adapter_whose_base_is_elsewhere(chat, adapter, tmp_path):
    folder, theirs = adapter
    moved = shutil.copytree(folder, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "meta-llama/None"}))
    with pytest.raises(SystemExit) as stopped:
        chat(moved)
    assert stopped.value.code == CheckpointError.exit_code
    assert chat(moved, "--base", DEMO).splitlines() == their_dialogue(theirs, [HELLO])


def test_two_models_answer_one_after_the_other(chat, demo, adapter):
    folder, theirs = adapter
    found = chat(folder, "--compare", DEMO, lines=[HELLO, MORE]).splitlines()
    pairs = zip(their_dialogue(demo, [HELLO, MORE]), their_dialogue(theirs, [HELLO, MORE]))
    assert found == [line for base, tuned in pairs for line in (f"base: {base}", f"tuned: {tuned}")]


def test_a_folder_without_a_template_takes_the_format_of_training(chat, tmp_path):
    assert chat(make_model(tmp_path / "model")) != ""
    config = {"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stopped:
        chat(tmp_path / "model")
    assert stopped.value.code == 3


def test_a_dialogue_that_is_too_long_says_so(chat, demo):
    first, second = chat(DEMO, lines=["long " * 60, HELLO]).splitlines()
    assert "the model reads at most 256; /reset begins anew" in first
    assert [second] == their_dialogue(demo, [HELLO]), "what was refused is no part of the dialogue"


def test_an_answer_comes_in_pieces_of_whole_letters(monkeypatch):
    dialogue, text = Dialogue(DEMO), "caf\u00e9 \U0001f600!"
    tokens = [*dialogue.tokenizer.encode(text, add_bos=False, add_eos=False), dialogue.tokenizer.eos_id, 5]
    monkeypatch.setattr("torchtune.chat.stream", lambda model, prompts, **options: ([token] for token in tokens))
    pieces = list(dialogue.answer("Hi", 50))
    assert "".join(pieces) == text and pieces[:5] == ["c", "a", "f", "\u00e9", " "]


def test_what_was_taken_of_an_answer_stays_in_the_dialogue():
    dialogue = Dialogue(DEMO, temperature=0)
    answer = dialogue.answer("Hi", 12)
    first = next(answer)
    answer.close()
    assert [message.text_content for message in dialogue.messages] == ["Hi", first]
