"""`tune export` from the command line: what it prints, where it writes, and how it ends."""

import json

import pytest
from light import COMMAND, check_light
from tiny_run import make_model

from torchtune.cli import main
from torchtune.export import TARGETS


def tune(*words: object) -> int:
    """Runs `tune export` in this process and gives its exit code."""
    try:
        main(["export", *map(str, words)])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("place") / "epoch_0")


def test_help_comes_at_once():
    printed = check_light(COMMAND, ["export", "--help"])
    assert all(f"  {name} " in printed and row.text in printed for name, row in TARGETS.items())


def test_it_says_what_it_wrote_and_measured(model, capsys):
    assert tune(model, "--to", "torchtune", "--verify") == 0
    folder = model.with_name("epoch_0-torchtune")
    printed = capsys.readouterr().out
    assert printed.startswith(f"Written to {folder}:\n")
    for path in folder.iterdir():
        assert f"{path.stat().st_size:,}  {path.name}\n" in printed
    assert "Verified with torch " in printed and "weights: all 20 are equal to the bit" in printed
    assert "logits: differ by at most 0 on" in printed and "note: there is no chat template" in printed
    assert json.loads((folder / "verify.json").read_text())["source"] == str(model)


def test_it_says_what_rounding_costs(model, tmp_path, capsys):
    words = ("--to", "meta", "--dtype", "bf16", "--output", tmp_path / "out", "--verify")
    assert tune(model, *words) == 0
    assert "what its numbers round away: logits change by up to 0." in capsys.readouterr().out
    assert tune(model, *words) == 2
    assert "--force" in capsys.readouterr().err
    assert tune(model, *words, "--force") == 0


def test_default_place_is_beside_the_checkpoint(model, tmp_path, capsys):
    """Not in it, even when what is exported is a file or folder of it."""
    from torchtune.cli.export import _beside

    epoch = tmp_path / "run" / "epoch_3"
    (epoch / "adapter").mkdir(parents=True)
    for name in ("MANIFEST.json", "adapter_model.pt", "adapter/adapter_model.safetensors"):
        (epoch / name).write_text("")
    for path in (epoch, epoch / "adapter", epoch / "adapter_model.pt", epoch / "adapter" / "adapter_model.safetensors"):
        assert _beside(path, "peft") == tmp_path / "run" / "epoch_3-peft"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "ggfu"], 2, "Did you mean 'gguf'?"),
        (["--to", "hf", "--quantize", "q8_0"], 2, "--quantize has no meaning with --to hf"),
        ([], 2, "--to"),
        (["--to", "peft"], 4, "there is no adapter"),
        (["--to", "gguf"], 4, "merges no bytes to words"),
        (["--to", "hf", "--max-shard-size", "big"], 2, "not a size"),
    ],
)
def test_faults(model, tmp_path, capsys, words, code, said):
    assert tune(model, *words, "--output-dir", tmp_path / "out") == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_difference_ends_with_the_code_of_checkpoints(model, tmp_path, capsys, monkeypatch):
    from torchtune.export import _folder

    def broken(source, dtype):
        for name, tensor in source.weights():
            yield name, tensor.flip(0) if name == "layers.0.attn.q_proj.weight" else tensor

    monkeypatch.setattr(_folder, "_cast", broken)
    assert tune(model, "--to", "hf", "--verify", "--output-dir", tmp_path / "out") == 4
    assert "1 of 20 weights have other bits, for example layers.0.attn.q_proj.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
