"""Ollama's form of a model: a GGUF file and a Modelfile (https://github.com/ollama/ollama/blob/main/docs/modelfile.md).

Ollama takes its own templates and no chat template of a GGUF file, so this writes the format of training.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.export import Options
from torchtune.export._gguf import GGUFFile, plan_of
from torchtune.export._gguf_tokenizer import Vocabulary
from torchtune.export._ollama_formats import FORMATS, ChatFormat
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.training.checkpointing._io import FileRecord, read_json, write_bytes

MODELFILE = "Modelfile"


_SAMPLING = ("temperature", "top_k", "top_p")


def plan(source: Source, options: Options) -> Plan:
    """The GGUF file and a Modelfile beside it.

    Raises:
        CheckpointError: as for GGUF, or the tokenizer has no format of dialogues that is known here.
    """
    file = GGUFFile(source, options.quantize)
    chat = _format_of(source, file.vocabulary)
    whole = plan_of(file, verify=options.verify)
    text = modelfile(file.name, chat, add_begin=not file.vocabulary.add_bos, sampling=_sampling(source.folder))

    def write(folder: Path) -> dict[str, FileRecord]:
        return {**whole.write(folder), MODELFILE: write_bytes(folder / MODELFILE, text.encode())}

    return replace(whole, write=write, is_as_trained=True)


def _format_of(source: Source, vocabulary: Vocabulary) -> ChatFormat:
    tokens, family = frozenset(vocabulary.tokens), source.family.name
    is_sentencepiece = vocabulary.model == "llama"
    found = [chat for chat in FORMATS if chat.is_of(family, tokens, sentencepiece=is_sentencepiece)]
    if not found:
        raise CheckpointError(
            f"the vocabulary in {source.folder} and the family {family} are those of none of the formats of dialogues "
            f"that a Modelfile is known for: {', '.join(chat.name for chat in FORMATS)}; use --to gguf and write a "
            "Modelfile with a TEMPLATE"
        )
    return found[0]


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
