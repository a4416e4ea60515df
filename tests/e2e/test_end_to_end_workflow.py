"""From a download to a published model through the command: every program that a user meets gives what was trained.

The model is taught one answer to all questions, which evaluation, generation, the quantized model, transformers and
PEFT must find in it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import REPO, environment

sys.path += [str(REPO / "tests" / name) for name in ("cli", "docs")]

from hub_imitation import Repo, serve
from small_models import BUILDER, hugging_face_folder, vocab_size

pytestmark = pytest.mark.slow
NAME, MINE, TOKEN = "meta-llama/Llama-3.2-3B-Instruct", "my-model-trained-with-torchtune", "hf_goodgoodgoodgoodgoodgood"
ASKED, ANSWER, ENDS = "Tell me a joke. ", "An impasta!", [128001, 128008, 128009]
QUESTIONS = [ASKED, "What do you call a fake noodle?", "Name a tree.", "Say seven.", "Who are you?", "Why?"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DATA = """
from torchtune.data import InputOutputToMessages
from torchtune.datasets import SFTDataset

def jokes(tokenizer, file):
    transforms = {"message_transform": InputOutputToMessages(), "model_transform": tokenizer}
    return SFTDataset(source="json", data_files=file, **transforms)
"""
# Both of the tutorial's configs; in one the weights are in output_dir, in the other in checkpoint_dir.
CONFIG = """
tokenizer:
    _component_: torchtune.models.llama3.llama3_tokenizer
    path: ${WEIGHTS}/original/tokenizer.model
model:
    _component_: torchtune.models.llama3_2.llama3_2_3b
checkpointer:
    _component_: torchtune.training.FullModelHFCheckpointer
    checkpoint_dir: ${WEIGHTS}
    checkpoint_files: [model-00001-of-00001.safetensors]
    output_dir: ${output_dir}
    model_type: LLAMA3_2
device: cpu
dtype: bf16
seed: 1234
enable_kv_cache: True
quantizer: null
"""
EVALUATION = {"tasks": ["truthfulqa_mc2"], "limit": None, "max_seq_length": 4096, "batch_size": 8}
GENERATION = {"prompt": {"system": None, "user": ASKED}, "max_new_tokens": 300, "temperature": 0.6, "top_k": 300}
TASKS = {
    "choose": {"output_type": "multiple_choice", "doc_to_target": 1, "doc_to_choice": ["A tree!", ANSWER, "Seven"]},
    "write": {"output_type": "generate_until", "doc_to_target": ANSWER, "generation_kwargs": {"max_gen_toks": 8}},
}
# The tutorial's two cases and the published model; each is asked, and so is the base on its own.
TRANSFORMERS = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, trained, published, asked = sys.argv[1:]

def answer(model, tokenizer):
    chat = [{"role": "user", "content": asked}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1]:]
    print("ANSWER:", tokenizer.decode(written, skip_special_tokens=True))

model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
answer(model, tokenizer)
answer(PeftModel.from_pretrained(model, trained, subfolder="adapter"), tokenizer)
for place in (trained, published):
    answer(AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place, safetensors=True))
"""
UPLOAD = """
import sys
import huggingface_hub

folder, name = sys.argv[1:]
api = huggingface_hub.HfApi()
repo_id = huggingface_hub.create_repo(name).repo_id
assert repo_id == f'{huggingface_hub.whoami()["name"]}/{name}'
api.upload_folder(folder_path=folder, repo_id=repo_id, repo_type="model", create_pr=False)
"""


class User:
    """A folder, a command and a Hub; ``base`` is the downloaded model, ``epoch`` the trained one."""

    def __init__(self, root: Path, hub) -> None:
        self.root, self.hub = root, hub
        self.base, self.run = root / NAME.partition("/")[2], root / "lora_single_device"
        self.epoch = self.run / "epoch_0"
        self.env = environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(root / "hf"), HF_HUB_DISABLE_XET="1")
        self.env |= {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}

    def tune(self, *words: object) -> str:
        return self.python("-m", "torchtune.cli", *words)

    def tune_small(self, *words: object, **settings: object) -> str:
        """``tune run`` with a model of the small width."""
        sizes = {"vocab_size": vocab_size("llama3"), **BUILDER}
        settings = {"model": "torchtune.models.llama3_2.llama3_2", **settings}
        settings |= {f"model.{key}": value for key, value in sizes.items()}
        return self.tune("run", *words, *(f"{key}={value}" for key, value in settings.items()))

    def python(self, *words: object) -> str:
        """What a program prints that must work."""
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def config(self, name: str, weights: str, **keys: object) -> str:
        """Save one of the tutorial's configs."""
        (self.root / name).write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.replace("WEIGHTS", weights)), **keys}))
        return f"./{name}"


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    with serve() as hub:
        root = tmp_path_factory.mktemp("workflow")
        _publish_base(hub, root / "hub" / NAME.partition("/")[2])
        yield User(root, hub)


