"""Sentencepiece model files (https://github.com/google/sentencepiece): text to ids and back."""

from pathlib import Path

from torchtune.modules.transforms.tokenizers._files import SENTENCEPIECE, require_file, wrong_kind
from torchtune.modules.transforms.tokenizers._utils import without_lone_surrogates


class SentencePieceBaseTokenizer:
    """The words of a sentencepiece model file.

    Args:
        path: ``tokenizer.model``.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is not a sentencepiece model.
    """

    def __init__(self, path: str | Path) -> None:
        from sentencepiece import SentencePieceProcessor

        file = require_file(path, SENTENCEPIECE)
        self.spm_model = SentencePieceProcessor()
        try:
            self.spm_model.Load(str(file))
        except RuntimeError as error:
            raise wrong_kind(path, SENTENCEPIECE) from error
        self.vocab_size: int = self.spm_model.vocab_size()
        self.bos_id: int = self.spm_model.bos_id()
        self.eos_id: int = self.spm_model.eos_id()
        self.pad_id: int = self.spm_model.pad_id()
        first = self.spm_model.encode("a", out_type=str)
        self._adds_space = bool(first) and first[0].startswith("\u2581")

    def encode(
        self,
        text: str,
        add_bos: bool = True,
        add_eos: bool = True,
        trim_leading_whitespace: bool = False,
        prefix: str | None = None,
    ) -> list[int]:
        """The ids of a text, which is never read as special tokens.

        Args:
            trim_leading_whitespace: leave out the space that sentencepiece puts before a text; needed where the text
                continues another one.
            prefix: text to put in front while encoding, which takes that space; None for a line break.
        """
        ids = self._continuation(text, prefix or "\n") if trim_leading_whitespace else self._ids(text)
        if add_bos:
            ids.insert(0, self.bos_id)
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self.spm_model.decode(ids)

    def control_tokens(self) -> dict[str, int]:
        """The tokens that no text becomes: name -> id."""
        return {self.spm_model.id_to_piece(i): i for i in range(self.vocab_size) if self.spm_model.is_control(i)}

    def _continuation(self, text: str, prefix: str) -> list[int]:
        if not self._adds_space:
            return self._ids(text)
        return self._ids(prefix + text)[len(self._ids(prefix)) :]

    def _ids(self, text: str) -> list[int]:
        try:
            return self.spm_model.encode(text)
        except (UnicodeEncodeError, RuntimeError):  # which of them depends on sentencepiece's version
            return self.spm_model.encode(without_lone_surrogates(text))
