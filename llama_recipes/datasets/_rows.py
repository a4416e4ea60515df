"""The datasets whose prompts are plain text: SAMSum, grammar correction and Alpaca.

The wording of the prompts is that of https://github.com/meta-llama/llama-cookbook and, for Alpaca, of
https://github.com/tatsu-lab/stanford_alpaca: models trained with it expect it.
"""

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from llama_recipes.configs import datasets as settings
from llama_recipes.datasets._prompted import Prompted, PromptedDataset
from torchtune.datasets import PackedDataset, PackedStream
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._packed_stream import pack_to_fit
from torchtune.datasets._plain_text import text_in
from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError, DataError

_SPLITS = ("train", "val")
_HELD_OUT = 20  # one row in so many, from the first on, is for validation


class _Samsum(PromptedDataset):
    def read(self, row: Row) -> Prompted:
        dialogue = text_in(row, "dialogue")
        return Prompted(f"Summarize this dialog:\n{dialogue}\n---\nSummary:\n", text_in(row, "summary"))


class _Grammar(PromptedDataset):
    def read(self, row: Row) -> Prompted:
        sentence = text_in(row, "input")
        return Prompted(f"Correct this to standard English: {sentence}\n---\nCorrected: ", text_in(row, "target"))


class _Alpaca(PromptedDataset):
    """Prompt and answer are tokenised as one text; as many ids are masked as the prompt alone has."""

    def __init__(self, tokenizer: Any, source: str, split: str, **options: Any) -> None:
        if split not in _SPLITS:
            raise ConfigError(f"split is {split!r}; the parts of this dataset are {' and '.join(_SPLITS)}")
        if options.get("streaming"):
            raise ConfigError("streaming: True does not go with alpaca_dataset, which counts its rows to split them")
        super().__init__(tokenizer, source, **options)
        held_out = len(self) // _HELD_OUT
        if split == "val" and not held_out:
            raise DataError(
                f"{source} has {len(self)} row(s); the split 'val' is one in {_HELD_OUT}, so it needs {_HELD_OUT}"
            )
        chosen = range(held_out, len(self)) if split == "train" else range(held_out)
        self._rows = self._rows.select(np.array(chosen))

    def read(self, row: Row) -> Prompted:
        begun, task = (
            "Below is an instruction that describes a task",
            f"### Instruction:\n{text_in(row, 'instruction')}",
        )
        if row.get("input"):
            begun += ", paired with an input that provides further context"
            task += f"\n\n### Input:\n{text_in(row, 'input')}"
        wish = "Write a response that appropriately completes the request."
        return Prompted(f"{begun}. {wish}\n\n{task}\n\n### Response:", text_in(row, "output"))

    def tokens(self, content: Prompted) -> tuple[list[int], int]:
        prompt = self._tokenizer.encode(content.prompt, add_bos=True, add_eos=False)
        return self._tokenizer.encode(content.prompt + content.answer, add_bos=True, add_eos=True), len(prompt)


def samsum_dataset(
    tokenizer: Any,
    *,
    source: str = settings.samsum_dataset.source,
    split: str = "train",
    train_on_input: bool = False,
    packed: bool | str = False,
    split_across_pack: bool = False,
    filter_fn: Callable | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PromptedDataset | PackedDataset | PackedStream:
    """Dialogues with their summaries, columns ``dialogue`` and ``summary``.

    Args:
        source: the Hub no longer has Samsung's; a file, a folder or the name of a copy
        train_on_input: train on the prompt too
        packed: fill sequences of ``tokenizer.max_seq_len`` with several samples each
        split_across_pack: lay the samples end to end and cut them where a pack is full, as ``llama_recipes`` does; here
            they still do not see each other
        split, filter_fn, load_dataset_kwargs: see :class:`torchtune.datasets.SFTDataset`
    """
    dataset = _Samsum(
        tokenizer, source, train_on_input=train_on_input, filter_fn=filter_fn, split=split, **load_dataset_kwargs
    )
    return pack_to_fit(dataset, tokenizer, packed, split_across_pack=split_across_pack)


def grammar_dataset(
    tokenizer: Any,
    *,
    source: str = settings.grammar_dataset.train_split,
    train_on_input: bool = False,
    packed: bool | str = False,
    split_across_pack: bool = False,
    filter_fn: Callable | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PromptedDataset | PackedDataset | PackedStream:
    """Sentences with their corrections, columns ``input`` and ``target``.

    Args:
        source: a file of JFLEG and C4_200M's rows, as llama_recipes' notebook makes it, or of your own
        train_on_input, packed, split_across_pack, filter_fn, load_dataset_kwargs: see :func:`samsum_dataset`
    """
    dataset = _Grammar(tokenizer, source, train_on_input=train_on_input, filter_fn=filter_fn, **load_dataset_kwargs)
    return pack_to_fit(dataset, tokenizer, packed, split_across_pack=split_across_pack)


def alpaca_dataset(
    tokenizer: Any,
    *,
    source: str = settings.alpaca_dataset.data_path,
    split: str = "train",
    train_on_input: bool = False,
    packed: bool | str = False,
    split_across_pack: bool = False,
    filter_fn: Callable | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PromptedDataset | PackedDataset:
    """Stanford Alpaca's instructions, columns ``instruction``, ``input`` and ``output``.

    Args:
        source: ``alpaca_data.json`` of https://github.com/tatsu-lab/stanford_alpaca, or own rows of that form
        split: ``val`` is the first twentieth of the rows, ``train`` the others
        train_on_input, packed, split_across_pack, filter_fn, load_dataset_kwargs: see :func:`samsum_dataset`
    """
    dataset = _Alpaca(
        tokenizer, source, split, train_on_input=train_on_input, filter_fn=filter_fn, **load_dataset_kwargs
    )
    return pack_to_fit(dataset, tokenizer, packed, split_across_pack=split_across_pack)
