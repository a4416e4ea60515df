"""The parts of the benchmark of adapters that need no training run."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from torchtune.models.llama3 import llama3_tokenizer
from torchtune.models.llama3_2 import lora_llama3_2
from torchtune.training.metric_logging import DiskLogger
from torchtune.training.model import meta_init

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The modules ``adapters`` and ``workload``."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("adapters"), importlib.import_module("workload")
    sys.path.remove(str(BENCHMARKS))


def run_of(adapters, rates, **values):
    usual = {"first_loss": 10.0, "last_loss": 9.0, "command_seconds": 5.0, "cpu_seconds": 4.0, "peak_memory": 2.0}
    usual |= {"peak_memory_of_loading": 1.0, "peak_gpu_memory": None}
    return adapters.Run(rates=rates, **usual | values)


def test_a_rate_is_that_of_the_steps_after_the_first(scripts):
    adapters, _ = scripts
    runs = [run_of(adapters, [1.0, 2.0, 30.0, 10.0, 20.0], peak_memory=3.0), run_of(adapters, [1.0, 1.0, 40.0, 40.0])]
    found = adapters.summary(runs)
    assert (found["tokens_per_second_min"], found["tokens_per_second"], found["tokens_per_second_max"]) == (20, 30, 40)
    assert found["peak_memory_gib"] == 2.5 and found["peak_gpu_memory_gib"] is None
    assert adapters.summary([run_of(adapters, [7.0])])["tokens_per_second"] == 7  # a run of one step has no other


def test_sides_take_turns_and_go_first_in_turn(scripts):
    adapters, _ = scripts
    sides = {"a": Path(), "b": Path()}
    assert list(adapters.turns(2, ["full", "lora"], sides)) == [
        *(("full", "a"), ("full", "b"), ("lora", "a"), ("lora", "b")),
        *(("full", "b"), ("full", "a"), ("lora", "b"), ("lora", "a")),
    ]


def test_sides_that_begin_differently_are_named(scripts):
    adapters, _ = scripts
    starts = {"full": (10.0, 10.001), "qlora": (10.0, 10.02), "dora": (10.0, float("nan"))}
    results = {m: {"a": {"first_loss": one}, "b": {"first_loss": two}} for m, (one, two) in starts.items()}
    assert [line.partition(":")[0] for line in adapters.different_starts(results)] == ["qlora", "dora"]
    assert adapters.different_starts({"lora": {"a": {"first_loss": 10.0}}}) == []


def test_a_log_is_read_as_disk_logger_writes_it(scripts, tmp_path):
    adapters, _ = scripts
    logger = DiskLogger(str(tmp_path))
    logger.log_dict({"loss": 10.25, "lr": 1e-3, "tokens_per_second_per_gpu": 512.5}, step=1)
    logger.log_dict({"loss": float("nan"), "val_loss": 3.0, "tokens_per_second_per_gpu": 1.5e-05}, step=2)
    logger.close()
    found = adapters.logged(next(tmp_path.glob("log_*.txt")).read_text())
    assert found["loss"][0] == 10.25 and str(found["loss"][1]) == "nan" and len(found["loss"]) == 2
    assert found["tokens_per_second_per_gpu"] == [512.5, 1.5e-05] and found["peak_memory_alloc"] == []


@pytest.mark.parametrize("name", ["small", "8B"])
@pytest.mark.parametrize("quantised", [False, True])
def test_weights_are_as_large_as_those_of_the_model_that_is_trained(scripts, name, quantised):
    adapters, workload = scripts
    model = workload.MODELS[name]
    sizes = {key.removeprefix("model."): int(value) for key, _, value in (w.partition("=") for w in model.sizes())}
    lora = {"lora_attn_modules": ["q_proj"], "lora_rank": 8, "lora_alpha": 16, "quantize_base": quantised}
    with meta_init(torch.bfloat16):
        built = lora_llama3_2(**lora, **sizes, tie_word_embeddings=model.tied)
    kept = {**dict(built.named_parameters()), **{n: b for n, b in built.named_buffers() if "weight_scale" in n}}
    held = sum(tensor.numel() * tensor.element_size() for name, tensor in kept.items() if "lora" not in name)
    assert adapters.weights_gib(model, quantised) == pytest.approx(held / adapters.GIB, rel=1e-5)


def test_both_sides_get_the_same_words_but_for_the_method(scripts, tmp_path):
    adapters, _ = scripts
    args = argparse.Namespace(model="small", device="cpu", steps=3, settings=["batch_size=2"])
    words = {m: adapters.settings(args, m, tmp_path, tmp_path / "out") for m in adapters.METHODS}
    assert words["full"][0] == "full_finetune_single_device" and not any("lora" in word for word in words["full"])
    assert set(words["qlora"]) - set(words["lora"]) == {"model.quantize_base=True"}
    assert words["lora"][-1] == "batch_size=2"  # the last one counts


def test_a_small_vocabulary_has_the_first_words_and_all_that_dialogues_need(scripts, tmp_path):
    _, workload = scripts
    workload.write_tokenizer(tmp_path, 32_000)
    special = tmp_path / "special_tokens.json"
    tokenizer = llama3_tokenizer(str(tmp_path / "tokenizer.model"), special_tokens_path=str(special))
    text = "def documented(value): ..."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.base_vocab_size == 31_744 and tokenizer.text_vocab_size <= 32_000
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": "Say", "input": "it.", "output": "Yes."}] * 3))
    sample = workload.documentation_dataset(tokenizer, str(rows))[0]
    assert tokenizer.decode(sample["tokens"]).endswith("Yes.") and max(sample["tokens"]) < 32_000