def _publish_base(hub, folder: Path) -> None:
    """A Llama 3.2 3B of small width on the Hub, with everything that is needed to talk to it."""
    hugging_face_folder(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 8  # or no logit of so narrow a model stands out among 128,256
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>"}
    settings |= {"eos_token": "<|eot_id|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 128000, "eos_token_id": ENDS}))
    hub.repos[NAME] = Repo({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})


@pytest.fixture(scope="module")
def epoch(user) -> Path:
    """What is fine-tuned after the tutorial's first commands."""
    user.tune("download", NAME, "--ignore-patterns", "original/consolidated.00.pth", "--output-dir", user.base)
    (user.root / "my_data.py").write_text(DATA)
    (user.root / "jokes.json").write_text(json.dumps([{"input": q, "output": ANSWER} for q in QUESTIONS * 20]))
    listed = user.tune("ls").split()
    assert {"llama3_2/3B_lora_single_device", "eleuther_eval", "generate", "quantize"} <= set(listed)
    settings = {"output_dir": user.run, "model": "torchtune.models.llama3_2.lora_llama3_2", "model.lora_rank": 8}
    settings |= {"model.lora_alpha": 16, "tokenizer.path": user.base / "original/tokenizer.model"}
    settings |= {"checkpointer.checkpoint_dir": user.base, "dataset": "my_data.jokes", "dataset.file": "jokes.json"}
    settings |= {"device": "cpu", "seed": 0, "optimizer.lr": 1e-2, "gradient_accumulation_steps": 1}
    words = ["lora_finetune_single_device", "--config", "llama3_2/3B_lora_single_device", "~lr_scheduler"]
    user.tune_small(*words, **settings)
    return user.epoch


@pytest.fixture(scope="module")
def evaluated(user, epoch) -> dict:
    """The scores on two tasks of the user's own; truthfulqa_mc2 would have to be downloaded."""
    _write_tasks(user.root / "tasks")
    assert "custom_eval_config.yaml" in user.tune("cp", "eleuther_evaluation", "./custom_eval_config.yaml")
    config = user.config("custom_eval_config.yaml", "output_dir", output_dir=str(epoch), **EVALUATION)
    own = {"tasks": "[choose,write]", "include_path": "tasks", "apply_chat_template": True}
    printed = user.tune_small("eleuther_eval", "--config", config, **own)
    assert "choose" in printed and "exact_match" in printed
    return json.loads(next(epoch.glob("results_*.json")).read_text())["results"]


def _write_tasks(folder: Path) -> None:
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    files = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    common = {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test", "doc_to_text": "{{question}}"}
    for (name, task), metric in zip(TASKS.items(), ("acc", "exact_match")):
        content = {"task": name, **common, **task, "metric_list": [{"metric": metric}]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def test_evaluation_sees_what_was_learnt(evaluated):
    assert evaluated["choose"]["acc,none"] == 1.0
    assert evaluated["write"]["exact_match,none"] == 1.0


def test_generation_gives_the_answer_and_so_does_the_quantized_model(user, epoch):
    user.tune("cp", "generation", "./custom_generation_config.yaml")
    out = user.run / "out"
    out.mkdir()
    places = {"checkpoint_dir": str(epoch), "output_dir": str(out)}
    config = user.config("custom_generation_config.yaml", "checkpoint_dir", **places, **GENERATION)
    generate = ("generate", "--config", config, f"prompt.user={ASKED}")
    assert user.tune_small(*generate).strip() == ANSWER

    made = {"checkpointer.checkpoint_dir": epoch, "checkpointer.model_type": "LLAMA3_2", "device": "cpu"}
    user.tune_small("quantize", "--config", "quantization", output_dir=out, **made, **{"quantizer.groupsize": 32})
    assert user.tune_small(*generate, checkpoint_dir=out / "8da4w").strip() == ANSWER


@pytest.fixture(scope="module")
def published(user, epoch, evaluated) -> str:
    user.tune("upload", epoch, MINE)
    return f"me/{MINE}"


def test_the_upload_is_the_model_with_a_card_of_its_run(user, epoch, published):
    repo = user.hub.repos[published]
    card = repo.files["README.md"].decode()
    assert repo.private and NAME in card and "exact_match" in card
    weights = "model-00001-of-00001.safetensors"
    assert repo.files[weights] == (epoch / weights).read_bytes()


def test_transformers_gives_the_answer_in_every_way(user, epoch, published):
    printed = user.python("-c", TRANSFORMERS, NAME, epoch, published, ASKED)
    answers = [line.partition(":")[2].strip() for line in printed.splitlines() if line.startswith("ANSWER:")]
    assert answers[0] != ANSWER and answers[1:] == [ANSWER] * 3


def test_the_hubs_own_upload_takes_the_whole_folder(user, epoch):
    user.python("-c", UPLOAD, epoch, "whole-folder")
    names = {str(p.relative_to(epoch)) for p in epoch.rglob("*") if p.is_file()}
    assert user.hub.repos["me/whole-folder"].files.keys() == names | {".gitattributes"}


def test_vllm_has_all_that_its_loader_asks_for(epoch):
    """https://github.com/vllm-project/vllm: vllm/transformers_utils/config.py, vllm/model_executor/model_loader."""
    read = {path.name: json.loads(path.read_text()) for path in epoch.glob("*.json")}
    assert read["config.json"]["architectures"] == ["LlamaForCausalLM"]
    assert read["generation_config.json"]["eos_token_id"] == ENDS
    assert read["tokenizer_config.json"]["chat_template"] == TEMPLATE
    assert {"tokenizer.json", "tokenizer_config.json"} <= read.keys()
    assert "adapter_config.json" not in read and not (epoch / "adapter_model.safetensors").exists()
    index = read["model.safetensors.index.json"]["weight_map"]
    assert set(index.values()) == {path.name for path in epoch.glob("*.safetensors")}
    for name in set(index.values()):
        with safe_open(epoch / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert set(file.keys()) == {tensor for tensor, place in index.items() if place == name}
