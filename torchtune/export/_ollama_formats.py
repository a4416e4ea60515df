"""Dialogues as recipes train them, in Go's templates (https://pkg.go.dev/text/template) over Ollama's ``.Messages``."""

from collections.abc import Collection
from dataclasses import dataclass

from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.models.qwen2_5 import Qwen2_5Tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """One form of dialogues.

    Args:
        name: for people.
        families: whose models have it, if their vocabulary has the tokens ``marks`` and not those of ``without``.
        begin: the token that opens a dialogue, which Ollama writes if the GGUF file says so.
        stops: texts that end an answer.
        of_sentencepiece: only with such a vocabulary; None: with any.
    """

    name: str
    families: tuple[str, ...]
    template: str
    stops: tuple[str, ...]
    begin: str = ""
    marks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    of_sentencepiece: bool | None = None

    def is_of(self, family: str, tokens: Collection[str], *, sentencepiece: bool) -> bool:
        """Whether the models of a family with this vocabulary have it."""
        has_kind = self.of_sentencepiece in (None, sentencepiece)
        has_marks = all(mark in tokens for mark in self.marks) and not any(mark in tokens for mark in self.without)
        return family in self.families and has_kind and has_marks


_LAST = "{{- range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
_OPEN = '(and $last (eq .Role "assistant"))'  # what the model is to go on with
_ASKED = '(and $last (ne .Role "assistant"))'
_SYSTEM = '{{- $system := "" }}'
_MISTRAL = ("mistral", "ministral", "mixtral")


def _marked(before: str, after: str, answer: str, role: str = "{{ .Role }}", first: str = "") -> str:
    """Messages between the same texts; ``first`` goes before the first, and ``answer`` begins one of the model's."""
    return (
        f"{_LAST}{first}{before.format(role=role)}{{{{ .Content }}}}{{{{ if not {_OPEN} }}}}{after}{{{{ end }}}}"
        f"{{{{ if {_ASKED} }}}}{answer}{{{{ end }}}}{{{{ end }}}}"
    )


def _chatml(system: str) -> str:
    said = f'{{{{ if and (eq $i 0) (ne .Role "system") }}}}<|im_start|>system\n{system}<|im_end|>\n{{{{ end }}}}'
    return _marked("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n", first=said if system else "")


