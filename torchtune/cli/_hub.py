"""What the Hugging Face Hub holds of a model, how it gets here, and what each refusal of the Hub means."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchtune.config import redact_text
from torchtune.errors import CheckpointError, ConfigError, TuneError

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository: its size, and whether it still has to come."""

    name: str
    num_bytes: int
    is_missing: bool


@dataclass(frozen=True)
class Request:
    """What to fetch and where to put it.

    Args:
        token: None takes ``HF_TOKEN``, otherwise the login that the Hub's package has stored.
    """

    repo_id: str
    output_dir: Path
    revision: str | None = None
    token: str | None = None
    ignore_patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        token = (self.token or os.environ.get("HF_TOKEN") or "").strip()
        # An HTTP header could not carry such a token, and the failure there would show it.
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"the Hugging Face token has characters that none has; copy it anew from {TOKENS_PAGE}")


def plan(request: Request) -> list[RemoteFile]:
    """The files of the repository that the request is about; nothing is written."""
    infos = _snapshot(request, dry_run=True, tqdm_class=_silent())
    files = [RemoteFile(info.filename, info.file_size or 0, info.will_download) for info in infos]
    return sorted(files, key=lambda file: file.name)


def fetch(request: Request) -> None:
    """Bring the files that are missing, showing progress; what an earlier attempt completed is kept."""
    _snapshot(request, tqdm_class=None if sys.stderr.isatty() else _lines())


def free_bytes(folder: Path) -> int:
    """Room on the disk that ``folder`` is, or will be, on."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _snapshot(request: Request, **options: Any) -> Any:
    # Read when the package is imported; an answer to `tune` is no occasion to report on the user.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    with _explained(request):
        return snapshot_download(
            request.repo_id,
            revision=request.revision,
            local_dir=request.output_dir,
            token=request.token and request.token.strip(),
            ignore_patterns=list(request.ignore_patterns) or None,
            **options,
        )


@contextmanager
def _explained(request: Request) -> Iterator[None]:
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as AnyHTTPError

    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{request.repo_id!r} is not a repository's name: {_public(error, request)}") from None
    except (AnyHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _meaning(_cause(error), request) from None


def _cause(error: BaseException) -> BaseException:
    """What the Hub's package wrapped into "cannot be accessed"."""
    from huggingface_hub.errors import HfHubHTTPError

    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _meaning(error: BaseException, request: Request) -> TuneError:
    from huggingface_hub import errors

    repo, page = request.repo_id, f"{_endpoint()}/{request.repo_id}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConfigError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to download")
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(
            f"{repo} is gated. Ask for access at {page}, then download with a token of that account: "
            f"--hf-token TOKEN, or the HF_TOKEN variable. {_who(request)} Tokens: {TOKENS_PAGE}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(
            f"there is no model {repo!r} at {_endpoint()} that {_sight(request)}. "
            f"Check its name at {page}; a private one needs a token of an account that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(
            f"{repo} has no revision {request.revision!r}; see {page}/tree/main for its branches and tags"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, request)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"the disk of {request.output_dir} is full. Free some space or choose another --output-dir, and run the "
            "same command again: complete files are kept"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return CheckpointError(f"cannot write {error.filename}: {error.strerror}")
    return CheckpointError(
        f"{_endpoint()} could not be reached or broke off: {_public(error, request)}. Check the network "
        "(and HF_ENDPOINT and the proxy variables, if set), then run the same command again: complete files are kept"
    )


def _refusal(error: Any, request: Request) -> TuneError:
    status, said = error.response.status_code, error.server_message or "no reason given"
    said = _public(said, request)
    if status == 401:
        return ConfigError(f"the Hub does not accept the token: {said}. Check it, or make a new one: {TOKENS_PAGE}")
    if status == 403:
        return ConfigError(f"the Hub does not let this token read {request.repo_id}: {said}. Its rights: {TOKENS_PAGE}")
    if status == 429:
        return CheckpointError(
            "the Hub asks for fewer requests (429); wait some minutes, then run the same command again"
        )
    if status >= 500:
        return CheckpointError(
            f"the Hub has a fault of its own ({status}: {said}); see https://status.huggingface.co and try again later"
        )
    return CheckpointError(f"the Hub answered {status}: {said}")


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def _token(request: Request) -> str | None:
    from huggingface_hub import get_token

    return request.token or get_token()


def _who(request: Request) -> str:
    return "The account of the token given has no access yet." if _token(request) else "No token was given."


def _sight(request: Request) -> str:
    return "the token given may see" if _token(request) else "anybody may see"


def _public(text: object, request: Request) -> str:
    """The first line of a message, without the token."""
    first = (str(text).strip() or type(text).__name__).splitlines()[0].rstrip(".")
    token = _token(request)
    return redact_text(first.replace(token, "<redacted>") if token else first)


def _silent() -> type:
    from tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


def _lines() -> type:
    """A progress bar for logs: one line per finished file, in place of a bar that is drawn over and over."""
    silent = _silent()

    class Lines(silent):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._counts_files = kwargs.get("unit") != "B"

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts_files and self.total:
                print(f"{int(self.n)} of {self.total} files are here", file=sys.stderr, flush=True)

    return Lines
