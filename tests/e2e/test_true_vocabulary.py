"""The benchmark's workload through the command: Llama 3.2's true tokenizer and vocabulary at small width, in bf16."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from torchtune.models.llama3_2 import llama3_2
from torchtune.training import FullModelHFCheckpointer

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workload")
    script = ROOT / "benchmarks" / "workload.py"
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(folder)], check=True, capture_output=True)
    return folder, runpy.run_path(str(script))["MODELS"]["narrow"]


def losses_of(folder, model, out, *launch):
    words = [
        f"output_dir={out}",
        "model=torchtune.models.llama3_2.llama3_2",
        *model.sizes(),
        f"tokenizer.path={folder}/model/original/tokenizer.model",
        "tokenizer.max_seq_len=256",
        "dataset.source=json",
        f"dataset.data_files={folder}/docs.json",
        f"checkpointer.checkpoint_dir={folder}/model",
        "optimizer=torch.optim.AdamW",
        "optimizer.fused=True",
        "optimizer.lr=1e-3",
        "optimizer_in_bwd=False",
        "device=cpu",
        "dtype=bf16",
        "seed=0",
        f"max_steps_per_epoch={STEPS}",
        "log_peak_memory_stats=False",
    ]
    command = [sys.executable, "-m", "torchtune.cli", "run", *launch, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=out)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_process_and_two_learn_and_the_result_opens_in_transformers(workload, tmp_path):
    folder, model = workload
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir(), both.mkdir()
    single = ("full_finetune_single_device", "--config", "llama3_2/1B_full_single_device", "batch_size=4")
    one = losses_of(folder, model, alone, *single)
    many = ("--nproc_per_node", "2", "full_finetune_distributed", "--config", "llama3_2/1B_full", "batch_size=2")
    two = losses_of(folder, model, both, *many, "gradient_accumulation_steps=1")
    assert len(one) == STEPS and one[-1] < one[0] - 2
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=0.02, atol=0.02)  # bf16 sums in another order

    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        alone / "epoch_0", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ours = llama3_2(
        vocab_size=model.vocab_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        embed_dim=model.embed_dim,
        intermediate_dim=model.intermediate_dim,
        max_seq_len=512,
    )
    state = FullModelHFCheckpointer(str(alone / "epoch_0")).load_checkpoint()["model"]
    ours.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    tokens = torch.randint(0, 128_000, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(tokens), theirs.eval()(tokens).logits, rtol=1e-4, atol=1e-4)
