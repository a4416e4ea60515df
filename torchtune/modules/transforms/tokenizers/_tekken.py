"""Mistral's ``tekken.json`` (https://github.com/mistralai/mistral-common): text to ids and back."""

import base64
from pathlib import Path

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._files import read_json
from torchtune.modules.transforms.tokenizers._tiktoken import TikTokenBaseTokenizer

TEKKEN = "a tekken.json (as Mistral Nemo has)"
# Those of files that list none; tokens that no file names are called <SPECIAL_20>, <SPECIAL_21> and so on.
_SPECIAL_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


class TekkenBaseTokenizer(TikTokenBaseTokenizer):
    """The words of a tekken file, which come after its special tokens.

    Args:
        path: ``tekken.json``.

    Attributes:
        special_tokens: name -> id.
        version: of the form of dialogues, for example ``v3``.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is something else.
    """

    def __init__(self, path: str | Path) -> None:
        from tiktoken import Encoding

        content = read_json(path, TEKKEN)
        try:
            config = content["config"]
            first = config["default_num_special_tokens"]
            num_words = config["default_vocab_size"] - first
            words = {base64.b64decode(row["token_bytes"]): row["rank"] for row in content["vocab"][:num_words]}
            listed = content.get("special_tokens")
            named = {row["token_str"]: row["rank"] for row in listed} if listed else _by_number(_SPECIAL_TOKENS)
            self.version: str = config["version"]
            pattern = config["pattern"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: expected {TEKKEN}; it lacks {error}") from error
        if sorted(words.values()) != list(range(num_words)):
            raise DataError(f"{path}: the ranks of its first {num_words} words are not 0 to {num_words - 1}")
        unnamed = {f"<SPECIAL_{i}>": i for i in range(first) if i not in named.values()}
        self.special_tokens: dict[str, int] = named | unnamed
        self.tt_model = Encoding(
            name="tekken",
            pat_str=pattern,
            mergeable_ranks={word: first + rank for word, rank in words.items()},
            special_tokens=self.special_tokens,
        )
        self.base_vocab_size = num_words
        self.vocab_size = first + num_words
        self.bos_id, self.eos_id = self.special_tokens["<s>"], self.special_tokens["</s>"]
        self._num_special = first

    def decode(self, token_ids: list[int], truncate_at_eos: bool = False) -> str:
        """The text of the ids, special tokens left out; up to the first ``eos_id`` if asked."""
        if truncate_at_eos and self.eos_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_id)]
        return super().decode([token for token in token_ids if token >= self._num_special], truncate_at_eos=False)


def is_tekken(path: str | Path) -> bool:
    """Whether a JSON file is of this kind."""
    return {"config", "vocab"} <= read_json(path, TEKKEN).keys()


def _by_number(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}
