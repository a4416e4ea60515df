"""Hugging Face's layout: what transformers, vLLM and the Hub open."""

from pathlib import Path

from torchtune.export import Options
from torchtune.export._folder import folder_plan
from torchtune.export._readers import TransformersReader
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.training.checkpointing import FullModelHFCheckpointer


def plan(source: Source, options: Options) -> Plan:
    """Shards of safetensors with the base's config, tokenizer and licence."""

    def reader(folder: Path) -> TransformersReader:
        return TransformersReader(folder, source)

    return folder_plan(FullModelHFCheckpointer, source, options, reader, ("transformers", "torch"))
