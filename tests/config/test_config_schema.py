"""Typed keys: types, unknown and missing keys, impossible combinations, and keys without effect."""

import copy
import dataclasses
import pickle

import pytest
from omegaconf import DictConfig

from torchtune import config
from torchtune.config import check, load, notes, source_of, typed
from torchtune.config.schema import ELSEWHERE, FinetuneConfig, TrainConfig
from torchtune.errors import ConfigError


def faults(*words):
    return [str(p) for p in check(load("config.yaml", words), FinetuneConfig)]


def test_a_good_config_has_no_faults_and_becomes_an_object(parts):
    loaded = load("config.yaml", ["clip_grad_norm=1", "seed=null"])
    assert check(loaded, FinetuneConfig) == []
    cfg = typed(FinetuneConfig, loaded.cfg, loaded.positions)
    assert cfg.clip_grad_norm == 1.0 and isinstance(cfg.clip_grad_norm, float)
    assert cfg.batch_size == 2 and cfg.seed is None and cfg.dataset_val is None
    assert isinstance(cfg.optimizer, DictConfig) and cfg.checkpointer.checkpoint_dir == "/tmp/out"
    assert source_of(cfg) is loaded.cfg
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.batch_size = 3


def test_left_out_components_get_defaults_that_are_part_of_the_config(parts):
    loaded = load("config.yaml", ["~profiler"])
    del loaded.cfg["metric_logger"], loaded.cfg["optimizer"]
    cfg = typed(FinetuneConfig, loaded.cfg)
    assert cfg.metric_logger.log_dir == "/tmp/out/logs"
    assert loaded.cfg.optimizer._component_ == "torch.optim.AdamW"


def test_lists_of_components_are_plain_lists_of_nodes(parts):
    cfg = typed(FinetuneConfig, load("config.yaml", ["metric_logger=[{_component_: parts.Logger}]"]).cfg)
    assert isinstance(cfg.metric_logger, list) and isinstance(cfg.metric_logger[0], DictConfig)


@pytest.mark.parametrize(
    ("word", "parts_of_message"),
    [
        ("epochs=-1", ["epochs must be a whole number of at least 1, found -1"]),
        ("batch_size=0", ["at least 1"]),
        ("gradient_accumulation_steps=0", ["at least 1"]),
        ("epochs=1.5", ["whole number", "1.5"]),
        ("epochs=True", ["whole number", "True"]),
        ("shuffle=1", ["True or False"]),
        ("shuffle=Flase", ["True or False", "'Flase'", "Did you mean 'False'?"]),
        ("clip_grad_norm=1e-3x", ["a number", "'1e-3x'"]),
        ("clip_grad_norm=0", ["more than 0"]),
        ("clip_grad_norm=.nan", ["a number"]),
        ("dtype=bf61", ["one of bf16", "Did you mean 'bf16'?"]),
        ("log_level=info", ["Did you mean 'INFO'?"]),
        ("seed=-1", ["at least 0"]),
        ("max_steps_per_epoch=0", ["at least 1"]),
        ("output_dir=3", ["text"]),
        ("output_dir=", ["output_dir must be text of at least one letter"]),
        ("num_workers=100000", ["0 to 256", "100000"]),
        ("num_threads=100000", ["1 to 1024", "100000"]),
        ("optimizer=[1]", ["a mapping with _component_"]),
        ("optimizer._component_=null", ["optimizer._component_ must be a dotted path"]),
        ("~optimizer._component_", ["optimizer must be a mapping with _component_"]),
        ("custom_sharded_layers=output", ["a list"]),
        ("keep_last_n_checkpoints=0", ["at least 1"]),
        ("device=gpu", ["'gpu' is not one of cpu"]),
        ("compile={modle: True}", ["no part 'modle'"]),
        ("metric_logger=[]", ["a list of components"]),
        ("batchsize=3", ["'batchsize' is not a key", "'batch_size'"]),
        ("lr=3", ["optimizer.lr"]),
    ],
)
def test_wrong_values(parts, word, parts_of_message):
    (message,) = faults(word)
    assert all(p in message for p in parts_of_message), message


