"""PEFT's adapter folder."""

from functools import partial
from pathlib import Path

from torchtune.export import Options
from torchtune.export._readers import TransformersReader
from torchtune.export._source import Source, named_base
from torchtune.export._write import Plan
from torchtune.models._peft_stacks import heights_of
from torchtune.training.checkpointing.adapter import base_name, peft_form, write_peft


def plan(source: Source, options: Options) -> Plan:
    """Two files: the adapter's config, which names the base that ``options`` or the source has, and its tensors.

    Raises:
        CheckpointError: PEFT has nothing like the adapter.
    """
    adapter, below = source.adapter, source.checkpointer.checkpoint_dir
    base = (None if options.base else named_base(adapter.path)) or base_name(below)
    tensors = dict(adapter.tensors.items())
    heights = partial(heights_of, source.family, source.config)
    about = {"base": base, "head_dim": source.head_dim, "heights": heights}
    form = peft_form(tensors, adapter.spec, source.peft_names, **about)

    def reader(folder: Path) -> TransformersReader:
        return TransformersReader(below, source, adapter=folder)

    return Plan(
        num_bytes=sum(tensor.nbytes for tensor in form.tensors.values()),
        write=lambda folder: write_peft(folder, form, adapter.base),
        reader=reader,
        read_with=("peft", "transformers", "torch"),
    )
