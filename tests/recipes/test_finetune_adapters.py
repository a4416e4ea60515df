"""Fine-tuning with adapters: LoRA, DoRA and QLoRA on one process and two, what is written, and going on from it."""

import json
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from torchtune.data import padded_collate_sft
from torchtune.datasets import alpaca_dataset
from torchtune.models.llama3 import llama3_tokenizer

SHORT = "max_steps_per_epoch=2"
METHODS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "qlora": {"quantize_base": True},
    "qdora": {"quantize_base": True, "use_dora": True},
}
TOKENS = torch.arange(40)[None]


def plain_model(folder, adapter=None):
    """A model of transformers, with PEFT's adapter."""
    import peft
    import transformers

    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def adapter(tiny, out: str, folder: str = "epoch_0") -> dict[str, torch.Tensor]:
    return load_file(tiny.root / out / folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_goes_on_from_an_adapter_of_peft_as_peft_does(tiny, use_dora):
    import peft

    kinds = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=kinds, use_dora=use_dora, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = peft.get_peft_model(plain_model(tiny.model), config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    start = tiny.root / f"peft-{use_dora}"
    model.save_pretrained(start)

    out = f"from-peft-{use_dora}"
    words = [*tiny.adapters(use_dora=use_dora), "shuffle=False", "max_steps_per_epoch=3"]
    ended = tiny.run(out, *words, f"checkpointer.adapter_checkpoint={start}")
    assert ended.code == 0, ended.err
    tokenizer = llama3_tokenizer(str(tiny.model / "tokenizer.json"), max_seq_len=320)
    data = alpaca_dataset(tokenizer, source="json", data_files=str(tiny.root / "rows.jsonl"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses, norms = [], []
    for step in range(3):
        batch = padded_collate_sft([data[i] for i in range(4 * step, 4 * step + 4)], padding_idx=tokenizer.pad_id)
        scores = model(batch["tokens"]).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, batch["labels"][:, 1:].flatten())
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    torch.testing.assert_close(list(tiny.metrics(out).values()), losses, rtol=1e-4, atol=0)
    torch.testing.assert_close(list(tiny.metrics(out, "grad_norm").values()), norms, rtol=1e-3, atol=0)
    trained = plain_model(tiny.model, tiny.root / out / "epoch_0" / "adapter")
    torch.testing.assert_close(logits(trained), logits(model), rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one_and_merge_to_what_was_trained(tiny, method):
    words = [*tiny.adapters(**METHODS[method]), SHORT, "gradient_accumulation_steps=1", "run_val_every_n_steps=2"]
    words += ["dataset_val._component_=torchtune.datasets.alpaca_dataset", "dataset_val.source=json"]
    words += [f"dataset_val.data_files={tiny.root}/val.jsonl"]
    ended = tiny.run(method, *words, "batch_size=4")
    assert ended.code == 0, ended.err
    ended = tiny.run(f"{method}-2", *words, "batch_size=2", processes=2)
    assert ended.code == 0, ended.err
    torch.testing.assert_close(tiny.metrics(method), tiny.metrics(f"{method}-2"), rtol=1e-5, atol=0)
    one, two = adapter(tiny, method), adapter(tiny, f"{method}-2")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-4)
    merged = tiny.root / method / "epoch_0"
    alone = logits(plain_model(merged))
    if "q" not in method:
        torch.testing.assert_close(alone, logits(plain_model(tiny.model, merged / "adapter")), rtol=0, atol=1e-4)
        return
    # what was validated in 4 bits is what lies in the merged weights
    again = [w for w in words if not w.startswith(("model.", "recipe"))]
    assert tiny.run(f"{method}-merged", *again, f"checkpointer.checkpoint_dir={merged}", "optimizer.lr=0").code == 0
    (measured,), (expected,) = (tiny.metrics(out, "val_loss").values() for out in (f"{method}-merged", method))
    assert measured == pytest.approx(expected, rel=1e-5)


def test_only_adapters_are_trained_and_have_optimizer_state(tiny):
    ended = tiny.run("frozen", *tiny.adapters(), SHORT)
    assert ended.code == 0, ended.err
    base, merged = load_file(tiny.model / "model.safetensors"), tiny.weights("frozen")
    changed = {name.rpartition(".")[0].rpartition(".")[2] for name in base if not torch.equal(base[name], merged[name])}
    assert changed == {"q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}
    assert base.keys() == merged.keys()
    state = tiny.root / "frozen" / "recipe_state" / "epoch_0" / "optimizer-00000-of-00001.safetensors"
    with safe_open(state, "pt") as f:
        held = {key.partition("|")[0] for key in f.keys()}
    assert held == {f"{n}" for n in torch.load(tiny.root / "frozen" / "epoch_0" / "adapter_model.pt")}
    assert all("lora" in name for name in held)
    assert "LoRA adapters of rank 4 on 10 layers: " in ended.err and "parameters are trained (" in ended.err


@pytest.mark.parametrize("method", ["lora", "qlora", "dora"])
def test_resumes_exactly_with_dropout(tiny, method):
    words = [*tiny.adapters(lora_dropout=0.2, **METHODS[method]), "epochs=2", "max_steps_per_epoch=3"]
    words += ["save_every_n_steps=1"]
    assert tiny.run(f"{method}-straight", *words).code == 0
    out = f"{method}-stopped"
    ended = tiny.stop_after(out, 2, tiny.start(out, *words), signal.SIGTERM)
    assert ended.code == 143, ended.err
    ended = tiny.run(out, *words, "resume_from_checkpoint=True")
    assert ended.code == 0, ended.err
    assert tiny.metrics(out) == tiny.metrics(f"{method}-straight")
    assert tiny.sha(out, "epoch_1") == tiny.sha(f"{method}-straight", "epoch_1")
    straight, resumed = adapter(tiny, f"{method}-straight", "epoch_1"), adapter(tiny, out, "epoch_1")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_adapters_alone_are_a_folder_of_peft(tiny):
    ended = tiny.run("only", *tiny.adapters(), SHORT, "save_adapter_weights_only=True")
    assert ended.code == 0, ended.err
    folder = tiny.root / "only" / "epoch_0"
    names = {p.name for p in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_model.pt", "adapter_config.json", "tokenizer.json"} <= names
    assert not {"config.json", "adapter"} & names and not any(n.startswith("model-") for n in names)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    assert logits(plain_model(tiny.model, folder)).isfinite().all()
    ended = tiny.run(
        "only", *tiny.adapters(), SHORT, "save_adapter_weights_only=True", "epochs=2", "resume_from_checkpoint=True"
    )
    assert ended.code == 0 and (tiny.root / "only" / "epoch_1").is_dir(), ended.err


def test_trained_modules_are_kept_with_the_adapters(tiny):
    words = [*tiny.adapters(trainable_modules="[sa_norm,norm]"), SHORT]
    ended = tiny.run("norms", *words)
    assert ended.code == 0, ended.err
    base, merged = load_file(tiny.model / "model.safetensors"), tiny.weights("norms")
    assert not torch.equal(base["model.norm.weight"], merged["model.norm.weight"])
    assert torch.equal(
        base["model.layers.0.post_attention_layernorm.weight"], merged["model.layers.0.post_attention_layernorm.weight"]
    )
    peft = plain_model(tiny.model, tiny.root / "norms" / "epoch_0" / "adapter")
    torch.testing.assert_close(logits(peft), logits(plain_model(tiny.root / "norms" / "epoch_0")), rtol=0, atol=1e-4)
    more = tiny.run("norms", *words, "epochs=2", "resume_from_checkpoint=True")
    assert more.code == 0, more.err


def test_an_adapter_that_does_not_fit_is_refused(tiny):
    assert tiny.run("rank-4", *tiny.adapters(), SHORT).code == 0
    source = f"checkpointer.adapter_checkpoint={tiny.root}/rank-4/epoch_0"
    ended = tiny.run("rank-8", *tiny.adapters(lora_rank=8), source)
    assert ended.code == 4 and "8" in ended.err and "4" in ended.err, ended.err
    merged = f"checkpointer.checkpoint_dir={tiny.root}/rank-4/epoch_0"
    ended = tiny.run("twice", *tiny.adapters(), source, merged)
    assert ended.code == 4 and "other" in ended.err, ended.err
    ended = tiny.run("nowhere", *tiny.adapters(), "checkpointer.adapter_checkpoint=/no/such/adapter")
    assert ended.code == 4 and "/no/such/adapter" in ended.err, ended.err
    assert tiny.run("continued", *tiny.adapters(), source, SHORT).code == 0


def test_bf16_runs_write_bf16(tiny):
    assert tiny.run("bf16", *tiny.adapters(), SHORT, "dtype=bf16").code == 0
    assert {t.dtype for t in adapter(tiny, "bf16").values()} == {torch.bfloat16}
    assert {t.dtype for t in tiny.weights("bf16").values()} == {torch.float32}  # what the base's files have


def test_a_run_is_not_resumed_as_one_of_another_kind(tiny):
    assert tiny.run("kind-lora", *tiny.adapters(), SHORT).code == 0
    assert tiny.run("kind-full", SHORT).code == 0
    more = ["resume_from_checkpoint=True", "epochs=2"]
    ended = tiny.run("kind-lora", *more)
    assert ended.code == 4 and "holds a run that trains adapters" in ended.err, ended.err
    ended = tiny.run("kind-full", *tiny.adapters(), *more)
    assert ended.code == 4 and "holds a run of full fine-tuning" in ended.err, ended.err
    ended = tiny.run("kind-lora", *tiny.adapters(quantize_base=True), *more)
    assert ended.code == 4 and "not quantized" in ended.err, ended.err


def test_an_adapter_for_full_fine_tuning_is_refused(tiny):
    ended = tiny.run("full-adapter", "checkpointer.adapter_checkpoint=somewhere")
    assert ended.code == 2 and "has no adapters" in ended.err, ended.err