def test_none_as_text_says_how_nothing_is_spelled(parts):
    (parts / "n.yaml").write_text((parts / "config.yaml").read_text() + "clip_grad_norm: None\n")
    (found,) = check(load("n.yaml"), FinetuneConfig)
    assert found.line == 25 and "spelled null" in found.message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["optimizer_in_bwd=True", "gradient_accumulation_steps=2"], "gradients cannot be accumulated"),
        (["optimizer_in_bwd=True", "clip_grad_norm=1.0"], "cannot be clipped"),
        (["enable_activation_offloading=True"], "wants enable_activation_checkpointing"),
        (["enable_activation_offloading=True", "enable_activation_checkpointing=True", "device=cpu"], "off a GPU"),
        (["dtype=fp16", "device=cpu"], "bf16 or fp32"),
        (["run_val_every_n_steps=5"], "dataset_val"),
        (["ac_mode=selective"], "ac_option"),
        (["ac_option=2"], "ac_mode: selective"),
        (["keep_last_n_checkpoints=2", "checkpointer.keep_last_n_checkpoints=3"], "2 here and 3 under checkpointer"),
    ],
)
def test_impossible_combinations(parts, words, part):
    found = [m for m in faults(*words) if "does not take" not in m]
    assert len(found) == 1 and part in found[0]


@pytest.mark.parametrize(
    "words",
    [
        ["enable_activation_offloading=True", "enable_activation_checkpointing=True", "device=cuda:1"],
        ["ac_mode=selective", "ac_option=2"],
        ["ac_mode=selective", "ac_option=op"],
        ["ac_mode=full"],
        ["compile={model: True, loss: False}"],
        ["cudnn_deterministic_mode=1"],
        ["log_every_n_steps=null"],
        ["clip_grad_norm=.inf"],
        ["clip_grad_norm=inf"],
        ["dataset_val=${dataset}", "run_val_every_n_steps=2", "batch_size_val=${batch_size}"],
        ["tensor_parallel_dim=1", "enable_fp8_training=False", "quantizer=null", "data_parallel_shard_dim=-1"],
    ],
)
def test_possible_combinations(parts, words):
    assert faults(*words) == []


@pytest.mark.parametrize(
    "word",
    ["tensor_parallel_dim=2", "context_parallel_dim=4", "enable_fp8_training=True", "data_parallel_replicate_dim=2",
     "fake_quant_after_n_steps=10", "early_exit_loss={scale: 1}"],
)  # fmt: skip
def test_features_that_are_not_there_are_refused_by_name(parts, word):
    (message,) = faults(word)
    assert word.partition("=")[0] in message and "not available" in message


def test_keys_without_effect_are_accepted_and_say_so(parts):
    words = ["low_cpu_ram=False", "temperature=0.7", "memory_efficient_fsdp_wrap=True"]
    loaded = load("config.yaml", words)
    assert check(loaded, FinetuneConfig) == []
    said = notes(loaded, FinetuneConfig)
    assert len(said) == 3 and all("accepted, no effect" in n for n in said)


def test_every_key_of_torchtunes_finetuning_recipes_is_known():
    keys = """
    ac_mode ac_option activation_offloading_use_streams batch_size batch_size_val checkpointer clip_grad_norm
    collate_fn compile context_parallel_dim context_parallel_rotate_method cudnn_deterministic_mode
    custom_sharded_layers data_parallel_replicate_dim data_parallel_shard_dim dataset dataset_val device dtype
    enable_activation_checkpointing enable_activation_offloading enable_async_checkpointing
    enable_fp8_training epochs fp8_recipe_name fsdp_cpu_offload fsdp_reshard_after_forward
    gradient_accumulation_steps log_every_n_steps log_level log_peak_memory_stats loss low_cpu_ram
    lr_scheduler max_steps_per_epoch memory_efficient_fsdp_wrap metric_logger model optimizer optimizer_in_bwd
    output_dir profiler quantizer resize_token_embeddings resume_from_checkpoint run_val_every_n_steps
    save_adapter_weights_only save_every_n_steps seed shuffle tensor_parallel_dim tensor_parallel_plan
    tokenizer fsdp fake_quant_after_n_steps layer_dropout early_exit_loss
    """.split()
    known = {f.name for f in dataclasses.fields(FinetuneConfig)}
    assert not set(keys) - known
    assert not known & ELSEWHERE.keys()
    assert {f.name for f in dataclasses.fields(TrainConfig)} < known


def test_a_key_that_something_refers_to_is_free(parts):
    text = (parts / "config.yaml").read_text().replace("output_dir: /tmp/out", "output_dir: /tmp/${name}\nname: run1")
    (parts / "free.yaml").write_text(text)
    assert check(load("free.yaml"), FinetuneConfig) == []
    (parts / "dead.yaml").write_text(text.replace("${name}", "x"))
    (found,) = check(load("dead.yaml"), FinetuneConfig)
    assert found.line == 2 and "'name' is not a key" in found.message