LLAMA3 = ChatFormat(
    "Llama 3",
    ("llama",),
    _marked(
        "<|start_header_id|>{role}<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        role='{{ if eq .Role "tool" }}ipython{{ else }}{{ .Role }}{{ end }}',
    ),
    ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>"),
    begin="<|begin_of_text|>",
    marks=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
# The words of each piece of a message were encoded alone in training, with sentencepiece's own space before them.
LLAMA2 = ChatFormat(
    "Llama 2",
    ("llama",),
    _SYSTEM
    + _LAST
    + '{{ if eq .Role "system" }}{{ $system = .Content }}{{ else if eq .Role "user" }}'
    + "[INST] {{ if $system }}<<SYS>>\n {{ $system }} \n<</SYS>>\n\n {{ end }}{{ .Content }}  [/INST]"
    + '{{ $system = "" }}{{ else }} {{ .Content }}{{ if not $last }}</s><s>{{ end }}{{ end }}{{ end }}',
    ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    begin="<s>",
    of_sentencepiece=True,
)
MISTRAL_V1 = ChatFormat(
    "Mistral v1",
    _MISTRAL,
    _SYSTEM
    + _LAST
    + '{{ if eq .Role "system" }}{{ $system = .Content }}{{ else if eq .Role "user" }}'
    + "[INST] {{ if $system }}{{ $system }}\n\n{{ end }}{{ .Content }} [/INST]"
    + '{{ $system = "" }}{{ else }} {{ .Content }}{{ if not $last }}</s>{{ end }}{{ end }}{{ end }}',
    ("[INST]", "[/INST]"),
    begin="<s>",
    without=("[INST]",),
    of_sentencepiece=True,
)
# What the system says stands in the last message of the user.
MISTRAL_V3 = ChatFormat(
    "Mistral v3",
    _MISTRAL,
    _SYSTEM
    + '{{ $asked := 0 }}{{ range $i, $message := .Messages }}{{ if eq .Role "user" }}{{ $asked = $i }}'
    + '{{ else if eq .Role "system" }}{{ $system = .Content }}{{ end }}{{ end }}'
    + _LAST.replace("{{-", "{{")
    + '{{ if eq .Role "user" }}[INST]{{ if and $system (eq $i $asked) }}{{ $system }}\n\n{{ end }}{{ .Content }}[/INST]'
    + '{{ else if eq .Role "assistant" }}{{ .Content }}{{ if not $last }}</s>{{ end }}{{ end }}{{ end }}',
    ("[INST]", "[/INST]"),
    begin="<s>",
    marks=("[INST]", "[/INST]"),
    without=("[TOOL_CONTENT]", "[SYSTEM_PROMPT]"),
)
MISTRAL_V7 = ChatFormat(
    "Mistral v7",
    _MISTRAL,
    _LAST
    + '{{ if eq .Role "system" }}[SYSTEM_PROMPT]{{ .Content }}[/SYSTEM_PROMPT]'
    + '{{ else if eq .Role "user" }}[INST]{{ .Content }}[/INST]'
    + "{{ else }}{{ .Content }}{{ if not $last }}</s>{{ end }}{{ end }}{{ end }}",
    ("[INST]", "[/INST]"),
    begin="<s>",
    marks=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    without=("[ARGS]",),
)
_IM = ("<|im_start|>", "<|im_end|>")
QWEN2_5 = ChatFormat(
    "Qwen 2.5", ("qwen2",), _chatml(Qwen2_5Tokenizer._own_system), (*_IM, "<|endoftext|>"), marks=(*_IM, "<tool_call>")
)
QWEN2 = ChatFormat(
    "Qwen 2",
    ("qwen2",),
    _chatml(Qwen2Tokenizer._own_system),
    (*_IM, "<|endoftext|>"),
    marks=_IM,
    without=("<tool_call>",),
)
QWEN3 = ChatFormat("Qwen 3", ("qwen3", "qwen3_moe"), _chatml(""), (*_IM, "<|endoftext|>"), marks=_IM)
GEMMA = ChatFormat(
    "Gemma",
    ("gemma", "gemma2", "gemma3"),
    _SYSTEM
    + _LAST
    + '{{ if eq .Role "system" }}{{ $system = .Content }}{{ else }}'
    + '<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n'
    + '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}'
    + f"{{{{ .Content }}}}{{{{ if not {_OPEN} }}}}<end_of_turn>\n{{{{ end }}}}{{{{ end }}}}"
    + f"{{{{ if {_ASKED} }}}}<start_of_turn>model\n{{{{ end }}}}{{{{ end }}}}",
    ("<end_of_turn>", "<start_of_turn>"),
    begin="<bos>",
    marks=("<start_of_turn>", "<end_of_turn>"),
)
PHI3 = ChatFormat(
    "Phi 3",
    ("phi3",),
    _marked("<|{role}|>", "<|end|>", "<|assistant|>"),
    ("<|end|>", "<|endoftext|>", "<|user|>", "<|assistant|>"),
    marks=("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    of_sentencepiece=True,
)
PHI4 = ChatFormat(
    "Phi 4",
    ("phi3",),
    _marked("<|im_start|>{role}<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    (*_IM, "<|endoftext|>"),
    marks=(*_IM, "<|im_sep|>"),
    of_sentencepiece=False,
)
FORMATS = (LLAMA3, LLAMA2, MISTRAL_V1, MISTRAL_V3, MISTRAL_V7, QWEN2_5, QWEN2, QWEN3, GEMMA, PHI3, PHI4)
