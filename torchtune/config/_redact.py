"""Keeps secrets out of logs and saved configs: by the name of a key and by the look of a value."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchtune.config._references import references

HIDDEN = "<redacted>"
# pad_token, max_new_tokens and the like are no secrets: the word must stand for a credential, not for a piece of text.
_KEY = re.compile(
    r"(^|[_-])(secret|password|passwd|credentials?|private_key|api_?key|access_key)([_-]|$)"
    r"|^token$|(hf|hub|auth|access|api|bearer|github|wandb|kaggle|comet|session|refresh)_?token$|^apikey$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"hf_[A-Za-z0-9]{20,}"  # https://huggingface.co/docs/hub/security-tokens
    r"|(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"  # and not the end of a word: task-specific-...
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    r"|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])"  # a W&B key; a git commit looks the same and is hidden too
)
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)")


def redact_text(text: str) -> str:
    """``text`` with everything that looks like a credential replaced."""
    return _VALUES.sub(HIDDEN, text)


def redact(value: Any, key: str = "") -> Any:
    """Plain values with secrets replaced; ``${oc.env:NAME}`` is a reference, not a secret, and stays."""
    if isinstance(value, dict):
        return {k: redact(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(v, key) for v in value]
    if isinstance(value, str):
        if is_secret_key(key) and value and not value.startswith("${"):
            return HIDDEN
        return redact_text(value)
    return HIDDEN if is_secret_key(key) and isinstance(value, int) and not isinstance(value, bool) else value


def is_secret_key(key: str) -> bool:
    """Whether a key's name says that its value is a credential."""
    return _KEY.search(key) is not None


def public_container(cfg: DictConfig) -> dict[str, Any]:
    """Plain values with interpolations resolved, environment variables left as references, and secrets replaced.

    A key that only interpolations used is left out, since it would be an unknown one of the resolved config.
    """
    raw = OmegaConf.to_container(cfg)
    private = {v for name in _ENVIRONMENT.findall(str(raw)) if len(v := os.environ.get(name, "")) > 1}
    public = redact(_public(cfg, raw, private))
    unused = set(cfg.__dict__.get("_helpers", ()))
    while taken := unused & references({k: v for k, v in public.items() if k not in unused}):
        unused -= taken
    return {k: v for k, v in public.items() if k not in unused}


def _public(node: Any, raw: Any, private: set[str]) -> Any:
    if isinstance(raw, dict):
        return {k: _public_child(node, k, v, private) for k, v in raw.items()}
    if isinstance(raw, list):
        return [_public_child(node, i, v, private) for i, v in enumerate(raw)]
    return raw


def _public_child(node: Any, key: Any, raw: Any, private: set[str]) -> Any:
    if not isinstance(raw, str):
        return _public(node._get_node(key), raw, private)
    if "${" not in raw or "oc.env" in raw:
        return raw
    try:
        value = node[key]
    except OmegaConfBaseException:
        return raw
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    # a value from the environment may arrive through another key; then the reference is kept as well
    return raw if any(p in text for text in _strings(value) for p in private) else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _strings(v)
    else:
        yield str(value)


def to_yaml(cfg: DictConfig) -> str:
    """The config as YAML that may be shown to anybody and that loads again."""
    return OmegaConf.to_yaml(OmegaConf.create(public_container(cfg)))


def save_yaml(cfg: DictConfig, path: str | os.PathLike[str]) -> Path:
    """Writes the config as YAML, without secrets; the file is whole or absent. Gives its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(to_yaml(cfg))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
