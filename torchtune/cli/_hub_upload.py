"""Files on their way to the Hugging Face Hub: the repository, one commit, and what each refusal means."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.cli._hub import TOKENS_PAGE, Repository, endpoint, explained, quieten, refusal, unreachable
from torchtune.errors import CheckpointError, ConfigError, TuneError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_STORAGE_PAGE = "https://huggingface.co/docs/hub/storage-limits"
# What transformers and PEFT look for by themselves, so that files of two uploads would be mixed.
_LOADED = (".safetensors", ".bin", ".index.json", "adapter_config.json")


@dataclass(frozen=True, kw_only=True)
class Target(Repository):
    """Where files go.

    Args:
        public: whether anybody may see the repository.
        replace: delete the weights that the repository has and the upload has not.
    """

    public: bool = False
    replace: bool = False
    message: str = "Upload a model with torchtune"


def checked(target: Target) -> Target:
    """The target, if its name can be one.

    Raises:
        ConfigError: it cannot.
    """
    quieten()
    from huggingface_hub.utils import validate_repo_id

    with explained(target, _meaning):
        validate_repo_id(target.repo_id)
    return target


def owned(target: Target) -> Target:
    """The target with the name of the token's account before a repository's name that has no owner.

    Raises:
        ConfigError: there is no token, or the Hub does not accept it.
        CheckpointError: the Hub cannot be reached.
    """
    if target.key is None:
        raise ConfigError(
            "an upload needs a token that may write: --hf-token TOKEN, the HF_TOKEN variable, or `hf auth login`. "
            f"Tokens: {TOKENS_PAGE}"
        )
    if "/" in target.repo_id:
        return target
    with explained(target, _meaning):
        return replace(target, repo_id=f"{_api(target).whoami()['name']}/{target.repo_id}")


def publish(target: Target, files: Mapping[str, Path | bytes]) -> str:
    """Upload files (path in the repository -> the file or its content) in one commit; gives its address.

    Raises:
        ConfigError: the token or the repository does not allow it.
        CheckpointError: the Hub cannot be reached, has no room or a fault of its own; nothing is visible there yet.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api(target)
    # A failed transfer is a RuntimeError or a ValueError of the Hub's package.
    with explained(target, _meaning, RuntimeError, ValueError):
        others = _conflicts(_open(api, target), files)
        if others and not target.replace:
            raise ConfigError(
                f"{target.repo_id} has {', '.join(others)}, which this upload does not have: whoever loads the model "
                "would get a mixture. Add --replace to delete them in the same commit (its history keeps them), or "
                "choose another repository or --revision"
            )
        commit = api.create_commit(
            target.repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()]
            + [CommitOperationDelete(name) for name in others],
            commit_message=target.message,
            revision=target.revision,
        )
    return commit.commit_url


def _api(target: Target) -> "HfApi":
    quieten()
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(token=target.key)


def _open(api: "HfApi", target: Target) -> list[str]:
    """Make the repository and its branch where they are not there yet; gives the files that they hold."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(target.repo_id)
    except RepositoryNotFoundError:
        api.create_repo(target.repo_id, private=not target.public)
    else:
        _check_visibility(target, bool(info.private))
    if target.revision is not None:
        api.create_branch(target.repo_id, branch=target.revision, exist_ok=True)
    return api.list_repo_files(target.repo_id, revision=target.revision)


def _check_visibility(target: Target, is_private: bool) -> None:
    if is_private and target.public:
        raise ConfigError(
            f"{target.repo_id} exists and is private. Leave out --public, or make it public first: "
            f"{endpoint()}/{target.repo_id}/settings"
        )
    if not is_private and not target.public:
        raise ConfigError(
            f"{target.repo_id} exists and is public: anybody could see the upload. Add --public if that is meant, or "
            "choose another name"
        )


def _conflicts(there: Iterable[str], files: Mapping[str, Path | bytes]) -> list[str]:
    """Weights of an earlier upload that would be loaded with those of this one."""
    if not any(name.endswith(_LOADED) for name in files):
        return []
    return sorted(name for name in there if name.endswith(_LOADED) and name not in files)


def _meaning(error: BaseException, target: Target) -> TuneError:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConfigError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to upload")
    if isinstance(error, errors.HfHubHTTPError):
        return _of_status(error, target)
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return CheckpointError(f"cannot read {error.filename}: {error.strerror}")
    return unreachable(error, target, "what has arrived is not sent again")


def _of_status(error: Any, target: Target) -> TuneError:
    status, said = error.response.status_code, target.first_line(error.server_message or "no reason given")
    if status in (402, 413) or (status == 403 and ("storage" in said.lower() or "quota" in said.lower())):
        return CheckpointError(f"the Hub has no room for {target.repo_id}: {said}. Its limits: {_STORAGE_PAGE}")
    if status == 409:
        return ConfigError(f"{target.repo_id} exists, but the token given may not see it: {said}. Choose another name")
    if status == 400:
        return ConfigError(f"the Hub does not take what was sent for {target.repo_id}: {said}")
    return refusal(error, target, "write to")
