"""Tiktoken vocabulary files (https://github.com/openai/tiktoken): text to ids and back."""

import base64
from pathlib import Path

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._files import TIKTOKEN, require_file, wrong_kind
from torchtune.modules.transforms.tokenizers._utils import split_long


class TikTokenBaseTokenizer:
    """The words of a tiktoken file, plus special tokens.

    Args:
        path: lines of a base64 word and its rank, which is its id.
        name: only shown by tiktoken.
        pattern: the regular expression that splits text before byte pairs are merged.
        special_tokens: name -> id; text that looks like one is still encoded as text.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is not a tiktoken file.
    """

    def __init__(
        self, path: str | Path, name: str, pattern: str, bos_id: int, eos_id: int, special_tokens: dict[str, int]
    ) -> None:
        from tiktoken import Encoding

        ranks = _read_ranks(path)
        self.tt_model = Encoding(name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
        self.base_vocab_size: int = len(ranks)
        self.vocab_size: int = self.tt_model.n_vocab
        self.bos_id = bos_id
        self.eos_id = eos_id

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text, which is never read as special tokens."""
        pieces = split_long(text)
        ids = self.tt_model.encode_ordinary(next(pieces, ""))
        for piece in pieces:
            ids += self.tt_model.encode_ordinary(piece)
        if add_bos:
            ids.insert(0, self.bos_id)
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def decode(self, token_ids: list[int], truncate_at_eos: bool = True) -> str:
        """The text of the ids, special tokens by their names; up to the first ``eos_id`` if asked.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        if truncate_at_eos and self.eos_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_id)]
        try:
            return self.tt_model.decode(token_ids)
        except (KeyError, OverflowError) as error:
            raise DataError(f"cannot decode, the vocabulary has {self.vocab_size} words: {error}") from error


def _read_ranks(path: str | Path) -> dict[bytes, int]:
    file = require_file(path, TIKTOKEN)
    try:
        lines = (line.split() for line in file.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(word, validate=True): int(rank) for word, rank in lines}
    except ValueError as error:
        raise wrong_kind(path, TIKTOKEN) from error
    if len(set(ranks.values())) != len(ranks):
        raise DataError(f"{path}: two words share a rank; the file is damaged")
    return ranks
