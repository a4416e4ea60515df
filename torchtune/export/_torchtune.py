"""The library's own layout: one ``.pt`` file with our names of tensors."""

from torchtune.export import Options
from torchtune.export._folder import folder_plan
from torchtune.export._readers import OwnReader
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.training.checkpointing import FullModelTorchTuneCheckpointer


def plan(source: Source, options: Options) -> Plan:
    """The state dict, with the base's config, tokenizer and licence."""
    return folder_plan(
        FullModelTorchTuneCheckpointer, source, options, lambda folder: OwnReader.of_folder(folder, source)
    )
