"""What the Hugging Face Hub holds of a model, how it gets here, and what the Hub's refusals mean."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
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
class Repository:
    """A repository and what opens it.

    Args:
        token: None takes ``HF_TOKEN``, otherwise the login that the Hub's package has stored.

    Raises:
        ConfigError: no HTTP header could carry the token, and the failure there would show it.
    """

    repo_id: str
    revision: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        token = (self.token or os.environ.get("HF_TOKEN") or "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(f"the Hugging Face token has characters that none has; copy it anew from {TOKENS_PAGE}")

    @property
    def key(self) -> str | None:
        """The token of whoever asks."""
        if self.token:
            return self.token.strip()
        from huggingface_hub import get_token

        return get_token()

    def first_line(self, text: object) -> str:
        """The first line of a message, without the token."""
        first = (str(text).strip() or type(text).__name__).splitlines()[0].rstrip(".")
        return redact_text(first.replace(self.key, "<redacted>") if self.key else first)


@dataclass(frozen=True, kw_only=True)
class Request(Repository):
    """What to fetch and where to put it."""

    output_dir: Path
    ignore_patterns: tuple[str, ...] = ()


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
    quieten()
    from huggingface_hub import snapshot_download

    with explained(request, _meaning):
        return snapshot_download(
            request.repo_id,
            revision=request.revision,
            local_dir=request.output_dir,
            token=request.token and request.token.strip(),
            ignore_patterns=list(request.ignore_patterns) or None,
            **options,
        )


def quieten() -> None:
    """Before the Hub's package is imported: an answer to `tune` is no occasion to report on the user."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def explained(
    repo: Repository, meaning: Callable[[BaseException, Any], TuneError], *others: type[Exception]
) -> Iterator[None]:
    """Turn what the Hub's package raises inside, and ``others``, into an error that says what to do."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as AnyHTTPError

    try:
        yield
    except TuneError:  # also one of ``others``, some of which it is derived from
        raise
    except HFValidationError as error:
        raise ConfigError(f"{repo.repo_id!r} is not a repository's name: {repo.first_line(error)}") from None
    except (AnyHTTPError, OfflineModeIsEnabled, OSError, *others) as error:
        raise meaning(_cause(error), repo) from None


def _cause(error: BaseException) -> BaseException:
    """What the Hub's package wrapped into "cannot be accessed"."""
    from huggingface_hub.errors import HfHubHTTPError

    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _meaning(error: BaseException, request: Request) -> TuneError:
    from huggingface_hub import errors

    repo, page = request.repo_id, f"{endpoint()}/{request.repo_id}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConfigError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to download")
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(
            f"{repo} is gated. Ask for access at {page}, then download with a token of that account: "
            f"--hf-token TOKEN, or the HF_TOKEN variable. {_who(request)} Tokens: {TOKENS_PAGE}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(
            f"there is no model {repo!r} at {endpoint()} that {_sight(request)}. "
            f"Check its name at {page}; a private one needs a token of an account that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(
            f"{repo} has no revision {request.revision!r}; see {page}/tree/main for its branches and tags"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return refusal(error, request, "read")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"the disk of {request.output_dir} is full. Free some space or choose another --output-dir, and run the "
            "same command again: complete files are kept"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return CheckpointError(f"cannot write {error.filename}: {error.strerror}")
    return unreachable(error, request, "complete files are kept")


def unreachable(error: BaseException, repo: Repository, kept: str) -> TuneError:
    """The connection failed; ``kept`` says what need not be sent again."""
    return CheckpointError(
        f"{endpoint()} could not be reached or broke off: {repo.first_line(error)}. Check the network "
        f"(and HF_ENDPOINT and the proxy variables, if set), then run the same command again: {kept}"
    )


def refusal(error: Any, repo: Repository, right: str) -> TuneError:
    """What an answer of the Hub other than success means; ``right`` is what the token had to allow."""
    status, said = error.response.status_code, repo.first_line(error.server_message or "no reason given")
    if status == 401:
        return ConfigError(f"the Hub does not accept the token: {said}. Check it, or make a new one: {TOKENS_PAGE}")
    if status == 403:
        return ConfigError(f"the Hub does not let this token {right} {repo.repo_id}: {said}. Its rights: {TOKENS_PAGE}")
    if status == 429:
        return CheckpointError(
            "the Hub asks for fewer requests (429); wait some minutes, then run the same command again"
        )
    if status >= 500:
        return CheckpointError(
            f"the Hub has a fault of its own ({status}: {said}); see https://status.huggingface.co and try again later"
        )
    return CheckpointError(f"the Hub answered {status}: {said}")


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def _who(request: Request) -> str:
    return "The account of the token given has no access yet." if request.key else "No token was given."


def _sight(request: Request) -> str:
    return "the token given may see" if request.key else "anybody may see"


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
