"""Tiny models in Hugging Face's layout, as transformers writes it: config, weights, tokenizer, chat template."""

from pathlib import Path

import torch
from family_cases import Case, all_cases
from tokenizer_files import CHAT_TOKENS, byte_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = {"vocab_size": 256 + len(CHAT_TOKENS), "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}


def families() -> dict[str, Case]:
    """The first case of each model type."""
    found: dict[str, Case] = {}
    for case in all_cases().values():
        found.setdefault(case.model_type, case)
    return found


def save(folder: Path, case: Case, template: str | None = CHATML, **config: object) -> Path:
    """A case's model with the vocabulary of a byte tokenizer; ``config`` changes its config."""
    from transformers import PreTrainedTokenizerFast

    case = Case(case.model_type, "", {**case.config, **VOCABULARY, **config}, std=0.1)
    case.oracle().to(torch.float32).save_pretrained(folder)
    byte_tokenizer(folder / "made.json", CHAT_TOKENS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "made.json"), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "made.json").unlink()
    return folder
