"""Tokenizers by kind of file; the dialogue formats of particular models are with the models."""

from torchtune.modules.transforms.tokenizers._gpt2 import GPT2BaseTokenizer
from torchtune.modules.transforms.tokenizers._hf_model import HuggingFaceModelTokenizer
from torchtune.modules.transforms.tokenizers._protocols import BaseTokenizer, ModelTokenizer
from torchtune.modules.transforms.tokenizers._sentencepiece import SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._tiktoken import TikTokenBaseTokenizer
from torchtune.modules.transforms.tokenizers._tokenizer_json import HuggingFaceBaseTokenizer, parse_hf_tokenizer_json
from torchtune.modules.transforms.tokenizers._utils import tokenize_messages_no_special_tokens

__all__ = [
    "BaseTokenizer",
    "GPT2BaseTokenizer",
    "HuggingFaceBaseTokenizer",
    "HuggingFaceModelTokenizer",
    "ModelTokenizer",
    "SentencePieceBaseTokenizer",
    "TikTokenBaseTokenizer",
    "parse_hf_tokenizer_json",
    "tokenize_messages_no_special_tokens",
]
