"""A tokenizer that needs no file."""

from collections.abc import Mapping


class Letters:
    """Ids are code points; 2 begins a text and 3 ends it."""

    pad_id, bos_id, eos_id = 1, 2, 3

    def __init__(self, max_seq_len: int | None = 200) -> None:
        self.max_seq_len = max_seq_len

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [self.bos_id] * add_bos + list(map(ord, text)) + [self.eos_id] * add_eos

    def tokenize_messages(self, messages: list, **kwargs) -> tuple[list[int], list[bool]]:
        parts = [(ord(letter), message.masked) for message in messages for letter in message.text_content]
        return [token for token, _ in parts], [masked for _, masked in parts]

    def __call__(self, sample: Mapping, inference: bool = False) -> dict:
        tokens, mask = self.tokenize_messages(sample["messages"])
        return {"tokens": tokens, "mask": mask}
