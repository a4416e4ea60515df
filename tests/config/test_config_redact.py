"""Secrets never reach a log, a saved config or an error; references to the environment stay references."""

import logging

import pytest
from omegaconf import OmegaConf

from torchtune.config import check, load, load_text, log_config, redact, redact_text, save, to_yaml, typed
from torchtune.config.schema import FinetuneConfig

HF = "hf_" + "aB3" * 10
SECRETS = [HF, "sk-" + "x1" * 12, "AKIA" + "A1B2C3D4E5F6G7H8", "0123456789abcdef" * 2 + "01234567", "ghp_" + "a1" * 18]


@pytest.mark.parametrize("secret", SECRETS)
def test_values_that_look_like_credentials(secret):
    assert secret not in redact_text(f"x {secret} y")
    assert redact({"a": [{"b": secret}]}) == {"a": [{"b": "<redacted>"}]}


@pytest.mark.parametrize(
    "key", ["token", "hf_token", "api_key", "password", "client_secret", "wandb_api_key", "apikey"]
)
def test_keys_that_name_credentials(key):
    assert redact({key: "plain"}) == {key: "<redacted>"}
    assert redact({key: None}) == {key: None}
    assert redact({key: "${oc.env:X}"}) == {key: "${oc.env:X}"}


@pytest.mark.parametrize(
    "harmless",
    [{"pad_token": "<pad>"}, {"max_new_tokens": 200}, {"tokenizer": {"path": "/x"}}, {"image_token": "<image>"},
     {"sha256": "a" * 64}, {"seed": 42}, {"checkpoint_files": ["model-00001-of-00002.safetensors"]}],
)  # fmt: skip
def test_what_is_no_secret_stays(harmless):
    assert redact(harmless) == harmless


def test_saved_and_logged_configs_hold_no_secret(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MY_ROOT", "/very/private/place")
    text = (
        f"output_dir: ${{root}}/out\nroot: ${{oc.env:MY_ROOT}}\nn: 2\nm: ${{n}}\nlogger:\n  api_key: opensesame\n"
        f"  note: {HF}\n  dir: ${{output_dir}}/logs\n  tags: [a, '${{n}}']\n"
    )
    cfg = load_text(text, "f").cfg
    path = save(cfg, tmp_path / "sub" / "config.yaml")
    with caplog.at_level(logging.INFO):
        log_config("Recipe", cfg)
    for shown in (path.read_text(), caplog.text, to_yaml(cfg)):
        assert "opensesame" not in shown and HF not in shown and "/very/private" not in shown
        assert "${oc.env:MY_ROOT}" in shown
    again = OmegaConf.load(path)
    assert again.m == 2 and again.logger.dir == "/very/private/place/out/logs"
    assert OmegaConf.to_container(again)["m"] == 2 and list(again.logger.tags) == ["a", 2]
    assert [p.name for p in path.parent.iterdir()] == ["config.yaml"]


def test_only_the_first_process_logs(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO):
        log_config("Recipe", OmegaConf.create({"a": 1}))
    assert caplog.text == ""


def test_faults_do_not_print_secrets(parts):
    found = check(load("config.yaml", [f"dtype={HF}", f"epochs={SECRETS[1]}"]), FinetuneConfig)
    assert len(found) == 2 and not any(s in str(p) for p in found for s in SECRETS)


def test_a_saved_typed_config_is_complete_and_loads_without_faults(parts):
    loaded = load("config.yaml", ["~profiler"])
    del loaded.cfg["metric_logger"]
    path = save(typed(FinetuneConfig, loaded.cfg), parts / "out.yaml")
    again = load(path)
    assert again.cfg.metric_logger.log_dir == "/tmp/out/logs"
    assert [p for p in check(again, FinetuneConfig) if "metric_logg" not in p.message] == []
