"""Adapters through the command, from download to transformers and PEFT: true configs and vocabulary at small width."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import REPO, environment, make_rows

from torchtune.models.llama3 import llama3 as build_llama3
from torchtune.training import FullModelHFCheckpointer, FullModelMetaCheckpointer

sys.path += [str(REPO / "tests" / name) for name in ("cli", "docs")]

from hub_imitation import Repo, serve
from small_models import BUILDER, hugging_face_folder, vocab_size

pytestmark = pytest.mark.slow
NAME = "meta-llama/Llama-3.2-3B-Instruct"
STEPS = 4
# What the tutorial prints of the run's folder. Here PEFT's two files are one folder further down.
TREE = """
epoch_0/adapter/adapter_config.json
epoch_0/adapter_model.pt
epoch_0/adapter/adapter_model.safetensors
epoch_0/config.json
epoch_0/model-00001-of-00002.safetensors
epoch_0/model-00002-of-00002.safetensors
epoch_0/generation_config.json
epoch_0/LICENSE.txt
epoch_0/model.safetensors.index.json
epoch_0/original/orig_params.json
epoch_0/original/params.json
epoch_0/original/tokenizer.model
epoch_0/original_repo_id.json
epoch_0/README.md
epoch_0/special_tokens_map.json
epoch_0/tokenizer_config.json
epoch_0/tokenizer.json
epoch_0/USE_POLICY.md
epoch_1/adapter/adapter_config.json
logs/log_1734652101.txt
recipe_state/recipe_state.pt
""".split()
EXTRA = {"epoch_0/MANIFEST.json", "epoch_0/tokenizer.model"}
TOKENS = torch.arange(1000, 1040)[None]


class Shell:
    """A user's folder and command; ``models`` holds what was downloaded."""

    def __init__(self, root: Path) -> None:
        self.root, self.models = root, root / "models"
        make_rows(root / "rows.jsonl", 24, seed=0)

    def tune(self, *words: str, **env: str) -> str:
        """What a command says that must work."""
        command = [sys.executable, "-m", "torchtune.cli", *words]
        done = subprocess.run(command, cwd=self.root, env=environment(**env), capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def train(self, out: str, *words: str, builder: str, model: str, weights: str = "", **settings: object) -> str:
        """Run a recipe with a config that ships, which stands in ``words``, on a model of small width."""
        folder = self.models / model
        values = {"output_dir": self.root / out, "model": builder, "model.vocab_size": vocab_size(model)}
        values |= {f"model.{key}": value for key, value in BUILDER.items()}
        values |= {"model.lora_rank": 4, "model.lora_alpha": 8, "tokenizer.path": folder / "original/tokenizer.model"}
        values |= {"checkpointer.checkpoint_dir": folder / weights, "dataset.source": "json"}
        values |= {"dataset.data_files": self.root / "rows.jsonl", "device": "cpu", "seed": 0, "optimizer.lr": 1e-2}
        values |= {"gradient_accumulation_steps": 1, "max_steps_per_epoch": STEPS, **settings}
        return self.tune("run", *words, *(f"{key}={value}" for key, value in values.items()), "~lr_scheduler")

    def losses(self, out: str) -> list[float]:
        return [json.loads(line)["loss"] for line in (self.root / out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    return Shell(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def downloaded(shell) -> Path:
    """Llama 3.2 3B as ``tune download`` brings it."""
    source = shell.root / "hub" / NAME.partition("/")[2]
    hugging_face_folder(source)
    for name in ("README.md", "USE_POLICY.md", "original/orig_params.json"):
        (source / name).write_text("{}")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (source / name).write_text('{"bos_token": "<|begin_of_text|>"}')
    folder = shell.models / source.name
    with serve() as hub:
        hub.repos[NAME] = Repo({str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()})
        words = ["download", NAME, "--ignore-patterns", "original/consolidated.00.pth", "--output-dir", str(folder)]
        shell.tune(*words, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_HOME=str(shell.root / "hf"))
    return folder


@pytest.fixture(scope="module")
def trained(shell, downloaded) -> Path:
    """The result of the tutorial's command."""
    words = ["lora_finetune_single_device", "--config", "llama3_2/3B_lora_single_device"]
    builder = "torchtune.models.llama3_2.lora_llama3_2"
    said = shell.train("3B", *words, builder=builder, model=downloaded.name, epochs=2)
    assert re.search(r"[\d,]+ of [\d,]+ parameters are trained \(\d+\.\d+ %\)", said), said
    assert shell.losses("3B")[-1] < shell.losses("3B")[0] - 1
    return shell.root / "3B"


def test_the_folder_is_the_one_of_the_tutorial(trained):
    found = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    expected, found = set(map(_shape, TREE)), set(map(_shape, found))
    assert not expected - found
    assert {f for f in found if f.startswith("epoch_0/")} - expected == EXTRA
    config = json.loads((trained / "epoch_0/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == NAME
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def _shape(path: str) -> str:
    """Without the numbers of pieces and of seconds."""
    return re.sub(r"-\d{5}-of-\d{5}|_\d{10}", "", path)


def test_merged_weights_are_the_base_and_the_product(downloaded, trained):
    """The arithmetic of the paper on transformers' names, which the merged weights and PEFT's file have in common."""
    base = load_file(downloaded / "model.safetensors")
    merged = load_file(trained / "epoch_0/model-00001-of-00001.safetensors")
    adapter = load_file(trained / "epoch_0/adapter/adapter_model.safetensors")
    assert merged.keys() == base.keys()
    for name, weight in base.items():
        a, b = (adapter.get(f"base_model.model.{name.replace('.weight', f'.lora_{x}.weight')}") for x in "AB")
        if a is None:
            assert torch.equal(merged[name], weight), name
        else:
            expected = weight.float() + 8 / 4 * b.float() @ a.float()
            torch.testing.assert_close(merged[name], expected.bfloat16(), rtol=2**-7, atol=0)
    assert len(adapter) == 2 * 2 * 6  # A and B of six projections in two layers


def test_both_ways_into_transformers_give_the_same_model(downloaded, trained):
    """The tutorial's two cases; the second needs neither the base nor the Hub."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained_model_path = str(trained / "epoch_0")
    model = AutoModelForCausalLM.from_pretrained(str(downloaded), dtype=torch.float32)
    untrained = _logits(model)
    peft_model = PeftModel.from_pretrained(model, trained_model_path, subfolder="adapter")
    with_adapter = _logits(peft_model)

    hidden = downloaded.rename(downloaded.with_name("hidden"))
    try:
        merged_model = AutoModelForCausalLM.from_pretrained(
            pretrained_model_name_or_path=trained_model_path, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(trained_model_path, safetensors=True)
    finally:
        hidden.rename(downloaded)
    rounding, change = ((with_adapter - other).abs().max() for other in (_logits(merged_model), untrained))
    assert rounding < change / 20, (rounding, change)
    inputs = tokenizer("Complete the sentence: 'Once upon a time...'", return_tensors="pt")
    outputs = merged_model.generate(**inputs, max_length=50)
    assert tokenizer.decode(outputs[0], skip_special_tokens=True).startswith("Complete the sentence")


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


# Config for one process, config for two, and what the latter does not say. QLoRA on two processes is a part of QDoRA.
METHODS = {
    "lora": ("llama3/8B_lora_single_device", "llama3/8B_lora", {}),
    "qlora": ("llama3/8B_qlora_single_device", None, {"model.quantize_base": True}),
    "dora": ("llama3/8B_dora_single_device", "llama3/8B_dora", {}),
    "qdora": ("llama3/8B_qdora_single_device", "llama3/8B_dora", {"model.quantize_base": True}),
}
LLAMA3 = {"builder": "torchtune.models.llama3.lora_llama3", "model": "Meta-Llama-3-8B-Instruct", "weights": "original"}


@pytest.fixture(scope="module")
def llama3(shell) -> Path:
    """Llama 3 8B, the same weights in Hugging Face's format and in Meta's."""
    folder = shell.models / LLAMA3["model"]
    hugging_face_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    state_dict = FullModelHFCheckpointer(str(folder)).load_checkpoint()
    meta = FullModelMetaCheckpointer(str(folder / "original"), output_dir=str(shell.root / "converted"))
    meta.save_checkpoint(state_dict, epoch=0)
    (shell.root / "converted/epoch_0/consolidated.00.pth").replace(folder / "original/consolidated.00.pth")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_method_on_one_process_and_two(shell, llama3, method):
    one, two, more = METHODS[method]
    single = ("lora_finetune_single_device", "--config", one)
    shell.train(method, *single, **LLAMA3, **more, batch_size=4)
    losses = shell.losses(method)
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.5
    _check_merged(llama3 / "original", shell.root / method / "epoch_0", method)
    if not method.startswith("q"):
        _check_in_peft(llama3, shell.root / method / "epoch_0")
    if two is None:
        return
    many = ("--nproc_per_node", "2", "lora_finetune_distributed", "--config", two)
    shell.train(f"{method}-2", *many, **LLAMA3, **more, batch_size=2, save_adapter_weights_only=True)
    torch.testing.assert_close(shell.losses(f"{method}-2"), losses, rtol=0.02, atol=0)  # bf16 sums in another order
    alone = {p.name for p in (shell.root / f"{method}-2" / "epoch_0").iterdir()}
    assert {"adapter_config.json", "adapter_model.pt", "adapter_model.safetensors", "tokenizer.model"} <= alone
    assert not {"consolidated.00.pth", "adapter"} & alone


def _check_merged(base: Path, folder: Path, method: str) -> None:
    """The weights in Meta's format are the base's and the adapter's, which has torchtune's names in the .pt file."""
    before, after = (torch.load(f / "consolidated.00.pth", weights_only=True) for f in (base, folder))
    adapter = torch.load(folder / "adapter_model.pt", weights_only=True)
    assert json.loads((folder / "adapter/adapter_config.json").read_text())["use_dora"] == method.endswith("dora")
    assert after.keys() == before.keys()
    if method.startswith("q"):  # a projection without an adapter: 16 levels in each block of 64
        blocks = after["layers.0.attention.wk.weight"].view(-1, 64)
        assert max(len(block.unique()) for block in blocks) <= 16
        return
    weight, product = before["layers.1.attention.wv.weight"].float(), _product(adapter, "layers.1.attn.v_proj")
    expected = weight + product
    if method == "dora":
        lengths = adapter["layers.1.attn.v_proj.magnitude"].float() / expected.norm(dim=1)
        expected = lengths[:, None] * expected
    merged = after["layers.1.attention.wv.weight"]
    assert merged.dtype == torch.bfloat16 and not torch.equal(merged.float(), weight)
    torch.testing.assert_close(merged, expected.bfloat16(), rtol=2**-7, atol=0)


def _check_in_peft(base: Path, folder: Path) -> None:
    """PEFT's adapter on the base of transformers computes what the merged weights in Meta's format do here."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untrained = _logits(model)
    theirs = _logits(PeftModel.from_pretrained(model, folder, subfolder="adapter"))
    ours = build_llama3(vocab_size=vocab_size(LLAMA3["model"]), **BUILDER)
    merged = FullModelMetaCheckpointer(str(folder)).load_checkpoint()["model"]
    ours.load_state_dict({name: tensor.float() for name, tensor in merged.items()})
    with torch.no_grad():
        rounding = (ours.eval()(TOKENS) - theirs).abs().max()
    assert rounding < (theirs - untrained).abs().max() / 20


def _product(adapter: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    return 8 / 4 * adapter[f"{layer}.lora_b.weight"].float() @ adapter[f"{layer}.lora_a.weight"].float()


def test_a_config_by_its_path_on_two_processes(shell):
    """Llama 3 70B, whose config is given as a file of the checkout."""
    model = "Meta-Llama-3-70B-Instruct"
    hugging_face_folder(shell.models / model)
    path = str(REPO / "recipes" / "configs" / "llama3" / "70B_lora.yaml")
    words = ("--nproc_per_node", "2", "lora_finetune_distributed", "--config", path)
    shell.train("70B", *words, builder=LLAMA3["builder"], model=model, batch_size=2)
    assert (shell.root / "70B/epoch_0/adapter/adapter_config.json").is_file()
    assert shell.losses("70B")[-1] < shell.losses("70B")[0]
