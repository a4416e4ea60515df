"""Any folder that transformers writes trains with no config of its model's, and the result opens in transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_folders import CHATML, families, save
from tiny_run import REPO, Child, Ended, environment, free_port, make_rows, wait_for

from torchtune.data import Message
from torchtune.models import auto_tokenizer

FAMILIES = families()
CONFIGS = REPO / "recipes" / "configs" / "auto"
QUICK = ("llama", "mistral")
STEPS = 2
SMALL = ("gradient_accumulation_steps=1", "seed=0", f"max_steps_per_epoch={STEPS}", "optimizer.lr=1e-2")


class Folders:
    """Rows of data, and a folder for each model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_rows(root / "rows.jsonl", 12, seed=0)
        self.data = ("dataset.source=json", f"dataset.data_files={root / 'rows.jsonl'}")

    def model(self, name: str, template: str | None = CHATML, **config: object) -> Path:
        folder = self.root / name
        return folder if folder.exists() else save(folder, FAMILIES[name.partition("-")[0]], template, **config)

    def tune(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "torchtune.cli", *words]
        return subprocess.run(command, cwd=self.root, env=environment(), capture_output=True, text=True)

    def run(self, config: str, *words: str, processes: int = 1) -> Ended:
        """Run the recipe in forked processes, which saves importing torch in each."""
        argv, port = ["--config", str(CONFIGS / f"{config}.yaml"), *words], free_port()
        return wait_for([Child(argv, rank, processes, port, self.root) for rank in range(processes)])

    def train(self, config: str, model: Path, out: str, *words: str, processes: int = 1) -> Path:
        """The checkpoint of a run that works."""
        given = [f"checkpoint_dir={model}", f"output_dir={self.root / out}", "device=cpu", "dtype=fp32", *SMALL]
        given += [] if config == "full" else ["~lr_scheduler"]  # which would hardly begin
        ended = self.run(config, *given, *self.data, *words, processes=processes)
        assert ended.code == 0, ended.out + ended.err
        return self.root / out / "epoch_0"

    def losses(self, out: str) -> list[float]:
        return [json.loads(line)["loss"] for line in (self.root / out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    return Folders(tmp_path_factory.mktemp("auto"))


def test_one_command_trains_a_folder_and_the_result_answers(folders):
    """The command of the guide; the words after it put a file in the place of the Hub's data."""
    model, out = folders.model("llama"), folders.root / "by-command"
    command = f"run lora_finetune_single_device --config auto/lora checkpoint_dir={model} dataset=alpaca"
    done = folders.tune(*command.split(), *folders.data, *SMALL, "~lr_scheduler", f"output_dir={out}")
    assert done.returncode == 0, done.stderr
    assert len(folders.losses("by-command")) == STEPS
    asked = ("checkpoint_dir=by-command/epoch_0", "prompt.user=Say red", "max_new_tokens=4", "temperature=0")
    done = folders.tune("run", "generate", "--config", "auto/generation", *asked)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    "model_type", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_what_is_saved_opens_in_transformers(folders, model_type):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = folders.model(model_type)
    saved = folders.train("lora", base, f"lora-{model_type}", "model.lora_rank=4")
    assert folders.losses(f"lora-{model_type}")[-1] < folders.losses(f"lora-{model_type}")[0]
    before = AutoModelForCausalLM.from_pretrained(base)
    after, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not any(report.values()), report
    changed = [name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))]
    assert changed and not any("norm" in name or "embed" in name for name in changed)
    dialogue = [Message("user", "Ü 🙂"), Message("assistant", "A")]
    rows = [{"role": m.role, "content": m.text_content} for m in dialogue]
    theirs = AutoTokenizer.from_pretrained(saved).apply_chat_template(rows)["input_ids"]
    assert auto_tokenizer(str(saved)).tokenize_messages(dialogue)[0] == theirs
    assert after.generation_config.eos_token_id == [257, 259]  # </s>, and <|im_end|> with which it learnt to end


def test_full_and_qlora_and_two_processes(folders):
    model = folders.model("mistral-wide", hidden_size=64, intermediate_size=128, head_dim=16)
    alone = folders.train("full", model, "full", "batch_size=4")
    folders.train("full", model, "full-2", "batch_size=2", "recipe=full_finetune_distributed", processes=2)
    torch.testing.assert_close(folders.losses("full-2"), folders.losses("full"), rtol=1e-4, atol=0)
    folders.train("qlora", model, "qlora")
    again = folders.train("full", alone, "again")  # what was trained is a folder like any other
    assert {p.name for p in again.iterdir()} == {p.name for p in alone.iterdir()}


def test_the_form_of_a_base_model_goes_along_with_what_was_trained(folders):
    from transformers import AutoTokenizer

    model = folders.model("llama-base", None, max_position_embeddings=512)
    saved = folders.train("lora", model, "base", "dataset.train_on_input=False")
    tokenizer = AutoTokenizer.from_pretrained(saved)
    rows = [{"role": "user", "content": "x"}]
    text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|user|>\nx\n<|assistant|>\n"
    assert "chat_template.jinja" in json.loads((saved / "MANIFEST.json").read_text())["files"]
    only = folders.train("lora", model, "only", "save_adapter_weights_only=True")
    assert (only / "chat_template.jinja").read_text() == (saved / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [("some/model", "tune download some/model --output-dir PATH"), ("unknown", "RwkvForCausalLM is not supported")],
)
def test_a_folder_that_cannot_be_trained_is_refused_before_anything_else(folders, given, said):
    (folders.root / "unknown").mkdir(exist_ok=True)
    unknown = {"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}
    (folders.root / "unknown" / "config.json").write_text(json.dumps(unknown))
    ended = folders.run("lora", f"checkpoint_dir={given}", "dataset.source=nowhere", "output_dir=faulty", "device=cpu")
    assert ended.code == 4 and said in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset=alpacca", "Did you mean 'alpaca'?"),
        ("model=auto", "torchtune.models.auto trains no adapters: use torchtune.models.lora_auto"),
        ("tokenizer.chat_templat=x", "Did you mean 'chat_template'?"),
    ],
)
def test_a_slip_in_a_word_is_named_at_once(folders, word, said):
    done = folders.tune("run", "lora_finetune_single_device", "--config", "auto/lora", "checkpoint_dir=any", word)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
