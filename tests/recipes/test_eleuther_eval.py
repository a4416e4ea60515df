"""The evaluation recipe: from a run's checkpoint to scores on the screen and in a file."""

import json
import logging
import re

import pytest
import torch
import transformers
import yaml
from tiny_run import REPO, recipe_module

from torchtune.cli import catalog
from torchtune.config.schema import EvalConfig
from torchtune.errors import ConfigError
from torchtune.models.llama3 import llama3_tokenizer

pytest.importorskip("lm_eval")
TEXTS = ["Say red stone", "seven quiet rivers", "light"]


RECIPE = recipe_module("eleuther_eval")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with one task: the perplexity of three texts."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    content = {"task": "texts", "dataset_path": "json", "test_split": "train", "output_type": "loglikelihood_rolling"}
    content |= {"doc_to_text": "", "doc_to_target": "{{text}}", "metric_list": [{"metric": "byte_perplexity"}]}
    content["dataset_kwargs"] = {"data_files": str(folder / "texts.jsonl"), "cache_dir": str(folder / "cache")}
    (folder / "texts.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def edited(tiny, tasks):
    """What a user makes of the shipped config: requirement 003's way, for the tiny model."""
    content = yaml.safe_load(catalog.find_config("eleuther_evaluation").path.read_text())
    trained = yaml.safe_load(tiny.config.read_text())
    content |= {key: trained[key] for key in ("model", "tokenizer", "checkpointer", "device", "dtype")}
    content["tokenizer"] |= {"path": "${output_dir}/tokenizer.json", "max_seq_len": None}
    content["checkpointer"]["checkpoint_dir"] = "${output_dir}"
    content |= {"output_dir": str(tiny.model), "tasks": ["texts"], "include_path": str(tasks), "max_seq_length": 320}
    del content["checkpoint_dir"]
    path = tiny.root / "custom_eval_config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def logging_as_before():
    """The recipe sets up logging for its process, which here is the one of all tests."""
    ours = logging.getLogger("torchtune")
    level, handlers = ours.level, ours.handlers[:]
    yield
    ours.setLevel(level)
    ours.handlers[:] = handlers


@pytest.fixture
def run(edited, tmp_path, capsys):
    """Runs the recipe in this process; gives what it printed, and the newest results."""

    def run(*words: str) -> tuple[str, dict]:
        weights = "checkpointer.checkpoint_dir=" + str(edited.parent / "model")
        tokenizer = "tokenizer.path=" + str(edited.parent / "model" / "tokenizer.json")
        RECIPE.main(["--config", str(edited), f"output_dir={tmp_path}", weights, tokenizer, *words])
        newest = max(tmp_path.glob("results_*.json"))
        return capsys.readouterr().out, json.loads(newest.read_text())

    return run


def shown(score: float) -> str:
    return f"{score:.4f}".rstrip("0")


def their_perplexity(folder) -> float:
    """By transformers: of each text all tokens, that which begins it included, after one more of those."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = llama3_tokenizer(str(folder / "tokenizer.json"))
    total = 0.0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text, add_eos=False)]])
        total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    return torch.tensor(total / sum(map(len, TEXTS))).exp().item()


def test_scores_are_printed_and_written(tiny, run, tmp_path):
    printed, results = run("log_samples=True", "seed=5", "batch_size=2")
    score = results["results"]["texts"]["byte_perplexity,none"]
    assert score == pytest.approx(their_perplexity(tiny.model), rel=1e-4)
    assert shown(score) in printed and "byte_perplexity" in printed
    assert results["config"]["checkpointer"]["checkpoint_dir"] == str(tiny.model) and results["config"]["seed"] == 5
    samples = next(tmp_path.glob("samples_texts_*.jsonl")).read_text().splitlines()
    assert [json.loads(sample)["target"] for sample in samples] == TEXTS


def test_limit_takes_numbers_and_shares(run):
    assert run("limit=2")[1]["n-samples"]["texts"] == {"original": 3, "effective": 2}
    assert run("limit=0.3")[1]["n-samples"]["texts"]["effective"] == 1


def test_tasks_are_looked_for_before_weights_are_read(edited, capsys):
    words = ["include_path=/nowhere", "checkpointer.checkpoint_dir=/nowhere"]
    with pytest.raises(SystemExit) as stopped:
        RECIPE.main(["--config", str(edited), *words])
    assert stopped.value.code == 2 and "include_path: there is no folder /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word, message",
    [
        ("tasks=texts", "tasks must be a list of values"),
        ("limit=0", "limit must be a number of more than 0"),
        ("task=[texts]", "Did you mean 'tasks'?"),
    ],
)
def test_faults_of_the_config(run, word, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(word)


def test_every_key_is_read():
    source = "".join(
        (REPO / name).read_text()
        for name in ("recipes/eleuther_eval.py", "torchtune/training/setup.py", "torchtune/training/inference.py")
    )
    keys = {name for name, f in EvalConfig.__dataclass_fields__.items() if not f.metadata} - {"recipe"}
    assert not [key for key in keys if not re.search(rf"\bcfg\.{key}\b", source)]


def test_configs_of_families_differ_in_the_model_alone():
    own = {"model", "tokenizer", "checkpointer", "checkpoint_dir", "output_dir", "max_seq_length", "device"}

    def rest(name):
        content = yaml.safe_load(catalog.find_config(name).path.read_text())
        return {key: value for key, value in content.items() if key not in own}

    names = [row.name for row in catalog.configs() if row.recipe == "eleuther_eval"]
    assert len(names) == 12 and all(rest(name) == rest("eleuther_evaluation") for name in names)


@pytest.mark.slow
def test_the_commands_of_requirement_003(tiny, edited, tasks):
    """Train, copy the config, edit it, evaluate the folder of the epoch."""
    assert tiny.run("trained", "max_steps_per_epoch=2").code == 0
    epoch = tiny.root / "trained" / "epoch_0"
    tune = tiny.command("unused")[:-3]
    tune = tune[: tune.index("run")]
    copied = tiny.call([*tune, "cp", "eleuther_evaluation", "./copied_eval_config.yaml"])
    assert copied.code == 0 and "Copied file to copied_eval_config.yaml" in copied.out
    edited.write_text(edited.read_text().replace(str(tiny.model), str(epoch)))
    ended = tiny.call([*tune, "run", "eleuther_eval", "--config", "./custom_eval_config.yaml"])
    assert ended.code == 0, ended.err
    results = json.loads(next(epoch.glob("results_*.json")).read_text())
    score = results["results"]["texts"]["byte_perplexity,none"]
    assert shown(score) in ended.out and score == pytest.approx(their_perplexity(epoch), rel=1e-4)
