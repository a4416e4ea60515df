"""What the fine-tuning recipe computes, logs and writes, beside plain training loops of transformers."""

import json
import shutil

import pytest
import torch
import yaml
from tiny_run import COSINE

from torchtune.data import padded_collate_sft
from torchtune.datasets import alpaca_dataset
from torchtune.models.llama3 import llama3_tokenizer
from torchtune.training import get_cosine_schedule_with_warmup

SHORT = "max_steps_per_epoch=2"


def plain_training(tiny, *, steps: int, train_on_input: bool, clip: float | None = None):
    """The same steps by transformers and torch alone: one padded batch per micro-batch, a mean over all its targets."""
    import transformers

    tokenizer = llama3_tokenizer(str(tiny.model / "tokenizer.json"), max_seq_len=320)
    data = alpaca_dataset(
        tokenizer, source="json", data_files=str(tiny.root / "rows.jsonl"), train_on_input=train_on_input
    )
    model = transformers.LlamaForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses, norms = [], []
    for step in range(steps):
        samples = [data[i] for i in range(4 * step, 4 * step + 4)]  # shuffle=False
        counted = sum(label != -100 for s in samples for label in s["labels"][1:])
        total = 0.0
        for pair in (samples[:2], samples[2:]):
            batch = padded_collate_sft(pair, padding_idx=tokenizer.pad_id)
            logits = model(batch["tokens"]).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum")
            (loss / counted).backward()
            total += loss.item() / counted
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip or 1e9).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, norms, model


@pytest.mark.parametrize("train_on_input, clip", [(False, None), (True, 0.5)])
def test_equals_a_plain_loop_and_opens_in_transformers(tiny, train_on_input, clip):
    import transformers

    out = f"plain-{clip}"
    words = ["shuffle=False", f"dataset.train_on_input={train_on_input}", f"clip_grad_norm={clip or 'null'}"]
    assert tiny.run(out, "max_steps_per_epoch=4", *words).code == 0
    losses, norms, model = plain_training(tiny, steps=4, train_on_input=train_on_input, clip=clip)
    torch.testing.assert_close(list(tiny.metrics(out).values()), losses, rtol=1e-4, atol=0)
    torch.testing.assert_close(list(tiny.metrics(out, "grad_norm").values()), norms, rtol=1e-4, atol=0)
    folder = tiny.root / out / "epoch_0"
    ours, report = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def base(tiny) -> dict[int, float]:
    """The losses of four ordinary steps, saved as ``base``; one micro-batch per step."""
    assert tiny.run("base", "max_steps_per_epoch=4", "gradient_accumulation_steps=1").code == 0
    return tiny.metrics("base")


@pytest.mark.parametrize(
    "words",
    [["optimizer_in_bwd=True"], ["enable_activation_checkpointing=True"], ["ac_mode=selective", "ac_option=2"]],
    ids=lambda words: words[0],
)
def test_what_does_not_change_a_bit(tiny, base, words):
    out = f"same-{words[0]}"
    assert tiny.run(out, "max_steps_per_epoch=4", "gradient_accumulation_steps=1", *words).code == 0
    assert tiny.metrics(out) == base
    assert tiny.sha(out) == tiny.sha("base")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compiled_layers_give_the_same_losses(tiny, base):
    done = tiny.cli("compiled", "max_steps_per_epoch=4", "gradient_accumulation_steps=1", "compile=True")
    assert done.code == 0 and "Compiling model" in done.err
    torch.testing.assert_close(list(tiny.metrics("compiled").values()), list(base.values()), rtol=1e-4, atol=0)
    assert tiny.weights("compiled").keys() == tiny.weights("base").keys()


def test_parts_that_are_not_compiled_are_said(tiny):
    done = tiny.run("parts", SHORT, "compile={model: False, loss: True}")
    assert done.code == 0 and "compile.loss has no effect" in done.err


def test_the_rate_moves_once_per_optimizer_step(tiny):
    """With a step is logged the rate to which it moved the schedule, as torchtune does."""
    words = ["max_steps_per_epoch=3", "epochs=2", COSINE, "lr_scheduler.num_warmup_steps=2"]
    assert tiny.run("rate", *words).code == 0
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 6)
    expected = {}
    for step in range(1, 7):
        optimizer.step()
        schedule.step()
        expected[step] = schedule.get_last_lr()[0]
    assert tiny.metrics("rate", "lr") == pytest.approx(expected)


def test_validation_does_not_depend_on_batches_or_processes(tiny):
    val = "dataset_val._component_=torchtune.datasets.alpaca_dataset dataset_val.source=json dataset_val.data_files="
    words = [*(val + str(tiny.root / "val.jsonl")).split(), "run_val_every_n_steps=1", SHORT]
    assert tiny.run("val-1", *words).code == 0
    assert tiny.run("val-3", *words, "batch_size_val=3").code == 0
    assert tiny.run("val-n", *words, "batch_size=1", "batch_size_val=2", processes=2).code == 0
    one = tiny.metrics("val-1", "val_loss")
    assert list(one) == [1, 2] and one[2] < one[1]
    for other in ("val-3", "val-n"):
        assert tiny.metrics(other, "val_loss") == pytest.approx(one, rel=1e-5)
    assert tiny.metrics("val-3") == tiny.metrics("val-1")  # validation leaves training alone
    assert tiny.run("val-packs", *words, "dataset.packed=True", "tokenizer.max_seq_len=300", "batch_size=1").code == 0
    assert tiny.metrics("val-packs", "val_loss").keys() == one.keys()  # packs are trained on, and samples validated


