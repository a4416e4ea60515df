"""Downloads from Kaggle's model hub, through its own package."""

import os
from pathlib import Path

from torchtune.config import redact_text
from torchtune.errors import CheckpointError, ConfigError, MissingDependency


def fetch(handle: str, output_dir: Path, username: str | None, api_key: str | None) -> None:
    """Bring all files of the model ``owner/model/framework/variation``.

    Args:
        username: None takes Kaggle's own variables or file, as it does for ``api_key``.

    Raises:
        ConfigError: Kaggle knows no such model, or the account may not read it.
        CheckpointError: Kaggle could not be reached.
        MissingDependency: kagglehub is not installed.
    """
    try:
        import kagglehub
        from kagglehub.exceptions import CredentialError, KaggleApiHTTPError, UnauthenticatedError
        from requests import RequestException
    except ImportError as error:
        raise MissingDependency(
            "--source kaggle needs kagglehub, which is not installed: pip install kagglehub"
        ) from error
    username, api_key = username or os.environ.get("KAGGLE_USERNAME"), api_key or os.environ.get("KAGGLE_KEY")
    if (username is None) != (api_key is None):
        raise ConfigError("Kaggle needs both a user name and a key: --kaggle-username with --kaggle-api-key")
    if username is not None and api_key is not None:
        kagglehub.config.set_kaggle_credentials(username, api_key)

    def public(error: Exception) -> str:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return redact_text(text.replace(api_key, "<redacted>") if api_key else text)

    try:
        kagglehub.model_download(handle, output_dir=str(output_dir))
    except (CredentialError, UnauthenticatedError) as error:
        raise ConfigError(f"Kaggle does not accept the user name and key: {public(error)}") from None
    except KaggleApiHTTPError as error:
        raise ConfigError(f"Kaggle did not give {handle}: {public(error)}. See https://kaggle.com/models") from None
    except RequestException as error:
        raise CheckpointError(f"Kaggle could not be reached: {public(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{handle!r} cannot be downloaded: {public(error)}") from None
