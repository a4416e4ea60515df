"""Runs on streams, mixtures and batches grouped by length: to the same bits when resumed, the same samples on two."""

import pytest
from tiny_run import COSINE

ALPACA = "torchtune.datasets.alpaca_dataset"


def entry(tiny, name: str, **options) -> str:
    """A dataset of rows that ``tiny`` has, as it is written in a list."""
    node = {"_component_": ALPACA, "source": tiny.root / f"{name}.jsonl", **options}
    return "{" + ", ".join(f"{key}: {value}" for key, value in node.items()) + "}"


def kinds(tiny) -> dict[str, list[str]]:
    stream = ["dataset.streaming=True", "dataset.shuffle_buffer=20", "max_steps=11"]
    mixed = [entry(tiny, "rows", weight=2), entry(tiny, "val", weight=1)]
    mixed_streams = [entry(tiny, name, weight=1, streaming=True, shuffle_buffer=8) for name in ("rows", "val")]
    return {
        "stream": [*stream, "max_steps_per_epoch=7", "num_workers=1"],
        "packed stream": [*stream, "dataset.packed=True", "tokenizer.max_seq_len=300", "batch_size=1"],
        "mixture": [f"dataset=[{', '.join(mixed)}]", "mixture_stop=first_exhausted", "epochs=3"],
        "mixed streams": [f"dataset=[{', '.join(mixed_streams)}]", "max_steps=11"],
        "grouped": ["group_by_length=True", "epochs=1"],
    }


def slow(*names: str) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", ["packed stream", *slow("stream", "mixture", "mixed streams", "grouped")])
def test_a_stopped_run_goes_on_to_the_same_bits(tiny, name):
    words = [*kinds(tiny)[name], COSINE, "lr_scheduler.num_warmup_steps=3", "model.attn_dropout=0.1"]
    straight, stopped = f"straight-{name}", f"stopped-{name}"
    ended = tiny.run(straight, *words)
    assert ended.code == 0, ended.err
    assert tiny.stop_after(stopped, 4, tiny.start(stopped, *words)).code == 143
    ended = tiny.run(stopped, *words, "resume_from_checkpoint=True")
    assert ended.code == 0 and "Going on after step" in ended.err, ended.err
    assert tiny.metrics(stopped) == tiny.metrics(straight)
    last = tiny.state(straight)["last_checkpoint"]
    assert tiny.state(stopped)["last_checkpoint"] == last
    assert tiny.sha(stopped, last) == tiny.sha(straight, last)


@pytest.mark.parametrize("name", slow("stream", "packed stream", "mixture", "mixed streams", "grouped"))
def test_two_processes_see_in_a_step_what_one_sees_also_after_a_change(tiny, name):
    words = [*kinds(tiny)[name], "gradient_accumulation_steps=4"]
    one, two, changed = f"one-{name}", f"two-{name}", f"changed-{name}"
    assert tiny.run(one, *words).code == 0
    words[-1] = "gradient_accumulation_steps=2"
    assert tiny.run(two, *words, processes=2).code == 0
    expected = tiny.metrics(one)
    assert tiny.metrics(two) == pytest.approx(expected, rel=1e-5)
    assert tiny.stop_after(changed, 2, tiny.start(changed, *words, processes=2)).code == 143
    words[-1] = "gradient_accumulation_steps=4"
    ended = tiny.run(changed, *words, "resume_from_checkpoint=True")
    assert ended.code == 0, ended.err
    assert tiny.metrics(changed) == pytest.approx(expected, rel=1e-5)