def test_a_step_without_a_target_is_skipped_by_all(tiny):
    rows = (tiny.root / "rows.jsonl").read_text().splitlines()
    long = json.dumps({"instruction": "word " * 80, "input": "", "output": "no room is left for this"})
    (tiny.root / "gap.jsonl").write_text("\n".join([*rows[:4], *[long] * 4, *rows[4:8]]))
    words = [f"dataset.data_files={tiny.root / 'gap.jsonl'}", "shuffle=False", "dataset.train_on_input=False"]
    for processes, size in ((1, 2), (2, 1)):
        out = f"gap-{processes}"
        done = tiny.run(out, *words, f"batch_size={size}", processes=processes)
        assert done.code == 0, done.err
        assert "Step 2 has no target token; skipped" in done.err
        assert list(tiny.metrics(out)) == [1, 3]
    assert tiny.metrics("gap-2") == pytest.approx(tiny.metrics("gap-1"), rel=1e-5)


def test_the_last_checkpoints_are_kept(tiny):
    words = ["max_steps_per_epoch=5", "save_every_n_steps=1"]
    assert tiny.run("kept", *words, "checkpointer.keep_last_n_checkpoints=2").code == 0
    out = tiny.root / "kept"
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["epoch_0", "logs", "recipe_state", "step_4"]
    assert sorted(p.name for p in (out / "recipe_state").iterdir()) == ["epoch_0", "recipe_state.pt", "step_4"]


def test_the_base_model_is_kept_when_it_lies_in_the_output_folder(tiny):
    assert tiny.run("chain", SHORT).code == 0
    base = tiny.root / "chain" / "epoch_0"
    words = ["max_steps_per_epoch=3", "save_every_n_steps=1", "keep_last_n_checkpoints=1"]
    done = tiny.run("chain", *words, f"checkpointer.checkpoint_dir={base}")
    assert done.code == 0, done.err
    assert (base / "model-00001-of-00001.safetensors").is_file()


def test_loggers_and_their_rhythm(tiny):
    local = "torchtune.training.metric_logging"
    loggers = f"[{{_component_: {local}.StdoutLogger}}, {{_component_: {local}.DiskLogger, log_dir: {tiny.root}/disk}}]"
    done = tiny.run("loggers", "max_steps_per_epoch=5", f"metric_logger={loggers}", "log_every_n_steps=2")
    assert done.code == 0, done.err
    assert list(tiny.metrics("loggers")) == [2, 4]
    [written] = (tiny.root / "disk").iterdir()
    lines = [line for line in written.read_text().splitlines() if line.startswith("Step")]
    assert lines == [line for line in done.out.splitlines() if line.startswith("Step")]
    assert [line.split(" | ")[0] for line in lines] == ["Step 2", "Step 4"]


def test_a_profile_is_written(tiny):
    words = [
        "enabled=True",
        "cpu=True",
        "cuda=False",
        "wait_steps=0",
        "warmup_steps=1",
        "active_steps=1",
        "num_cycles=1",
    ]
    words = [f"profiler.{w}" for w in ("_component_=torchtune.training.setup_torch_profiler", *words)]
    done = tiny.run("profiled", "max_steps_per_epoch=3", *words, f"profiler.output_dir={tiny.root}/profile")
    assert done.code == 0, done.err
    assert any(p.stat().st_size for p in (tiny.root / "profile").rglob("*.json*"))


def test_what_is_said_and_written(tiny):
    """The lines of the guides, no carriage return off a terminal, and the folder that they show."""
    done = tiny.run("said", SHORT)
    lines = (
        "Setting manual seed to local seed 7. Local seed is seed + rank = 7 + 0",
        "Writing logs to",
        "Model is initialized with precision torch.float32.",
        "Tokenizer is initialized from file.",
        "Optimizer and loss are initialized.",
        "Loss is initialized.",
        "Dataset and Sampler are initialized.",
        "Profiling disabled.",
        "Profiler config after instantiation: {'enabled': False}",
        "1|2|Loss: ",
    )
    for line in lines:
        assert line in done.err
    assert "\r" not in done.err + done.out
    out = tiny.root / "said"
    names = {"LICENSE.txt", "MANIFEST.json", "config.json", "generation_config.json", "tokenizer.json",
             "model-00001-of-00001.safetensors", "model.safetensors.index.json"}  # fmt: skip
    assert {p.name for p in (out / "epoch_0").iterdir()} == names
    assert (out / "recipe_state" / "recipe_state.pt").is_file()
    [log] = (out / "logs").glob("log_*.txt")
    assert "Step 1 | loss:" in log.read_text()
    written = yaml.safe_load((out / "torchtune_config.yaml").read_text())
    assert written["max_steps_per_epoch"] == 2 and written["optimizer"]["lr"] == 2e-3


def test_bf16_weights_are_written_as_bf16(tiny):
    assert tiny.run("bf16", SHORT, "dtype=bf16").code == 0
    assert {t.dtype for t in tiny.weights("bf16").values()} == {torch.bfloat16}
    assert json.loads((tiny.root / "bf16" / "epoch_0" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_keys_without_effect_are_said(tiny):
    words = ["fsdp_cpu_offload=True", "checkpointer.output_dir=elsewhere", "custom_sharded_layers=[output]"]
    done = tiny.cli("inert", "max_steps_per_epoch=1", *words)
    assert done.code == 0
    for key in ("fsdp_cpu_offload", "checkpointer.output_dir", "custom_sharded_layers"):
        assert any(key in line and "no effect" in line for line in done.err.splitlines()), key
    assert not (tiny.root / "elsewhere").exists()