def test_all_faults_come_at_once_in_the_order_of_the_file(parts):
    (parts / "bad.yaml").write_text(
        "output_dir: ${modl_dir}\nepochs: 0\nbatchsize: 2\noptimizer:\n  _component_: torch.optim.AdmW\n  lr: 1\n"
        "dtype: fp33\n"
    )
    found = check(load("bad.yaml"), FinetuneConfig)
    assert [p.line for p in found] == [1, 2, 3, 5, 7] + [None] * 4
    text = "\n".join(map(str, found))
    assert "bad.yaml:3: 'batchsize' is not a key of this recipe. Did you mean 'batch_size'?" in text
    assert "bad.yaml:5: optimizer: torch.optim has no 'AdmW'. Did you mean 'AdamW'?" in text
    assert "bad.yaml:1: output_dir: Interpolation key 'modl_dir' not found" in text
    for missing in ("model", "tokenizer", "dataset", "checkpointer"):
        assert f"the config lacks '{missing}'" in text


def test_typed_names_the_place(parts):
    loaded = load("config.yaml", ["epochs=0"])
    with pytest.raises(ConfigError, match="command line: epochs"):
        typed(FinetuneConfig, loaded.cfg, loaded.positions)


def test_a_missing_key_names_the_file(parts):
    (parts / "m.yaml").write_text("epochs: 1\n")
    assert "m.yaml: the config lacks 'output_dir'" in [str(p)[: len("m.yaml: the config lacks 'output_dir'")]
                                                       for p in check(load("m.yaml"), FinetuneConfig)]  # fmt: skip


def test_documented_names_are_there():
    assert {"instantiate", "log_config", "parse", "validate"} <= set(config.__all__)


def test_a_wrong_reference_names_the_nearest_key(parts):
    (found,) = check(load("config.yaml", ["batch_size=${epoch}", "epochs=2"]), FinetuneConfig)
    assert "'epochs'" in found.message and "batch_size" in found.message


def test_configs_can_be_copied_and_sent_to_other_processes(parts):
    loaded = load("config.yaml")
    cfg = typed(FinetuneConfig, loaded.cfg, loaded.positions)
    again = pickle.loads(pickle.dumps(cfg))
    assert again == cfg and source_of(again) == loaded.cfg
    assert copy.deepcopy(loaded.cfg) == loaded.cfg
    assert again.checkpointer.checkpoint_dir == "/tmp/out"


def test_components_under_keys_without_effect_need_only_be_harmless(parts):
    text = (parts / "config.yaml").read_text()
    (parts / "a.yaml").write_text(text + "tensor_parallel_plan:\n  _component_: torchtune.models.llama3.no_such_plan\n")
    (parts / "b.yaml").write_text(text + "teacher_model:\n  _component_: os.system\n")
    assert check(load("a.yaml"), FinetuneConfig) == []
    (found,) = check(load("b.yaml"), FinetuneConfig)
    assert found.line == 26 and "os.system" in found.message


_HELPER = "base: /models\nother: ${base}/x\n"


def _with_helper(parts, *words):
    text = (parts / "config.yaml").read_text().replace("checkpoint_dir: ${output_dir}", "checkpoint_dir: ${other}")
    (parts / "helped.yaml").write_text(_HELPER + text)
    return load("helped.yaml", words)


@pytest.mark.parametrize(
    "words, folder",
    [([], "/models/x"), (["base=/mine"], "/mine/x"), (["checkpointer.checkpoint_dir=/mine"], "/mine")],
)
def test_a_key_that_the_file_refers_to_is_no_fault_even_when_a_word_replaces_the_reference(parts, words, folder):
    loaded = _with_helper(parts, *words)
    assert check(loaded, FinetuneConfig) == [] == notes(loaded, FinetuneConfig)
    assert config.read_config(loaded, FinetuneConfig).checkpointer.checkpoint_dir == folder


def test_a_key_that_nothing_in_the_file_refers_to_is_a_fault_however_it_is_set(parts):
    assert "'bsae' is not a key" in str(check(_with_helper(parts, "bsae=/mine"), FinetuneConfig)[0])


@pytest.mark.parametrize("words", [[], ["checkpointer.checkpoint_dir=/mine"], ["base=${oc.env:HELPER_BASE}"]])
def test_what_is_saved_loads_again_although_it_refers_to_less(parts, monkeypatch, words):
    monkeypatch.setenv("HELPER_BASE", "/from/the/environment")
    cfg = config.read_config(_with_helper(parts, *words), FinetuneConfig)
    again = load(config.save(cfg, "saved.yaml"))
    assert check(again, FinetuneConfig) == []
    assert typed(FinetuneConfig, again.cfg).checkpointer.checkpoint_dir == cfg.checkpointer.checkpoint_dir
    assert again.cfg.keys() & {"base", "other"} == ({"base", "other"} if "base=" in str(words) else set())
