"""``tokenizer.json`` files (https://github.com/huggingface/tokenizers): text to ids and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers._files import JSON, read_json, require_file
from torchtune.modules.transforms.tokenizers._utils import split_long, without_lone_surrogates

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_TOKENIZER_JSON = "a tokenizer.json of Hugging Face's tokenizers"


def parse_hf_tokenizer_json(tokenizer_json_path: str | Path) -> dict[str, int]:
    """The added (special) tokens of a ``tokenizer.json``: text -> id."""
    content = read_json(tokenizer_json_path, _TOKENIZER_JSON)
    if "added_tokens" not in content:
        raise DataError(f"{tokenizer_json_path}: expected {_TOKENIZER_JSON}, which has 'added_tokens'")
    return {token["content"]: token["id"] for token in content["added_tokens"]}


def load_tokenizer_json(path: str | Path) -> Tokenizer:
    """The tokenizer that a ``tokenizer.json`` describes.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is something else.
    """
    from tokenizers import Tokenizer

    if "model" not in read_json(path, _TOKENIZER_JSON):
        raise DataError(f"{path}: expected {_TOKENIZER_JSON}, which has 'model'")
    try:
        return Tokenizer.from_file(str(require_file(path, JSON)))
    except Exception as error:  # the Rust library raises plain Exception for every fault of the file
        raise DataError(f"{path}: expected {_TOKENIZER_JSON}; it does not load: {error}") from error


def encode_text(tokenizer: Tokenizer, text: str) -> Encoding:
    """Ids and places of the tokens of a text, without what the file's post-processor would add around it."""
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        return tokenizer.encode(without_lone_surrogates(text), add_special_tokens=False)


def encode_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids alone."""
    return encode_text(tokenizer, text).ids


class PlainTextTokenizer:
    """A ``tokenizer.json`` for a model whose dialogue format we write ourselves: text never becomes a special token.

    It stands in for :class:`SentencePieceBaseTokenizer` and :class:`TikTokenBaseTokenizer`.

    Args:
        bos_token, eos_token: their text.
    """

    def __init__(self, path: str | Path, bos_token: str, eos_token: str) -> None:
        self.tokenizer = load_tokenizer_json(path)
        self.tokenizer.encode_special_tokens = True
        self.bos_id = _id_of(self.tokenizer, bos_token, path)
        self.eos_id = _id_of(self.tokenizer, eos_token, path)
        self.base_vocab_size: int = self.tokenizer.get_vocab_size(with_added_tokens=False)
        self.vocab_size: int = max(self.tokenizer.get_vocab().values()) + 1
        self._adds_space = self.tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("\u2581")

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.tokenizer.encode_special_tokens = True  # the library does not pickle it

    def encode(
        self,
        text: str,
        add_bos: bool = True,
        add_eos: bool = True,
        trim_leading_whitespace: bool = False,
        prefix: str | None = None,
    ) -> list[int]:
        """The ids of a text; for ``trim_leading_whitespace`` see :meth:`SentencePieceBaseTokenizer.encode`."""
        skip = 0
        if trim_leading_whitespace and self._adds_space:
            prefix = prefix or "\n"
            text, skip = prefix + text, len(encode_ids(self.tokenizer, prefix))
        ids = [self.bos_id] if add_bos else []
        pieces = [text] if self._adds_space else split_long(text)  # there each piece would get a space
        for piece in pieces:
            ids += encode_ids(self.tokenizer, piece)[skip:]
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def decode(self, token_ids: list[int], truncate_at_eos: bool = False, skip_special_tokens: bool = True) -> str:
        """The text of the ids; up to the first ``eos_id`` if asked."""
        if truncate_at_eos and self.eos_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_id)]
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


class HuggingFaceBaseTokenizer:
    """A ``tokenizer.json`` as its own library reads it: special-token text becomes special tokens.

    Args:
        tokenizer_config_json_path: names the tokens that begin and end a text; None looks beside ``tokenizer.json``.
        generation_config_path: has their ids, used where the former does not say; None looks beside it, too.

    Raises:
        ConfigError: neither file is given or found.
        DataError: a file is not what it should be, or no end token is named.
    """

    def __init__(
        self,
        tokenizer_json_path: str | Path,
        *,
        tokenizer_config_json_path: str | Path | None = None,
        generation_config_path: str | Path | None = None,
    ) -> None:
        self.tokenizer = load_tokenizer_json(tokenizer_json_path)
        if tokenizer_config_json_path is None and generation_config_path is None:
            folder = Path(tokenizer_json_path).parent
            tokenizer_config_json_path = _if_file(folder / "tokenizer_config.json")
            generation_config_path = _if_file(folder / "generation_config.json")
        if tokenizer_config_json_path is None and generation_config_path is None:
            raise ConfigError(
                f"{tokenizer_json_path} does not say which tokens begin and end a text; give "
                "tokenizer_config_json_path or generation_config_path (neither file lies beside it)"
            )
        self.config = _read(tokenizer_config_json_path, "tokenizer_config.json")
        self.generation_config = _read(generation_config_path, "generation_config.json")
        self.bos_id = self._special_id("bos")
        self.eos_id = self._special_id("eos")
        if self.eos_id is None:
            raise DataError(f"{tokenizer_config_json_path or generation_config_path} names no eos_token")
        self.pad_id = self._special_id("pad")
        self.special_tokens = {
            token.content: index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self.vocab_size: int = max(self.tokenizer.get_vocab().values()) + 1

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text; a model that has no token to begin with (such as Qwen) gets none."""
        ids = [self.bos_id] if add_bos and self.bos_id is not None else []
        ids += encode_ids(self.tokenizer, text)
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    @property
    def stop_tokens(self) -> list[int]:
        """Ids that end a generated message."""
        listed = (self.generation_config or {}).get("eos_token_id")
        others = listed if isinstance(listed, list) else [listed]
        return [self.eos_id, *(i for i in others if i is not None and i != self.eos_id)]

    def _special_id(self, which: str) -> int | None:
        token = token_text((self.config or {}).get(f"{which}_token"))
        if token is not None:
            return _id_of(self.tokenizer, token, "tokenizer_config.json")
        found = (self.generation_config or {}).get(f"{which}_token_id")
        return found[0] if isinstance(found, list) else found


def token_text(entry: str | Mapping[str, Any] | None) -> str | None:
    """The text of a token as ``tokenizer_config.json`` writes it: plain, or an object with ``content``."""
    return entry.get("content") if isinstance(entry, Mapping) else entry


def _id_of(tokenizer: Tokenizer, token: str, source: str | Path) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise DataError(f"{source} names the token {token!r}, which is not in the vocabulary of the tokenizer.json")
    return found


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read(path: str | Path | None, expected: str) -> dict[str, Any] | None:
    return None if path is None else read_json(path, f"a {expected}")
