"""GPT-2's ``vocab.json`` and ``merges.txt``: text to ids and back."""

from pathlib import Path

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._files import read_json, require_file


class GPT2BaseTokenizer:
    """Byte pairs merged as GPT-2 does (https://github.com/openai/gpt-2).

    Args:
        unk_id, bos_id, eos_id, pad_id: None where the vocabulary has no such word; then none is added.
    """

    def __init__(
        self,
        vocab_path: str | Path,
        merges_path: str | Path,
        unk_id: int | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
    ) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        self.encoder: dict[str, int] = read_json(vocab_path, "a vocab.json (word -> id)")
        self.decoder = {index: word for word, index in self.encoder.items()}
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = unk_id, bos_id, eos_id, pad_id
        try:
            self._bpe = BPE(self.encoder, _read_merges(merges_path), unk_token=self.decoder.get(unk_id))
        except Exception as error:  # the Rust library raises plain Exception for every fault of the files
            raise DataError(f"{merges_path} does not go with {vocab_path}: {error}") from error
        self._tokenizer = Tokenizer(self._bpe)
        self._tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)

    @property
    def vocab_size(self) -> int:
        """Number of words."""
        return len(self.encoder)

    def bpe(self, token: str) -> str:
        """The pieces of one word (in GPT-2's byte letters), joined by spaces."""
        return " ".join(piece.value for piece in self._bpe.tokenize(token))

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text."""
        ids = [self.bos_id] if add_bos and self.bos_id is not None else []
        ids += self._tokenizer.encode(text).ids
        if add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, tokens: list[int]) -> list[str]:
        """The words of the ids, still in GPT-2's byte letters; an id that is not in the vocabulary is the unknown
        word."""
        unknown = self.decoder.get(self.unk_id)
        return [self.decoder.get(token, unknown) for token in tokens]


def _read_merges(path: str | Path) -> list[tuple[str, str]]:
    lines = require_file(path, "a merges.txt (two pieces on each line)").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(len(merge) != 2 for merge in merges):
        raise DataError(f"{path}: expected two pieces on each line")
    return merges
