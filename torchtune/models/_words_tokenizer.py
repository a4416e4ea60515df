"""What the tokenizers have in common whose special tokens stand in the same file as their words."""

from collections.abc import Mapping
from typing import Any

from torchtune.data._prompt_templates import PromptTemplateInterface
from torchtune.modules.transforms import Transform
from torchtune.modules.transforms.tokenizers import ModelTokenizer, SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._tekken import TekkenBaseTokenizer
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer
from torchtune.modules.transforms.tokenizers._utils import check_truncation_type, tokenize_sample

Words = SentencePieceBaseTokenizer | TekkenBaseTokenizer | PlainTextTokenizer


class WordsTokenizer(ModelTokenizer, Transform):
    """A tokenizer over the words of a file; a subclass says how it writes dialogues, in ``tokenize_messages``.

    Args:
        words: text to ids and back
        special_tokens: name -> id
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: None leaves the messages as they are.
        truncation_type: the side that is cut away, "right" or "left".
    """

    def __init__(
        self,
        words: Words,
        special_tokens: dict[str, int],
        max_seq_len: int | None,
        prompt_template: PromptTemplateInterface | None,
        truncation_type: str,
    ) -> None:
        check_truncation_type(truncation_type)
        self._base = words
        self.special_tokens = special_tokens
        self.max_seq_len = max_seq_len
        self.prompt_template = prompt_template
        self.truncation_type = truncation_type
        self.stop_tokens = [self.eos_id]

    @property
    def eos_id(self) -> int:
        return self._base.eos_id

    @property
    def bos_id(self) -> int:
        return self._base.bos_id

    @property
    def pad_id(self) -> int:
        """Where the file has no word for padding, the unknown word stands in."""
        return self.special_tokens.get("<pad>", 0)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._base.vocab_size

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """The ids of a text, which is never read as special tokens; see :meth:`SentencePieceBaseTokenizer.encode`."""
        return self._base.encode(text, add_bos, add_eos, trim_leading_whitespace)

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self._base.decode(token_ids)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages`` and, where it has some, of ``tools``; at
        inference the last turn stays open.
        """
        return tokenize_sample(self, sample, inference)
