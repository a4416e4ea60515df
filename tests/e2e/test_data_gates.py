"""Faults of the data through `tune run`: each ends the run or is said, with a count and a place; off means silence."""

import json
from typing import Any

import pytest
import yaml
from tiny_run import recipe_module

recipe_module()  # what it imports need not be imported by every run
BOS, END = "<|begin_of_text|>", "<|eot_id|>"
# A template with one fault; the tokens are those of the tiny tokenizer.
TEMPLATE = (
    "{begin}{{% for m in messages %}}{{% if m.role != '{dropped}' %}}"
    "<|start_header_id|>{{{{ m.role }}}}<|end_header_id|>"
    "{{% if m.role == 'assistant' %}}{{% generation %}}{{{{ m.content }}}}{inside}{{% endgeneration %}}{outside}"
    "{{% else %}}{{{{ m.content }}}}<|eot_id|>{{% endif %}}{{% endif %}}{{% endfor %}}"
)
ALL = 8


def dialogue(number: int, *roles: str, **texts: str) -> dict:
    return {"messages": [{"role": role, "content": texts.get(role, f"{role} says {number}")} for role in roles]}


ANSWERED = [dialogue(i, "user", "assistant") for i in range(ALL)]
WITH_SYSTEM = [dialogue(i, "system", "user", "assistant") for i in range(ALL)]


def chat(tiny, name: str, rows: list[dict]) -> dict[str, Any]:
    """A dataset of dialogues."""
    path = tiny.root / f"gate_{name}.jsonl"  # others use the tiny run's own files
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    component = {"_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": str(path)}
    return {**component, "conversation_column": "messages", "conversation_style": "openai"}


def with_template(tiny, **fault: str) -> dict[str, Any]:
    """The tiny tokenizer with a chat template, and dialogues with a system message."""
    (tiny.model / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": END}))
    source = TEMPLATE.format(**{"begin": BOS, "dropped": "", "inside": END, "outside": "", **fault})
    component = "torchtune.modules.transforms.tokenizers.HuggingFaceModelTokenizer"
    path = str(tiny.model / "tokenizer.json")
    tokenizer = {"_component_": component, "tokenizer_json_path": path, "chat_template": source}
    return {"tokenizer": tokenizer, "dataset": chat(tiny, "system", WITH_SYSTEM)}


def no_target(tiny, share: int) -> dict[str, Any]:
    return {"dataset": chat(tiny, "unanswered", [dialogue(i, "user") for i in range(share)] + ANSWERED[share:])}


def cut_answer(tiny, share: int) -> dict[str, Any]:
    long = [dialogue(i, "user", "assistant", user="long " * 60) for i in range(share)]
    tokenizer = yaml.safe_load(tiny.config.read_text())["tokenizer"]
    return {"dataset": chat(tiny, "long", long + ANSWERED[share:]), "tokenizer": tokenizer | {"max_seq_len": 200}}


def empty_answer(tiny, share: int) -> dict[str, Any]:
    empty = [dialogue(i, "user", "assistant", assistant="") for i in range(share)]
    return {"dataset": chat(tiny, "empty", empty + ANSWERED[share:])}


def unknown_ids(tiny, share: int) -> dict[str, Any]:
    (tiny.root / "odd_data.py").write_text(
        "def odd(tokenizer, share):\n"
        "    rows = [[256, 65, 300 if i < share else 66] for i in range(8)]\n"
        "    return [{'tokens': row, 'labels': row} for row in rows]\n"
    )
    return {"dataset": {"_component_": "odd_data.odd", "share": share}}


def validation_overlap(tiny, share: int) -> dict[str, Any]:
    others = [dialogue(100 + i, "user", "assistant") for i in range(ALL - share)]
    return {"dataset": chat(tiny, "train", ANSWERED), "dataset_val": chat(tiny, "val", others + ANSWERED[:share])}


FAULTS = {
    "no_target": no_target,
    "cut_answer": cut_answer,
    "empty_answer": empty_answer,
    "missing_end": lambda tiny, share: with_template(tiny, inside="", outside=END),
    "double_bos": lambda tiny, share: with_template(tiny, begin=BOS * 2),
    "dropped_message": lambda tiny, share: with_template(tiny, dropped="system"),
    "unknown_ids": unknown_ids,
    "validation_overlap": validation_overlap,
}
SAID = {
    "no_target": "{share} of 8 samples of dataset have no token to train on",
    "cut_answer": "{share} of 8 samples of dataset are cut at 200 tokens before anything to train on",
    "missing_end": "8 of 8 samples of dataset train no token that ends a turn (<|eot_id|>",
    "double_bos": "8 of 8 samples of dataset begin with <|begin_of_text|> twice",
    "empty_answer": "{share} of 8 samples of dataset train an answer without text",
    "dropped_message": "8 of 8 samples of dataset have a message from 'system' that is not in what the model reads",
    "unknown_ids": "{share} of 8 samples of dataset hold ids that the model's embedding of 271 rows does not have",
    "validation_overlap": "{share} of 8 samples of dataset_val stand in dataset too (the first: {root}/gate_train",
}
EXAMPLE = {
    "no_target": "unanswered.jsonl, line 1: ",
    "cut_answer": "long.jsonl, line 1: '",
    "empty_answer": "empty.jsonl, line 1: '",
    "missing_end": "system.jsonl, line 1: '",
    "double_bos": f"system.jsonl, line 1: '{BOS}{BOS}",
    "dropped_message": "system.jsonl, line 1: 'system says 0'",
    "unknown_ids": "dataset, sample 1: ",
    "validation_overlap": "val.jsonl, line {val_line}: ",
}
STOPS = [name for name in FAULTS if name != "validation_overlap"]
# What is not a fault of the tokenizer as a whole.
SOMETIMES = ["no_target", "cut_answer", "empty_answer", "validation_overlap"]


def run(tiny, out: str, fault: str, share: int, **keys: Any):
    """Runs one step with a config that has this fault in so many samples."""
    config = yaml.safe_load(tiny.config.read_text()) | FAULTS[fault](tiny, share)
    config |= {"output_dir": str(tiny.root / out), "max_steps_per_epoch": 1, "log_level": "WARNING", **keys}
    path = tiny.root / f"{out}.yaml"
    path.write_text(yaml.safe_dump(config))
    return tiny.tune("run", "--config", str(path))


def check_said(tiny, ended, fault: str, share: int) -> None:
    said = " ".join(ended.err.split())
    assert SAID[fault].format(share=share, root=tiny.root) in said, ended.err
    assert EXAMPLE[fault].format(val_line=ALL - share + 1) in said, ended.err


@pytest.mark.parametrize("fault", STOPS)
def test_a_fault_of_most_samples_ends_the_run(tiny, fault):
    ended = run(tiny, f"{fault}-error", fault, ALL)
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err and len(ended.err.splitlines()) <= 15
    check_said(tiny, ended, fault, ALL)
    assert f"data_checks.{fault}=off" in ended.err and "tune data" in ended.err
    assert not (tiny.root / f"{fault}-error" / "epoch_0").exists()


@pytest.mark.parametrize("fault", SOMETIMES)
def test_a_fault_of_some_samples_is_said(tiny, fault):
    ended = run(tiny, f"{fault}-some", fault, 2)
    assert ended.code == 0, ended.err
    check_said(tiny, ended, fault, 2)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "unknown_ids"])
