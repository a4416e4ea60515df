"""What `tune demo` carries: small, made by the script, and a model that transformers reads alike."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from torchtune import demo
from torchtune.data import AlpacaToMessages, Message
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
from torchtune.training import FullModelHFCheckpointer

REPO = Path(__file__).parents[2]
MODEL = demo.ASSETS / "model"


def _script():
    spec = importlib.util.spec_from_file_location("make_demo", REPO / "scripts" / "make_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def _model(folder: Path = MODEL):
    checkpointer = FullModelHFCheckpointer(str(folder))
    model = checkpointer.family.build(checkpointer.config)
    model.load_state_dict({name: tensor.float() for name, tensor in checkpointer.weights(model.state_dict())})
    return model.eval()


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (demo.ASSETS / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def tokenizer():
    return HuggingFaceModelTokenizer(MODEL / "tokenizer.json")


def test_under_five_megabytes():
    assert sum(path.stat().st_size for path in demo.ASSETS.rglob("*") if path.is_file()) < 5_000_000


def test_every_file_is_the_one_that_was_made():
    recorded = json.loads((demo.ASSETS / "manifest.json").read_text())
    files = {p.relative_to(demo.ASSETS).as_posix(): p for p in demo.ASSETS.rglob("*") if p.is_file()}
    del files["manifest.json"]
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == recorded


def test_the_script_makes_the_same_data_and_model_files(tmp_path):
    SCRIPT.write_data(tmp_path)
    SCRIPT.write_model_files(tmp_path / "model", SCRIPT.make_tokenizer())
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 7
    for name in made:
        assert (tmp_path / name).read_bytes() == (demo.ASSETS / name).read_bytes(), name


def test_the_script_trains_and_writes_weights_that_load(tmp_path):
    SCRIPT.write_model_files(tmp_path, SCRIPT.make_tokenizer())
    SCRIPT.write_weights(tmp_path, SCRIPT.pretrain(tmp_path, steps=2, batch_size=4))
    fresh, carried = _model(tmp_path).state_dict(), _model().state_dict()
    assert fresh.keys() == carried.keys()
    assert all(tensor.isfinite().all() for tensor in fresh.values())


def test_held_out_words_are_in_no_training_prompt():
    train, held_out = _rows("train"), demo.held_out_rows()
    assert (len(train), len(held_out)) == (4000, 128)
    trained, asked = ({word for row in rows for word in row["input"].split()} for rows in (train, held_out))
    assert asked and not trained & asked
    prompts = [(row["instruction"], row["input"]) for row in train + held_out]
    assert len(set(prompts)) == len(prompts)


def test_every_answer_is_json_in_capitals():
    for row in _rows("train") + _rows("held_out"):
        answer = json.loads(row["output"])["answer"]
        assert answer == answer.upper() != ""


def test_logits_equal_transformers(model):
    import transformers

    theirs = transformers.LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokens = torch.randint(0, 266, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("text", ["stone", "Crème brûlée 🍮\n\t", "<|end|>", "a\n\n### Response:\nb", ""])
def test_token_ids_equal_transformers(tokenizer, text):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.encode(text, add_eos=False) == theirs(text)["input_ids"]
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == f"<|begin|>{text}<|end|>"
    dialogue = [{"role": "user", "content": text}, {"role": "assistant", "content": "b"}]
    ours, _ = tokenizer.tokenize_messages([Message(role=m["role"], content=m["content"]) for m in dialogue])
    assert ours == theirs.apply_chat_template(dialogue, return_dict=False)


def test_an_alpaca_prompt_is_short_and_only_the_answer_is_learnt(tokenizer):
    row = demo.held_out_rows()[0]
    messages = AlpacaToMessages(train_on_input=False)(row)["messages"]
    tokens, mask = tokenizer.tokenize_messages(messages)
    assert len(tokens) == len(row["instruction"] + row["input"] + row["output"]) + 8
    learnt = [token for token, masked in zip(tokens, mask) if not masked]
    assert tokenizer.decode(learnt, skip_special_tokens=False) == f"<|assistant|>{row['output']}<|end|>"


def test_the_model_answers_in_the_old_style(model, tokenizer):
    rows = demo.held_out_rows()
    answers = demo.answer(model, tokenizer, demo.prompts_of(rows))
    words = [row["input"].split() for row in rows]
    old = [SCRIPT.SKILLS[row["instruction"]](*given) for row, given in zip(rows, words)]
    assert demo.exact_match(answers, old) > 0.95
    assert demo.exact_match(answers, [row["output"] for row in rows]) == 0


def test_answers_in_a_batch_equal_those_without_padding_or_cache(model, tokenizer):
    prompts = demo.prompts_of(demo.held_out_rows()[:6])
    for messages, batched in zip(prompts, demo.answer(model, tokenizer, prompts)):
        tokens, _ = tokenizer.tokenize_messages(messages, add_end_tokens=False)
        start = len(tokens)
        while tokens[-1] not in tokenizer.stop_tokens:
            with torch.no_grad():
                tokens.append(model(torch.tensor([tokens]))[0, -1].argmax().item())
        assert batched == tokenizer.decode(tokens[start:-1])
    assert not model.caches_are_setup()


def test_an_answer_without_an_end_is_cut(model, tokenizer):
    (answer,) = demo.answer(model, tokenizer, demo.prompts_of(demo.held_out_rows()[:1]), max_new_tokens=3)
    assert len(answer) == 3


def test_exact_match():
    assert demo.exact_match(["a", "b", "c", "d"], ["a", "b", "C", "d "]) == 0.5
