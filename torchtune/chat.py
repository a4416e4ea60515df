"""A dialogue with a checkpoint: model and tokenizer found in its folder, answers given as they are written."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.export._source import Source, add_adapter, is_adapter, open_adapter, open_source
from torchtune.export._tokenizer import template_of, trained_tokenizer
from torchtune.generation import encode_prompt, stream
from torchtune.modules import TransformerDecoder
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
from torchtune.training.adapters import BaseWeights
from torchtune.training.checkpointing import check_adapter
from torchtune.training.distributed import World
from torchtune.training.model import fill, load_model
from torchtune.training.quantization import is_quantised, load_quantised
from torchtune.utils import get_device


class Dialogue:
    """Messages to and from one model.

    Args:
        path: a checkpoint in Hugging Face's layout, or an adapter.
        base: the folder of the model below an adapter; None is what its config names.
        device: None is the best there is.
        sampling: ``temperature``, ``top_k`` and ``top_p``; see :func:`torchtune.generation.sample`.

    Raises:
        CheckpointError: there is no checkpoint, or no base for an adapter.
        DataError: no format of dialogues is known for it.
    """

    def __init__(self, path: Path, base: Path | None = None, device: str | None = None, **sampling: Any) -> None:
        source = open_adapter(path, base) if is_adapter(path) else open_source(path, base)
        self.tokenizer = _tokenizer([path, source.folder])
        self.model = _load(source, get_device(device)).eval()
        self.sampling = sampling
        self.system: str | None = None
        self.begin()

    def begin(self) -> None:
        """Forget what was said; what ``system`` says comes first."""
        self.messages = [Message("system", self.system)] if self.system else []

    def answer(self, text: str, max_new_tokens: int) -> Iterator[str]:
        """The answer in pieces; as much of it as was taken becomes part of the dialogue.

        Raises:
            DataError: the dialogue is as long as the model can read.
        """
        asked = [*self.messages, Message("user", text)]
        ids = encode_prompt(self.tokenizer, asked)
        room = self.model.max_seq_len - len(ids)
        if room < 1:
            raise DataError(f"the dialogue has {len(ids)} tokens, and the model reads at most {self.model.max_seq_len}")
        said, shown = "", 0
        try:
            for said in self._texts(ids, min(max_new_tokens, room)):
                yield said[shown:]
                shown = len(said)
        finally:
            self.messages = [*asked, Message("assistant", said)]

    def _texts(self, prompt: list[int], max_new_tokens: int) -> Iterator[str]:
        """All of the answer so far, each time that more of it is known."""
        ids: list[int] = []
        text = ""
        for (token,) in stream(self.model, [prompt], max_new_tokens=max_new_tokens, **self.sampling):
            if token in self.tokenizer.stop_tokens:
                break
            ids.append(token)
            text = self.tokenizer.decode(ids)
            if not text.endswith("\ufffd"):  # a letter whose other bytes are still to come
                yield text
        yield text


def _load(source: Source, device: torch.device) -> TransformerDecoder:
    """The model in the precision that its config says."""
    build = partial(source.family.build, source.config)
    dtype = getattr(torch, source.config.get("dtype") or source.config.get("torch_dtype") or "float32")
    if is_quantised(source.checkpointer):
        return load_quantised(build, source.checkpointer, device, dtype)
    base, adapter = BaseWeights(source.checkpointer), source.adapter
    prepare = partial(add_adapter, spec=adapter.spec) if adapter else lambda model: None
    model = load_model(build, base.weights, World(0, 1, device), dtype=dtype, prepare=prepare)
    if adapter:
        check_adapter(adapter, adapter.spec, adapter.infos, base.fingerprint)
        fill(model, adapter.tensors.items())
    return model


def _tokenizer(folders: list[Path]) -> Any:
    """The first folder's that has one: with its own chat template, else with the dialogues that recipes train on."""
    for folder in filter(Path.is_dir, folders):
        if template_of(folder) is not None and (folder / "tokenizer.json").is_file():
            return HuggingFaceModelTokenizer(folder / "tokenizer.json")
        if tokenizer := trained_tokenizer(folder):
            return tokenizer
    raise DataError(
        f"{folders[-1]} has no chat template, and its tokenizer is not one of Llama's; `tune run generate` with "
        "prompt=TEXT goes on with a text"
    )
