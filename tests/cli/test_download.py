import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_imitation import Repo, serve

GOOD, BAD, OTHER = "hf_goodgoodgoodgoodgoodgood", "hf_badbadbadbadbadbadbadbad", "hf_otherotherotherotherother"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 100,
    "original/consolidated.00.pth": b"p" * 5000,
    "README.md": b"",
}


@pytest.fixture(scope="module")
def hub():
    with serve() as hub:
        hub.tokens.add(OTHER)
        hub.repos["org/tiny"] = Repo(FILES)
        hub.repos["org/gated"] = Repo(FILES, gated=True, readers=(GOOD,))
        hub.repos["org/private"] = Repo(FILES, private=True, readers=(GOOD,))
        hub.repos["org/huge"] = Repo(FILES, declared_bytes={"model.safetensors": 10**17})
        hub.repos["org/more"] = Repo({"model.bin": b"x" * 2_000_000}, declared_bytes={"model.bin": 1000})
        hub.repos["org/down"] = Repo(FILES, status=500)
        hub.repos["org/flaky"] = Repo(FILES, drop_after=1000)
        hub.repos["org/empty"] = Repo({})
        yield hub


@pytest.fixture
def tune(hub, tmp_path):
    hub.requests.clear()

    def run(*arguments, prefix=(), **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "KAGGLE_", "TUNE_"))}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), **variables}
        command = [*prefix, sys.executable, "-m", "torchtune.cli", "download", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


def _paths(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts}


def test_a_model_arrives_whole_after_its_plan_was_shown(tune, tmp_path, hub):
    out = tmp_path / "tiny"
    done = tune("org/tiny", "--output-dir", str(out))
    assert done.returncode == 0, done.stderr
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    assert json.loads((out / "original_repo_id.json").read_text()) == {"repo_id": "org/tiny"}
    plan, _, written = done.stdout.partition(
        "Successfully downloaded model repo and wrote to the following locations:\n"
    )
    assert "25.6 kB  model.safetensors" in plan and "4 of 4 files to download, 30.6 kB;" in plan and " free." in plan
    names = [".cache", "README.md", "config.json", "model.safetensors", "original", "original_repo_id.json"]
    assert written.splitlines() == [str(out / name) for name in names]
    # Readable where nobody watches: whole lines, and no bar that is drawn over itself.
    assert "4 of 4 files are here" in done.stderr and "\r" not in done.stderr
    assert {path for _, path, _ in hub.requests if not path.startswith(("/api/models/org/tiny", "/org/tiny/"))} == set()

    hub.requests.clear()
    again = tune("org/tiny", "--output-dir", str(out))
    assert again.returncode == 0 and "0 of 4 files to download" in again.stdout and "(already there)" in again.stdout
    assert not [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def test_patterns_leave_files_out_and_symlinks_are_said_to_have_no_effect(tune, tmp_path):
    out = tmp_path / "part"
    patterns = ["--ignore-patterns", "original/*, *.md", "--ignore-patterns", "*.safetensors"]
    done = tune(*patterns, "org/tiny", "--output-dir", str(out), "--output-dir-use-symlinks", "False")
    assert done.returncode == 0 and _paths(out) == {"config.json", "original_repo_id.json"}
    assert "no effect" in done.stderr and "pth" not in done.stdout


def test_a_connection_that_breaks_off_is_taken_up_again(tune, tmp_path, hub):
    done = tune("org/flaky", "--output-dir", str(tmp_path / "f"), HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert {name: (tmp_path / "f" / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_token_opens_a_gated_model_and_is_never_shown(tune, tmp_path, hub, way):
    arguments, variables = (["--hf-token", GOOD], {}) if way == "flag" else ([], {"HF_TOKEN": GOOD + "\n"})
    out = tmp_path / "gated"
    done = tune("org/gated", "--output-dir", str(out), *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert {token for _, path, token in hub.requests if "/resolve/" in path} == {GOOD}
    assert GOOD not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and GOOD.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (["org/gated"], {}, 2, ["org/gated is gated", "/org/gated,", "--hf-token", "No token was given"]),
        (["org/gated", "--hf-token", OTHER], {}, 2, ["is gated", "has no access yet"]),
        (["org/tiny", "--hf-token", BAD], {}, 2, ["does not accept the token", "settings/tokens"]),
        (["org/tiny"], {"HF_TOKEN": "hf_with a space"}, 2, ["characters that none has"]),
        (["org/none"], {}, 2, ["no model 'org/none'", "anybody may see"]),
        (["org/private"], {"HF_TOKEN": OTHER}, 2, ["no model 'org/private'", "the token given may see"]),
        (["a/b/c"], {}, 2, ["'a/b/c' is not a repository's name"]),
        (["org/tiny", "--revision", "v9"], {}, 2, ["no revision 'v9'"]),
        (["org/tiny", "--ignore-patterns", "*"], {}, 2, ["no file that * leaves over"]),
        (["org/empty"], {}, 2, ["org/empty has no file"]),
        (["org/tiny"], {"HF_HUB_OFFLINE": "1"}, 2, ["HF_HUB_OFFLINE is set"]),
        (["org/tiny"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 4, ["127.0.0.1:9 could not be reached"]),
        (["org/down"], {}, 4, ["fault of its own (500: Something went wrong)"]),
        (["org/huge"], {}, 4, ["needs 100000.0 TB", "--output-dir"]),
        (["org/tiny", "--kaggle-api-key", BAD], {}, 2, ["--kaggle-api-key has no meaning with --source huggingface"]),
        (["m/m/p/1b", "--source", "kaggle", "--hf-token", BAD], {}, 2, ["--hf-token has no meaning"]),
    ],
    ids=lambda value: "-".join(value).replace("/", "_")[:40] if isinstance(value, list) else "",
)
def test_each_refusal_is_one_clear_message(tune, tmp_path, arguments, variables, code, said):
    done = tune(*arguments, "--output-dir", str(tmp_path / "out"), **variables)
    assert done.returncode == code, done.stderr
    for part in said:
        assert part in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 15
    assert not any(token in done.stdout + done.stderr for token in (GOOD, BAD, OTHER))
    assert not (tmp_path / "out").exists() or not _paths(tmp_path / "out")


def test_a_token_is_not_in_a_traceback_either(tune, tmp_path):
    done = tune("org/tiny", "--hf-token", BAD, "--output-dir", str(tmp_path / "out"), TUNE_TRACEBACK="1")
    assert "Traceback" in done.stderr and BAD not in done.stderr


def test_a_disk_that_fills_up_is_named(tune, tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a small disk cannot be made here")
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}/disk" && exec "$@"'
    done = tune(
        "org/more", "--output-dir", str(tmp_path / "disk" / "m"), prefix=("unshare", "-rm", "sh", "-c", mount, "sh")
    )
    assert done.returncode == 4 and "is full" in done.stderr and "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tune, tmp_path):
    (tmp_path / "file").write_text("")
    done = tune("org/tiny", "--output-dir", str(tmp_path / "file" / "sub"))
    assert done.returncode == 4 and f"{tmp_path}/file" in done.stderr and "Traceback" not in done.stderr


def test_kaggle_needs_its_package(tune, tmp_path):
    (tmp_path / "kagglehub.py").write_text("raise ImportError('not installed')")
    done = tune(
        "m/llama/pytorch/1b", "--source", "kaggle", "--output-dir", str(tmp_path / "k"), PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 2 and "pip install kagglehub" in done.stderr


@pytest.fixture
def kagglehub(tmp_path):
    """A kagglehub that downloads one file, or fails with an error that holds the key."""
    folder = tmp_path / "packages" / "kagglehub"
    folder.mkdir(parents=True)
    (folder / "exceptions.py").write_text(
        "class CredentialError(Exception): pass\nclass UnauthenticatedError(Exception): pass\n"
        "class KaggleApiHTTPError(Exception): pass\n"
    )
    (folder / "config.py").write_text("given = []\ndef set_kaggle_credentials(*args): given.extend(args)\n")
    (folder / "__init__.py").write_text(
        "from pathlib import Path\nfrom kagglehub import config, exceptions\n"
        "def model_download(handle, *, output_dir):\n"
        "    if 'secret' in handle: raise exceptions.KaggleApiHTTPError(f'403 for {config.given}')\n"
        "    assert config.given == ['me', 'my-kaggle-key']\n"
        "    Path(output_dir, 'params.json').write_text('{}')\n    return output_dir\n"
    )
    return str(tmp_path / "packages")


@pytest.mark.parametrize("way", ["flags", "variables"])
def test_kaggle_gets_the_credentials_and_the_folder(tune, tmp_path, kagglehub, way):
    pytest.importorskip("requests")
    flags = ["--kaggle-username", "me", "--kaggle-api-key", "my-kaggle-key"] if way == "flags" else []
    variables = {} if flags else {"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "my-kaggle-key"}
    out = tmp_path / "k"
    done = tune(
        "m/l/pytorch/1b", "--source", "kaggle", "--output-dir", str(out), *flags, PYTHONPATH=kagglehub, **variables
    )
    assert done.returncode == 0, done.stderr
    assert f"{out}/params.json" in done.stdout and "my-kaggle-key" not in done.stdout + done.stderr
    assert json.loads((out / "original_repo_id.json").read_text()) == {"repo_id": "m/l/pytorch/1b"}


def test_a_refusal_of_kaggle_does_not_show_the_key(tune, tmp_path, kagglehub):
    pytest.importorskip("requests")
    flags = ["--kaggle-username", "me", "--kaggle-api-key", "my-kaggle-key", "--output-dir", str(tmp_path / "k")]
    done = tune("m/secret/pytorch/1b", "--source", "kaggle", *flags, PYTHONPATH=kagglehub, TUNE_TRACEBACK="1")
    assert done.returncode == 2 and "did not give m/secret" in done.stderr and "my-kaggle-key" not in done.stderr
    half = tune("m/l/pytorch/1b", "--source", "kaggle", *flags[2:], PYTHONPATH=kagglehub)
    assert half.returncode == 2 and "both a user name and a key" in half.stderr


def test_the_default_folder_and_help_need_no_torch(tune):
    code = (
        "import sys; from torchtune.cli import main, download; from pathlib import Path\n"
        "assert download._default_folder('org/Tiny-1B', 'huggingface') == Path('/tmp/Tiny-1B')\n"
        "assert download._default_folder('m/llama-3.2/pytorch/1b', 'kaggle') == Path('/tmp/llama-3.2/pytorch/1b')\n"
        "try: main(['download', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'huggingface_hub'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--ignore-patterns" in done.stdout, done.stderr