def test_a_check_that_is_off_is_silent(tiny, fault):
    ended = run(tiny, f"{fault}-off", fault, ALL, data_checks={fault: "off"})
    assert ended.code == 0, ended.err
    assert fault not in ended.err and "Data:" not in ended.err


def test_ids_that_the_model_does_not_have_may_be_left_to_it(tiny):
    ended = run(tiny, "ids-off", "unknown_ids", 1, data_checks={"unknown_ids": False})
    assert ended.code == 1 and "index out of range" in ended.err and "unknown_ids" not in ended.err


@pytest.mark.parametrize("fault, level, code", [("double_bos", "warn", 0), ("validation_overlap", "error", 3)])
def test_the_config_has_the_last_word_on_how_bad_it_is(tiny, fault, level, code):
    ended = run(tiny, f"{fault}-{level}", fault, ALL, data_checks={fault: level})
    assert ended.code == code, ended.err
    check_said(tiny, ended, fault, ALL)


def test_misspelt_names_and_levels(tiny):
    ended = run(tiny, "name", "double_bos", ALL, data_checks={"double_boss": "off"})
    assert ended.code == 2 and "Did you mean 'double_bos'?" in ended.err
    ended = run(tiny, "level", "double_bos", ALL, data_checks={"double_bos": "warning"})
    assert ended.code == 2 and "data_checks.double_bos must be one of off, warn, error" in ended.err


@pytest.mark.parametrize(
    "word, said",
    [
        ("data_checks.double_boss=off", "command line: data_checks has no 'double_boss'"),
        ("data_checks=off", "command line: data_checks must be a mapping, found False; each check is set by its name"),
    ],
)
def test_wrong_settings_on_the_command_line(tiny, word, said):
    ended = tiny.tune("run", "--config", str(tiny.config), word, f"output_dir={tiny.root / 'wrong'}")
    assert ended.code == 2 and said in ended.err


def test_a_tokenizer_that_the_model_cannot_hold_is_refused_whatever_the_data_checks_say(tiny):
    words = ["model.vocab_size=200", "data_checks.unknown_ids=warn", f"output_dir={tiny.root / 'small'}"]
    ended = tiny.tune("run", "--config", str(tiny.config), *words)
    assert ended.code == 4 and "no setting of data_checks changes it" in ended.err


def test_the_check_is_switched_off_on_the_command_line(tiny):
    config = tiny.root / "double_bos-error.yaml"
    if not config.exists():
        run(tiny, "double_bos-error", "double_bos", ALL)
    ended = tiny.tune("run", "--config", str(config), "data_checks.double_bos=off", f"output_dir={tiny.root / 'line'}")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("fault", ["cut_answer", "missing_end", "dropped_message"])
def test_packs_are_looked_at_by_their_samples(tiny, fault):
    changed = FAULTS[fault](tiny, 5)
    tokenizer = changed["tokenizer"] | {"max_seq_len": 200}
    ended = run(tiny, f"{fault}-packed", fault, 5, dataset=changed["dataset"] | {"packed": True}, tokenizer=tokenizer)
    assert ended.code == 3, ended.err
    check_said(tiny, ended, fault, 5)


def test_two_processes_say_it_once(tiny):
    rows = tiny.root / "rows.jsonl"
    words = ["tokenizer.max_seq_len=150", "dataset.train_on_input=False", "log_level=WARNING"]
    ended = tiny.run("both", *words, f"dataset.data_files={rows}", processes=2)
    assert ended.codes[0] == 3 and ended.codes[1] in (3, 6)
    assert ended.err.count("48 of 48 samples of dataset are cut at 150 tokens") == 1
