"""`tune upload` against a Hub on this machine: what arrives there, and what each refusal says."""

import json
import os
import re
import subprocess
import sys

import pytest
from hub_imitation import Repo, serve
from hub_uploads import Account, Commit
from published import BASE, BASE_CARD, make_run, write_adapter

GOOD, READER, FULL = "hf_goodgoodgoodgoodgoodgood", "hf_readreadreadreadreadread", "hf_fullfullfullfullfullfull"
BAD = "hf_badbadbadbadbadbadbadbad"
UPLOADED = {
    "LICENSE.txt", "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "config.json",
    "generation_config.json", "model.safetensors", "original_repo_id.json", "tokenizer.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub():
    with serve() as hub:
        hub.accounts[READER] = Account("me", may_write=False)
        hub.accounts[FULL] = Account("me", has_room=False)
        hub.tokens |= {READER, FULL}
        yield hub


@pytest.fixture(autouse=True)
def fresh(hub):
    hub.repos.clear()
    hub.objects.clear()
    hub.requests.clear()
    hub.refuses_large_files = False


@pytest.fixture(scope="module")
def epoch(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("published") / "run")


@pytest.fixture
def python(hub, tmp_path):
    """Runs Python where the Hub is the one of this machine."""

    def run(*arguments, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TUNE_"))}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment = {k: v for k, v in {**environment, "HF_TOKEN": GOOD, **variables}.items() if v is not None}
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture
def tune(python):
    return lambda *words, **variables: python("-m", "torchtune.cli", "upload", *map(str, words), **variables)


def worked(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert GOOD not in done.stdout + done.stderr
    return done.stdout


def bytes_of(folder, names):
    return {name: (folder / name).read_bytes() for name in names}


def test_a_dry_run_shows_what_the_upload_then_does(tune, hub, epoch):
    shown = worked(tune(epoch, "me/mine", "--dry-run", HF_TOKEN=None))
    assert hub.requests == [] and not hub.repos
    before, _, said = shown.partition("\nThe card:\n\n")
    assert f"{epoch} -> me/mine (private), branch main\n" in before
    assert set(re.findall(r"^ +[\d.]+ k?B  (\S+)$", before, re.MULTILINE)) == UPLOADED
    assert "Left out: MANIFEST.json (" in before and "Left out: adapter_model.pt (" in before
    assert f"Note: {epoch}/README.md stays as it is; only in the upload the card takes its place." in before
    card, _, end = said.partition("\nNothing was uploaded")
    assert end == " (--dry-run).\n"

    printed = worked(tune(epoch, "me/mine"))
    assert f"Uploaded: {hub.endpoint}/me/mine/commit/1" in printed and before in printed and "The card" not in printed
    repo = hub.repos["me/mine"]
    assert repo.private
    assert repo.commits == [Commit("Upload a model with torchtune", tuple(repo.commits[0].added), ())]
    assert repo.files.keys() == UPLOADED | {".gitattributes"}
    assert {n: repo.files[n] for n in UPLOADED - {"README.md"}} == bytes_of(epoch, UPLOADED - {"README.md"})
    assert repo.files["README.md"].decode() == card
    assert (epoch / "README.md").read_text() == BASE_CARD

    again = worked(tune(epoch, "me/mine"))  # nothing is sent twice, and no empty commit is made
    assert "Uploaded: " in again and len(repo.commits) == 1
    assert len([path for method, path, _ in hub.requests if method == "PUT"]) == 2


def test_the_options_reach_the_hub(tune, hub, epoch, tmp_path):
    (tmp_path / "card.md").write_text("# Written by hand\n")
    words = ["--public", "--revision", "v2", "--message", "Second try", "--token", GOOD, "--card", tmp_path / "card.md"]
    printed = worked(tune(epoch, "mine", *words, "--ignore-patterns", "*.txt", "--adapter-pt", HF_TOKEN=None))
    repo = hub.repos["me/mine"]  # the account's name was asked for
    assert not repo.private and "(public: anybody can see it), branch v2" in printed
    assert repo.commits[0].title == "Second try" and repo.branches["main"].keys() == {".gitattributes"}
    assert repo.branches["v2"].keys() - {".gitattributes"} == (UPLOADED | {"adapter_model.pt"}) - {"LICENSE.txt"}
    assert repo.branches["v2"]["README.md"] == b"# Written by hand\n"
    worked(tune(epoch, "mine", *words))  # the branch is there now


def test_nothing_becomes_public_unasked(tune, hub, epoch):
    hub.add("me/shown")
    hub.add("me/hidden", private=True, readers=(GOOD,))
    for words, said in ((["me/shown"], "exists and is public"), (["me/hidden", "--public"], "exists and is private")):
        done = tune(epoch, *words)
        assert done.returncode == 2 and said in done.stderr
    assert not hub.repos["me/shown"].commits and not hub.repos["me/hidden"].commits
    worked(tune(epoch, "me/hidden"))


def test_weights_of_an_earlier_upload_are_not_mixed_in(tune, hub, epoch):
    old = {"model-00001-of-00001.safetensors": b"", "adapter_config.json": b"", "notes.md": b""}
    hub.repos["me/mine"] = Repo(dict(old), private=True, readers=(GOOD,))
    done = tune(epoch, "me/mine")
    assert done.returncode == 2 and "has adapter_config.json, model-00001-of-00001.safetensors" in done.stderr
    assert hub.repos["me/mine"].files == old
    worked(tune(epoch, "me/mine", "--replace"))
    repo = hub.repos["me/mine"]
    assert repo.files.keys() == UPLOADED | {"notes.md"}
    assert repo.commits[0].deleted == ("adapter_config.json", "model-00001-of-00001.safetensors")


def test_files_that_are_not_loaded_go_beside_weights(tune, hub, tmp_path):
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    hub.repos["me/mine"] = Repo({"model.safetensors": b""}, private=True, readers=(GOOD,))
    worked(tune(tmp_path, "me/mine"))
    assert hub.repos["me/mine"].files.keys() == {"model.safetensors", "mine.gguf", "README.md"}


def test_an_upload_that_breaks_off_leaves_nothing_and_can_go_on(tune, hub, epoch):
    hub.refuses_large_files = True
    done = tune(epoch, "me/mine")
    assert done.returncode == 2 and "let this token write to me/mine: The address has expired" in done.stderr
    assert hub.repos["me/mine"].files.keys() == {".gitattributes"}
    hub.refuses_large_files = False
    worked(tune(epoch, "me/mine"))
    assert hub.repos["me/mine"].files.keys() > UPLOADED


@pytest.mark.parametrize(
    ("words", "variables", "code", "said"),
    [
        (["me/mine"], {"HF_TOKEN": None}, 2, ["needs a token that may write", "--hf-token", "settings/tokens"]),
        (["me/mine", "--hf-token", BAD], {}, 2, ["does not accept the token"]),
        (["mine", "--hf-token", BAD], {}, 2, ["does not accept the token"]),
        (["me/mine"], {"HF_TOKEN": READER}, 2, ["does not let this token write to me/mine", "rights"]),
        (["other/mine"], {}, 2, ["does not let this token write to other/mine"]),
        (["me/mine"], {"HF_TOKEN": FULL}, 4, ["no room for me/mine: Private repository storage limit reached"]),
        (["me/taken"], {}, 2, ["me/taken exists, but the token given may not see it"]),
        (["me/down"], {}, 4, ["fault of its own (500: Something went wrong)"]),
        (["a/b/c", "--dry-run"], {}, 2, ["'a/b/c' is not a repository's name"]),
        (["me/mine"], {"HF_TOKEN": "hf_with a space"}, 2, ["characters that none has"]),
        (["me/mine"], {"HF_HUB_OFFLINE": "1"}, 2, ["HF_HUB_OFFLINE is set", "upload"]),
        (["me/mine"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 4, ["127.0.0.1:9 could not be reached"]),
        (["me/mine", "--card", "wrong.md"], {}, 2, ["does not take what was sent", "'license' is not valid"]),
        (["me/mine", "--card", "none.md"], {}, 2, ["--card", "none.md cannot be read"]),
        (["me/mine", "--card", "secret.md"], {}, 2, ["secret.md holds what looks like a credential"]),
    ],
)
def test_each_refusal_is_one_clear_message(tune, hub, epoch, tmp_path, words, variables, code, said):
    hub.add("me/taken", private=True)
    hub.repos["me/down"] = Repo({}, status=500)
    (tmp_path / "wrong.md").write_text("---\nlicense: wrong\n---\n")
    (tmp_path / "secret.md").write_text(f"Load it with token={GOOD}\n")
    done = tune(epoch, *(tmp_path / word if word.endswith(".md") else word for word in words), **variables)
    assert done.returncode == code, done.stderr
    for part in said:
        assert part in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 15
    assert not any(token in done.stdout + done.stderr for token in (GOOD, READER, FULL, BAD))
    assert not any(repo.commits for repo in hub.repos.values())


def test_a_damaged_folder_is_refused_before_the_hub_is_asked(tune, hub, tmp_path):
    epoch = make_run(tmp_path / "run")
    with (epoch / "model.safetensors").open("ab") as file:
        file.write(b"x")
    for words in ([], ["--dry-run"]):
        done = tune(epoch, "me/mine", *words)
        assert done.returncode == 4 and "model.safetensors is not as it was written" in done.stderr
    assert hub.requests == []


def test_what_others_could_not_use_is_said(tune, tmp_path):
    write_adapter(tmp_path / "adapter", base_model_name_or_path="/models/base")
    shown = worked(tune(tmp_path / "adapter", "me/mine", "--dry-run"))
    assert "names its base as /models/base, which is a folder of this machine only" in shown
    assert "no licence is known" in shown and "so the card does not either" in shown


def test_the_hubs_own_package_uploads_a_checkpoint(python, hub, epoch):
    """The tutorial's own lines, for whom that is enough."""
    code = f"""
import huggingface_hub
api = huggingface_hub.HfApi()
trained_model_path = {str(epoch)!r}
username = huggingface_hub.whoami()["name"]
repo_name = "my-model-trained-with-torchtune"
repo_id = huggingface_hub.create_repo(repo_name).repo_id
repo_id = f"{{username}}/{{repo_name}}"
api.upload_folder(folder_path=trained_model_path, repo_id=repo_id, repo_type="model", create_pr=False)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(epoch).as_posix() for path in epoch.rglob("*") if path.is_file()}
    repo = hub.repos["me/my-model-trained-with-torchtune"]
    assert {name: content for name, content in repo.files.items() if name != ".gitattributes"} == bytes_of(epoch, names)


def test_what_arrived_comes_back_as_it_was(tune, python, epoch, tmp_path):
    worked(tune(epoch, "me/mine"))
    done = python("-m", "torchtune.cli", "download", "me/mine", "--output-dir", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    names = UPLOADED - {"README.md", "original_repo_id.json"}  # the latter names the model that was downloaded
    assert bytes_of(tmp_path / "back", names) == bytes_of(epoch, names)
    assert json.loads((tmp_path / "back" / "original_repo_id.json").read_text()) == {"repo_id": "me/mine"}


@pytest.mark.slow
def test_the_cards_code_loads_the_model(tune, python, hub, epoch):
    base = epoch.parents[1] / "run-base"
    hub.repos[BASE] = Repo(bytes_of(base, [path.name for path in base.iterdir()]))
    worked(tune(epoch, "me/mine", "--revision", "v2"))
    card = hub.repos["me/mine"].branches["v2"]["README.md"].decode()
    code = "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    assert (
        f'"{BASE}"' in code and 'PeftModel.from_pretrained(base, "me/mine", revision="v2", subfolder="adapter")' in code
    )
    code += "assert model.active_peft_config.r == 4\n"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Once upon a time" in done.stdout


def test_help_needs_no_torch():
    code = (
        "import sys; from torchtune.cli import main\n"
        "try: main(['upload', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'huggingface_hub', 'omegaconf', 'yaml'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--dry-run" in done.stdout, done.stderr
