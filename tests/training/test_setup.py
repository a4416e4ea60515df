"""Steps before the loop: what is refused, what is said, and which parts a setting picks."""

from types import SimpleNamespace

import pytest
import torch
from letters import Letters

from torchtune.data import padded_collate_packed
from torchtune.data._collate import collate_packs
from torchtune.datasets import text_completion_dataset
from torchtune.datasets._gates import parts_to_check
from torchtune.errors import CheckpointError, ConfigError, DataError
from torchtune.training import setup


def test_a_tokenizer_that_gives_more_than_the_model_takes():
    model = SimpleNamespace(max_seq_len=64)
    setup.check_max_seq_len(model, SimpleNamespace(max_seq_len=64))
    setup.check_max_seq_len(model, SimpleNamespace(max_seq_len=None))
    setup.check_max_seq_len(SimpleNamespace(), SimpleNamespace(max_seq_len=9))
    with pytest.raises(ConfigError, match="tokenizer.max_seq_len is 65, but the model has 64 positions"):
        setup.check_max_seq_len(model, SimpleNamespace(max_seq_len=65))


def test_a_sample_that_is_longer_than_the_model(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "{"a" * count}"}}\n' for count in (3, 20, 9)))
    looked_at = parts_to_check(text_completion_dataset(Letters(), str(rows)), "dataset")
    setup.check_lengths(SimpleNamespace(max_seq_len=22), looked_at)
    setup.check_lengths(SimpleNamespace(), looked_at)
    with pytest.raises(
        DataError, match=r"1 of 3 samples of dataset .* 12 positions, .* 2[12] tokens \(.*, line 2\). Set"
    ):
        setup.check_lengths(SimpleNamespace(max_seq_len=12), looked_at)


def test_the_position_in_the_data_must_mean_the_same():
    saved = {"num_samples": 4, "data": "a", "step": 3}
    setup.check_same_data(saved, {"num_samples": 4, "data": "a"})
    with pytest.raises(CheckpointError, match="num_samples: 4 then, 5 now"):
        setup.check_same_data(saved, {"num_samples": 5, "data": "a"})


@pytest.mark.parametrize(
    "setting, model, loss",
    [(True, True, True), (False, False, False), ({"loss": True}, False, True), ({"model": True}, True, False)],
)
def test_parts_to_compile(setting, model, loss):
    assert setup.compiles(setting, "model") == model and setup.compiles(setting, "loss") == loss


def test_how_many_checkpoints_are_kept():
    def kept(top, inner):
        return setup.kept_checkpoints(SimpleNamespace(keep_last_n_checkpoints=top, checkpointer=inner))

    assert kept(3, {}) == 3
    assert kept(None, {"keep_last_n_checkpoints": 2}) == 2
    assert kept(None, {}) is None


def test_settings_without_effect(caplog):
    cfg = SimpleNamespace(
        compile={"model": True, "loss": True, "scale_grads": False},
        fsdp_cpu_offload=True,
        checkpointer={"output_dir": "there"},
        output_dir="here",
        seed=5,
    )
    setup.say_what_has_no_effect(cfg, seed=4)
    assert [message.split(" has")[0] for message in caplog.messages] == [
        "seed: 5", "compile.loss", "fsdp_cpu_offload", "checkpointer.output_dir"
    ]  # fmt: skip
    caplog.clear()
    plain = {"compile": True, "fsdp_cpu_offload": False, "checkpointer": {"output_dir": "./here"}, "output_dir": "here"}
    setup.say_what_has_no_effect(SimpleNamespace(**plain, seed=5), seed=5)
    setup.say_what_has_no_effect(SimpleNamespace(**plain, seed=None), seed=4)
    assert not caplog.messages


def test_the_collate_function():
    tokenizer = SimpleNamespace(pad_id=9)
    cfg = SimpleNamespace(collate_fn="torchtune.data.padded_collate_sft", compile=False)
    assert setup.collate_for(SimpleNamespace(packed=True), cfg, tokenizer) is collate_packs
    cfg.compile = {"model": True}
    assert setup.collate_for(SimpleNamespace(packed=True), cfg, tokenizer) is padded_collate_packed
    collate = setup.collate_for(SimpleNamespace(), cfg, tokenizer)
    batch = collate([{"tokens": [1, 2], "labels": [1, 2]}, {"tokens": [3], "labels": [3]}])
    assert batch["tokens"].tolist() == [[1, 2], [3, 9]] and batch["labels"].tolist() == [[1, 2], [3, -100]]


def test_a_schedule_gets_the_number_of_steps_if_it_takes_one():
    def made(path, **arguments):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return setup.make_scheduler({"_component_": path, **arguments}, optimizer, 10)

    ours = made("torchtune.training.lr_schedulers.get_linear_schedule_with_warmup", num_warmup_steps=0)
    theirs = made("torch.optim.lr_scheduler.StepLR", step_size=1, gamma=0.5)
    for schedule, expected in ((ours, 0.9), (theirs, 0.5)):
        schedule.optimizer.step()
        schedule.step()
        assert schedule.get_last_lr() == [pytest.approx(expected)]
    assert setup.make_scheduler(None, ours.optimizer, 10) is None


def test_rows_that_text_needs():
    assert setup.text_vocab_size(SimpleNamespace(vocab_size=5)) == 5
    assert setup.text_vocab_size(SimpleNamespace(vocab_size=5, text_vocab_size=4)) == 4


def test_a_hint_is_given_only_where_offloading_could_help(caplog):
    cfg = SimpleNamespace(enable_activation_checkpointing=True, enable_activation_offloading=False)
    with caplog.at_level("INFO"):
        setup.give_hints(cfg, torch.device("cpu"))
        assert not caplog.messages
        setup.give_hints(cfg, torch.device("cuda"))
    assert caplog.messages[0].startswith("Hint: enable_activation_checkpointing is True, but")
