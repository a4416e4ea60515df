"""A tiny Llama in Hugging Face's layout, tasks with local data, and lm_eval's own scores of that model on them."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_run import make_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from torchtune.models.llama3_2 import llama3_2
from torchtune.modules import TransformerDecoder
from torchtune.training import FullModelHFCheckpointer
from torchtune.training.distributed import World
from torchtune.training.model import load_model

pytest.importorskip("lm_eval")

TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# The sizes of ``make_model`` as the builder's arguments.
MODEL = {"vocab_size": 271, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64}
MODEL |= {"intermediate_dim": 128, "max_seq_len": 320}
WORDS = "red blue tree river stone light seven quiet A B. ?".split()


@pytest.fixture(autouse=True)
def _says_nothing_of_the_machine(monkeypatch):
    """lm_eval asks pip and other programs what there is, which takes seconds and changes no score."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model's folder: it writes printable text, and its tokenizer begins texts as Llama 3's does."""
    folder = make_model(tmp_path_factory.mktemp("evaluation") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][94:] *= 0.3  # ids below are the printable characters
    for name in tensors:
        tensors[name] *= 3 if "o_proj" in name else 1  # more of what was read, less of the last token
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "<|end_of_text|>"}
    config |= {"pad_token": "<|finetune_right_pad_id|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"bos_token_id": 256, "eos_token_id": [257, 261, 262]}')
    return folder


@pytest.fixture(scope="session")
def lm(folder) -> Any:
    """The same weights, by lm_eval and transformers."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory, lm) -> Path:
    """A folder with the YAML of ``choice``, ``letter``, ``perplexity`` and ``answer``, and their data."""
    folder, draw = tmp_path_factory.mktemp("tasks"), random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    rows = [{"text": words(1, 45), "question": words(1, 14), "label": i % 3} for i in range(9)]
    for i, row in enumerate(rows):
        row["begun"] = _greedy(lm, row["question"])
        row["choices"] = [words(1, 4), row["begun"][: 1 + i], "V" if i % 2 else words(1, 4)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"dataset_path": "json", "test_split": "test"}
    files["dataset_kwargs"] = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    for name, content in _TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **files, **content}))
    return folder


def _greedy(lm: Any, text: str) -> str:
    ids = torch.tensor([lm.tok_encode(text)])
    written = lm.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=258)[0, ids.shape[1] :]
    return lm.tok_decode(written)


_CHOICE = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "label"}
_CHOICE |= {"doc_to_choice": "choices", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
_PERPLEXITIES = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
_ROLLING = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
_WRITTEN = {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{begun}}"}
_WRITTEN |= {"metric_list": [{"metric": "exact_match"}]}
_TASKS = {
    "choice": {**_CHOICE, "num_fewshot": 2, "fewshot_split": "test"},
    "joined": {**_CHOICE, "target_delimiter": ""},
    "perplexity": {**_ROLLING, "metric_list": _PERPLEXITIES},
    "answer": {**_WRITTEN, "generation_kwargs": {"until": ["44", ",f", "3333"], "max_gen_toks": 24}},
}


@pytest.fixture(scope="session")
def oracle(lm, tasks):
    """``oracle(task, max_length, chat=False)``: what lm_eval says of the same weights, with its own model class."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    @cache
    def run(task: str, max_length: int, chat: bool = False) -> dict[str, Any]:
        lm._max_length = max_length
        return simple_evaluate(model=lm, tasks=[task], task_manager=manager, apply_chat_template=chat)

    return run


@pytest.fixture(scope="session")
def model(folder) -> TransformerDecoder:
    """The same weights, by this library."""
    return load_model(
        lambda: llama3_2(**MODEL),
        FullModelHFCheckpointer(folder).weights,
        World(0, 1, torch.device("cpu")),
        dtype=torch.float32,
    ).eval()
