"""Llama 2's tokenizer and the form of its dialogues."""

from torchtune.data._messages import Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template, surround
from torchtune.errors import DataError
from torchtune.models._words_tokenizer import WordsTokenizer
from torchtune.modules.transforms.tokenizers import SentencePieceBaseTokenizer, tokenize_messages_no_special_tokens
from torchtune.modules.transforms.tokenizers._files import JSON, SENTENCEPIECE, kind_of, require_file
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer
from torchtune.modules.transforms.tokenizers._utils import apply_template


class Llama2ChatTemplate(PromptTemplateInterface):
    """The marks that Llama 2's chat models were trained with, the system message inside the user message after it
    (https://github.com/meta-llama/llama/blob/main/llama/generation.py)."""

    template = {
        "system": ("<<SYS>>\n", "\n<</SYS>>\n\n"),
        "user": ("[INST] ", " [/INST] "),
        "assistant": ("", ""),
        "ipython": ("", ""),
        "tool": ("", ""),
    }

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """The messages with their marks, system messages merged away.

        Raises:
            DataError: no user message follows a system message.
        """
        dressed, system = [], []
        for message in messages:
            if message.role == "system":
                system = surround(message, *self.template["system"]).content
                continue
            if message.role == "user":
                message = Message("user", [*system, *message.content], masked=message.masked, eot=message.eot)
                system = []
            dressed.append(surround(message, *self.template[message.role]))
        if system:
            raise DataError("Llama 2 writes a system message into the user message after it; here none follows")
        return dressed


class Llama2Tokenizer(WordsTokenizer):
    """Llama 2's words and dialogues.

    Args:
        path: ``tokenizer.model`` (sentencepiece) or ``tokenizer.json``.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: None leaves the messages as they are.
        truncation_type: the side that is cut away, "right" or "left".
    """

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = Llama2ChatTemplate(),  # noqa: B008 (it holds no state)
        truncation_type: str = "right",
    ) -> None:
        words = _words(path)
        special_tokens = {"<s>": words.bos_id, "</s>": words.eos_id}
        super().__init__(words, special_tokens, max_seq_len, prompt_template, truncation_type)

    def tokenize_messages(
        self, messages: list[Message], *, add_start_tokens: bool = True, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_start_tokens: begin each turn with ``bos_id``.
            add_end_tokens: close the last turn with ``eos_id``; earlier turns are closed in any case.
        """
        return tokenize_messages_no_special_tokens(
            self,
            apply_template(self.prompt_template, messages, inference=not add_end_tokens),
            bos_id=self.bos_id if add_start_tokens else None,
            eos_id=self.eos_id,
            truncation_type=self.truncation_type,
            add_end_tokens=add_end_tokens,
        )


def llama2_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = "torchtune.models.llama2.Llama2ChatTemplate",
    truncation_type: str = "right",
) -> Llama2Tokenizer:
    """Llama 2's tokenizer, as configs name it; for the arguments see :class:`Llama2Tokenizer`.

    Args:
        prompt_template: dotted path to a template, or role -> [text before, text after].
    """
    return Llama2Tokenizer(path, max_seq_len, _get_prompt_template(prompt_template), truncation_type)


def _words(path: str) -> SentencePieceBaseTokenizer | PlainTextTokenizer:
    if kind_of(require_file(path, SENTENCEPIECE)) == JSON:
        return PlainTextTokenizer(path, bos_token="<s>", eos_token="</s>")
    return SentencePieceBaseTokenizer(path)
