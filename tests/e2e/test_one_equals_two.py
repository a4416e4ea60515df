"""One process equals two: the same losses, norms and final weights within float32 rounding, whatever the settings."""

import pytest
import torch
from tiny_run import COSINE

STEPS = "max_steps_per_epoch=4"
SETTINGS = {
    "plain": [],
    "clipped, resting on the CPU": [
        "clip_grad_norm=0.5", COSINE, "lr_scheduler.num_warmup_steps=2", "fsdp_cpu_offload=True"
    ],
    "packed, recomputed": ["dataset.packed=True", "enable_activation_checkpointing=True"],
    "untied, kept whole": [
        "model.tie_word_embeddings=False", "checkpointer.checkpoint_dir={untied}",
        "fsdp_reshard_after_forward=False", "fsdp_prefetch_layers=0", "fsdp_accumulate_unsharded=True",
    ],
    "in backward": ["optimizer_in_bwd=True", "gradient_accumulation_steps=1"],
    "masked prompts": ["dataset.train_on_input=False", "shuffle=False"],
}  # fmt: skip


def assert_same_training(tiny, one: str, two: str) -> None:
    for name in ("loss", "grad_norm", "lr"):
        ours, theirs = tiny.metrics(one, name), tiny.metrics(two, name)
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(list(ours.values()), list(theirs.values()), rtol=1e-5, atol=1e-6)
    ours, theirs = tiny.weights(one), tiny.weights(two)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", SETTINGS)
def test_one_process_equals_two(tiny, name):
    words = [STEPS, *(word.format(untied=tiny.untied) for word in SETTINGS[name])]
    one, two = f"one-{name}", f"two-{name}"
    done = tiny.run(one, "batch_size=2", *words)
    assert done.code == 0, done.err
    done = tiny.run(two, "batch_size=1", *words, processes=2)
    assert done.codes == [0, 0], done.err
    assert "FSDP" in done.err
    assert len(tiny.metrics(one)) == 4
    assert_same_training(tiny, one, two)


def test_the_difference_would_show(tiny):
    """The tolerances above are far below what one other sample in a step does."""
    assert tiny.run("one-plain-b", "batch_size=2", STEPS, "seed=8").code == 0
    with pytest.raises(AssertionError):
        assert_same_training(tiny, "one-plain", "one-plain-b")
