"""The generation recipe: prompts of all kinds, all kinds of checkpoints, and what it prints and writes."""

import json
import logging
import re

import pytest
import torch
import transformers
import yaml
from tiny_run import REPO, recipe_module

from torchtune.cli import catalog
from torchtune.config.schema import GenerateConfig
from torchtune.data import Message
from torchtune.models.llama3 import llama3_tokenizer

QUESTION = "Say red stone"
GREEDY = ["temperature=0", "max_new_tokens=16"]


RECIPE = recipe_module("generate")


@pytest.fixture(scope="module")
def folder(tiny):
    """A config for the tiny model: the shipped one with its sizes."""
    content = yaml.safe_load(catalog.find_config("generation").path.read_text())
    trained = yaml.safe_load(tiny.config.read_text())
    content |= {key: trained[key] for key in ("model", "tokenizer", "device", "dtype")}
    content |= {"checkpoint_dir": str(tiny.model), "output_dir": str(tiny.root / "answers"), "log_level": "WARNING"}
    content["tokenizer"]["max_seq_len"] = None
    (tiny.root / "generation.yaml").write_text(yaml.safe_dump(content))
    return tiny.root


@pytest.fixture(autouse=True)
def logging_as_before():
    """The recipe sets up logging for its process, which here is the one of all tests."""
    ours = logging.getLogger("torchtune")
    level, handlers = ours.level, ours.handlers[:]
    yield
    ours.setLevel(level)
    ours.handlers[:] = handlers


@pytest.fixture
def ask(folder, capsys):
    """Runs the recipe in this process and gives what it printed."""

    def run(*words: str) -> str:
        RECIPE.main(["--config", str(folder / "generation.yaml"), *words])
        return capsys.readouterr().out.removesuffix("\n")

    return run


def tokens_of(tokenizer, *messages):
    prompt = [Message(role, text) for role, text in messages] + [Message("assistant", "")]
    return tokenizer({"messages": prompt}, inference=True)["tokens"]


def their_answer(model, tiny, *messages, text=None) -> str:
    """Greedy, by transformers, to a dialogue or after a text."""
    tokenizer = llama3_tokenizer(str(tiny.model / "tokenizer.json"))
    ids = tokenizer.encode(text, add_eos=False) if text else tokens_of(tokenizer, *messages)
    ids = torch.tensor([ids])
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 16, "pad_token_id": 0}
    new = model.generate(ids, eos_token_id=tokenizer.stop_tokens, **how)[0, ids.shape[1] :].tolist()
    return tokenizer.decode([token for token in new if token not in tokenizer.stop_tokens])


def their_model(folder, adapter=None):
    import peft

    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)


def test_answers_a_question_as_transformers_does(tiny, ask):
    model = their_model(tiny.model)
    assert ask(*GREEDY, f"prompt.user={QUESTION}") == their_answer(model, tiny, ("user", QUESTION))
    asked = (("system", "Be brief."), ("user", QUESTION))
    answer = ask(*GREEDY, f"prompt.user={QUESTION}", "prompt.system=Be brief.")
    assert answer == their_answer(model, tiny, *asked) != ask(*GREEDY, f"prompt.user={QUESTION}")
    assert ask(*GREEDY, f"prompt.user={QUESTION}", "enable_kv_cache=False", "prompt.system=Be brief.") == answer


def test_goes_on_with_a_plain_text(tiny, ask):
    assert ask(*GREEDY, "prompt=Once upon") == their_answer(their_model(tiny.model), tiny, text="Once upon")


