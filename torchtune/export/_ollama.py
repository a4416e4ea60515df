"""Ollama's form of a model: a GGUF file and a Modelfile (https://github.com/ollama/ollama/blob/main/docs/modelfile.md).

Ollama takes its own templates and no chat template of a GGUF file, so this writes the format of training.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.export import Options
from torchtune.export._gguf import GGUFFile, plan_of
from torchtune.export._source import Source
from torchtune.export._tokenizer import trained_tokenizer
from torchtune.export._write import Plan
from torchtune.models.llama2 import Llama2Tokenizer
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.training.checkpointing._io import FileRecord, read_json, write_bytes

MODELFILE = "Modelfile"


@dataclass(frozen=True)
class ChatFormat:
    """Dialogues in Go's templates (https://pkg.go.dev/text/template) over ``.Messages``.

    Args:
        begin: the token that opens a dialogue, which Ollama writes if the GGUF file says so.
        stops: texts that end an answer.
    """

    begin: str
    template: str
    stops: tuple[str, ...]


_LAST = "{{- range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
LLAMA3 = ChatFormat(
    begin="<|begin_of_text|>",
    template=_LAST
    + '<|start_header_id|>{{ if eq .Role "tool" }}ipython{{ else }}{{ .Role }}{{ end }}<|end_header_id|>\n\n'
    + '{{ .Content }}{{ if not (and $last (eq .Role "assistant")) }}<|eot_id|>{{ end }}'
    + '{{ if and $last (ne .Role "assistant") }}<|start_header_id|>assistant<|end_header_id|>\n\n{{ end }}{{ end }}',
    stops=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>"),
)
# The words of each piece of a message were encoded alone in training, with sentencepiece's own space before them.
LLAMA2 = ChatFormat(
    begin="<s>",
    template='{{- $system := "" }}'
    + _LAST
    + '{{ if eq .Role "system" }}{{ $system = .Content }}{{ else if eq .Role "user" }}'
    + "[INST] {{ if $system }}<<SYS>>\n {{ $system }} \n<</SYS>>\n\n {{ end }}{{ .Content }}  [/INST]"
    + '{{ $system = "" }}{{ else }} {{ .Content }}{{ if not $last }}</s><s>{{ end }}{{ end }}{{ end }}',
    stops=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)
_FORMATS = {Llama3Tokenizer: LLAMA3, Llama2Tokenizer: LLAMA2}
_SAMPLING = ("temperature", "top_k", "top_p")


def plan(source: Source, options: Options) -> Plan:
    """The GGUF file and a Modelfile beside it.

    Raises:
        CheckpointError: as for GGUF, or the tokenizer has no format of dialogues that is known here.
    """
    chat = _FORMATS.get(type(trained_tokenizer(source.folder)))
    if chat is None:
        raise CheckpointError(
            f"the tokenizer in {source.folder} is neither Llama 3's nor Llama 2's, so the format of dialogues is not "
            "known; use --to gguf and write a Modelfile with a TEMPLATE"
        )
    file = GGUFFile(source, options.quantize)
    whole = plan_of(file)
    text = modelfile(file.name, chat, add_begin=not file.vocabulary.add_bos, sampling=_sampling(source.folder))

    def write(folder: Path) -> dict[str, FileRecord]:
        return {**whole.write(folder), MODELFILE: write_bytes(folder / MODELFILE, text.encode())}

    return replace(whole, write=write, is_as_trained=True)


def modelfile(gguf_name: str, chat: ChatFormat, *, add_begin: bool, sampling: dict[str, Any]) -> str:
    """The text of a Modelfile.

    Args:
        add_begin: put ``chat.begin`` into the template.
        sampling: Ollama's parameters, by name.
    """
    template = chat.begin * add_begin + chat.template
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{text}"' for text in chat.stops]
    lines += [f"PARAMETER {name} {value}" for name, value in sampling.items()]
    return "\n".join(lines) + "\n"


def _sampling(folder: Path) -> dict[str, Any]:
    """What the model's ``generation_config.json`` asks for."""
    path = folder / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    return {name: config[name] for name in _SAMPLING if config.get(name) is not None}