def test_a_file_of_prompts_gives_the_answers_of_each_alone(folder, ask):
    rows = [{"user": "one"}, {"system": "Be\u2028brief.", "user": "a question that is longer"}, {"user": QUESTION}]
    (folder / "asked.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    (folder / "asked.txt").write_text("\n".join(row["user"] for row in rows) + "\n")
    words = [*GREEDY, "prompt.user=null", "batch_size=2"]
    assert ask(*words, "prompts_file=asked.jsonl".replace("asked", str(folder / "asked"))) == ""
    lines = (folder / "answers" / "generations.jsonl").read_text().split("\n")[:-1]
    found = list(map(json.loads, lines))
    assert [{k: v for k, v in row.items() if k != "answers"} for row in found] == rows
    for row in (found[0], found[2]):
        assert row["answers"] == [ask(*GREEDY, f"prompt.user={row['user']}")]
    assert ask(*words, f"prompts_file={folder}/asked.txt", "prompt.system=Be brief.", "num_samples=1") == ""
    found = [json.loads(line) for line in (folder / "answers" / "generations.jsonl").read_text().splitlines()]
    assert [(row["system"], row["user"]) for row in found] == [("Be brief.", row["user"]) for row in rows]


def test_samples_differ_and_come_again_with_the_seed(folder, ask):
    words = [f"prompt.user={QUESTION}", "num_samples=3", "temperature=1.5", "max_new_tokens=12", "top_p=0.95"]
    first = ask(*words, "seed=1")
    assert first == ask(*words, "seed=1") != ask(*words, "seed=2")
    (folder / "one.txt").write_text(QUESTION)
    ask(*words, "seed=1", "prompt=null", f"prompts_file={folder}/one.txt")
    (row,) = (folder / "answers" / "generations.jsonl").read_text().splitlines()
    answers = json.loads(row)["answers"]
    assert "\n\n".join(answers) == first and len(set(answers)) == 3


def test_an_answer_ends_before_a_stop_string(ask):
    whole = ask(*GREEDY, f"prompt.user={QUESTION}")
    stop = whole[4:6]
    assert ask(*GREEDY, f"prompt.user={QUESTION}", f"stop={json.dumps([stop, 'never'])}") == whole.partition(stop)[0]


def test_says_how_fast_and_with_how_much_memory(folder, caplog):
    RECIPE.main(["--config", str(folder / "generation.yaml"), "log_level=INFO", "max_new_tokens=5"])
    assert re.search(r"\b5 tokens in [\d.]+ s: [\d.]+ tokens per second", caplog.text)
    assert re.search(r"Memory:\s+CPU peak resident memory of this process: [\d.]+ GiB", caplog.text)


def test_reads_what_training_wrote_and_every_format(tiny, ask):
    assert tiny.run("full", "max_steps_per_epoch=2").code == 0
    epoch = tiny.root / "full" / "epoch_0"
    trained = ask(*GREEDY, f"prompt.user={QUESTION}", f"checkpoint_dir={epoch}")
    assert trained == their_answer(their_model(epoch), tiny, ("user", QUESTION))
    assert trained != ask(*GREEDY, f"prompt.user={QUESTION}")
    native = "checkpointer._component_=torchtune.training.FullModelTorchTuneCheckpointer"
    assert tiny.run("native", native, f"checkpointer.checkpoint_dir={_native(tiny)}", "max_steps_per_epoch=2").code == 0
    words = [native, f"checkpoint_dir={tiny.root}/native/epoch_0", *GREEDY, f"prompt.user={QUESTION}"]
    assert ask(*words) == trained


def _native(tiny):
    """The tiny model with the names of torchtune's own format."""
    from torchtune.training.checkpointing import checkpointer_for

    folder = tiny.root / "native-model"
    folder.mkdir()
    torch.save(checkpointer_for(tiny.model).load_checkpoint()["model"], folder / "model.pt")
    return folder


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_reads_adapters_above_their_base(tiny, ask, method):
    settings = {"lora": {}, "dora": {"use_dora": True}, "qlora": {"quantize_base": True}}[method]
    words = tiny.adapters(**settings)
    assert tiny.run(f"{method}-out", *words, "max_steps_per_epoch=2", "optimizer.lr=2e-2").code == 0
    epoch = tiny.root / f"{method}-out" / "epoch_0"
    if method == "qlora":  # PEFT would put the adapter above the unquantised base
        theirs = their_answer(their_model(epoch), tiny, ("user", QUESTION))
    else:
        theirs = their_answer(their_model(tiny.model, epoch / "adapter"), tiny, ("user", QUESTION))
    words = [word for word in words if word.startswith("model.")]
    adapted = [*words, f"checkpointer.adapter_checkpoint={epoch}", *GREEDY, f"prompt.user={QUESTION}"]
    assert ask(*adapted) == theirs != ask(*GREEDY, f"prompt.user={QUESTION}")
    merged = ask(*GREEDY, f"prompt.user={QUESTION}", f"checkpoint_dir={epoch}")
    assert merged == theirs


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["checkpointer.adapter_checkpoint=some/adapter"], 2, "has no adapters"),
        (["prompts_file=asked.txt"], 2, "prompts_file and a prompt are both set"),
        (["prompt.user=null"], 2, "nothing to answer"),
        (["prompt.uzer=Hi"], 2, "Did you mean 'user'"),
        (["num_samples=2", "temperature=0"], 2, "all samples are the same"),
        (["top_p=1.5"], 2, "more than 0 and at most 1"),
        (["tokenizer.max_seq_len=10"], 3, "tokenizer.max_seq_len"),
        (["max_new_tokens=400"], 3, "set max_new_tokens to at most"),
        (["~prompt", "prompts_file=/no/such/file"], 3, "cannot read prompts from /no/such/file"),
    ],
)
def test_what_cannot_be_done_is_refused(ask, capsys, words, code, message):
    with pytest.raises((SystemExit, Exception)) as stopped:
        ask(*words)
    said = capsys.readouterr().err + str(stopped.value)
    assert message in said
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == code
    else:
        assert stopped.value.exit_code == code


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("bad.jsonl", '{"user": "a"}\n{"user": 3}\n', "line 2 must be an object"),
        ("bad.jsonl", '\n{"user"\n', "line 2 is not JSON"),
        ("bad.txt", "\n \n", "it is empty"),
    ],
)
def test_a_bad_file_of_prompts_is_refused(folder, ask, capsys, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        ask("~prompt", f"prompts_file={folder / name}")
    assert stopped.value.code == 3 and message in capsys.readouterr().err


def test_every_key_is_read():
    source = "".join(
        (REPO / name).read_text()
        for name in ("recipes/generate.py", "torchtune/training/setup.py", "torchtune/training/inference.py")
    )
    keys = {name for name, f in GenerateConfig.__dataclass_fields__.items() if not f.metadata} - {"recipe"}
    assert not [key for key in keys if not re.search(rf"\bcfg\.{key}\b", source)]


@pytest.mark.slow
def test_the_command(tiny, folder):
    command = tiny.command("unused")
    command = [*command[: command.index("run") + 1], "generate", "--config", str(folder / "generation.yaml")]
    ended = tiny.call([*command, "prompt.user=Tell me a joke. ", "max_new_tokens=8", "log_level=INFO"])
    assert ended.code == 0 and "tokens per second" in ended.err, ended.err
