"""A model that answers prompts, ours or one that somebody else's code has read from an export."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from torchtune.errors import DataError
from torchtune.export._source import Source, shapes_of
from torchtune.export._tokenizer import JSON, Dialogue, encoder, template_chat
from torchtune.generation import decode
from torchtune.modules import TransformerDecoder
from torchtune.training.checkpointing import checkpointer_for
from torchtune.training.distributed import World
from torchtune.training.model import load_model


class Reader(Protocol):
    """A model that can be asked, and its tokenizer where it has one.

    Args:
        faults: what the code that has read it complains of.
        notes: what it cannot tell.
        has_tokenizer: False where the format holds none, or one that the code does not read as it is.
    """

    faults: Sequence[str]
    notes: Sequence[str]
    has_tokenizer: bool

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights by our names, in float32; none where they cannot be compared one by one."""

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """[S] and [S] -> [S, V]."""

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """The likeliest next tokens."""

    def encode(self, text: str) -> list[int] | None:
        """The ids of a text; None without a tokenizer."""

    def chat(self, messages: Dialogue) -> tuple[str, list[int]] | None:
        """Text and ids of a dialogue that the model is to go on with; None if no chat template takes it."""


class OwnReader:
    """This library's own code.

    Args:
        folder: with the tokenizer.
    """

    faults: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, model: TransformerDecoder, folder: Path) -> None:
        self._model = model
        self._encode, self._chat = encoder(folder), template_chat(folder)
        self.has_tokenizer = self._encode is not None

    @classmethod
    def of_folder(cls, folder: Path, source: Source) -> "OwnReader":
        """An export that only this library reads."""
        world, weights = World(0, 1, torch.device("cpu")), checkpointer_for(folder).weights
        build = partial(source.family.build, source.config)
        return cls(load_model(build, weights, world, dtype=torch.float32).eval(), folder)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._model.state_dict().items()

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self._model(tokens[None], input_pos=positions[None])[0]

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        return decode(self._model, [prompt], max_new_tokens=num_tokens)[0]

    def encode(self, text: str) -> list[int] | None:
        return self._encode(text) if self._encode else None

    def chat(self, messages: Dialogue) -> tuple[str, list[int]] | None:
        try:
            return self._chat(messages) if self._chat else None
        except DataError:
            return None


class TransformersReader:
    """Hugging Face transformers, with PEFT above it for an adapter.

    Args:
        folder: of the model.
        gguf_file: a file in it that is read in place of config, tokenizer and safetensors.
        config: transformers' own object; None: what it reads.
        rope_factors: what that file divides RoPE's frequencies by, [head_dim / 2]; transformers leaves them out.
        notes: why that file's tokenizer is not read; none if it is.
        adapter: PEFT's folder.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        gguf_file: str | None = None,
        config: Any = None,
        rope_factors: Tensor | None = None,
        notes: Sequence[str] = (),
        adapter: Path | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._source, self._is_adapted = source, adapter is not None
        place = {"gguf_file": gguf_file, "local_files_only": True} if gguf_file else {"local_files_only": True}
        self._model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **place
        )
        self.faults, self.notes = _loading_faults(info), notes
        if gguf_file:
            vars(self._model).pop("_weight_conversions", None)  # of that file, whose names are no checkpoint's
        # Its own would end with an end token, or sample; ours goes on.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        if rope_factors is not None:
            self._model.model.rotary_emb.inv_freq /= rope_factors
        if adapter:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, adapter)
        self._model.eval()
        self.has_tokenizer = not notes if gguf_file else (adapter is None and (folder / JSON).is_file())
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **place) if self.has_tokenizer else None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        if self._is_adapted:
            return
        from transformers.core_model_loading import revert_weight_conversion

        found = revert_weight_conversion(self._model, self._model.state_dict())  # as in files, not as in its memory
        native = shapes_of(self._source.family, self._source.config)
        plan = self._source.family.hf.plan_read(
            {name: tuple(tensor.shape) for name, tensor in found.items()},
            {name: tuple(tensor.shape) for name, tensor in native.items()},
            head_dim=self._source.head_dim,
            tied=self._source.arch.tied,
        )

        def fetch(name: str, rows: tuple[int, int] | None) -> Tensor:
            return found[name] if rows is None else found[name][slice(*rows)]

        for read in plan.reads:
            yield read.native, read.make(fetch)

    def logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        seen = torch.ones_like(tokens)[None]  # without it, positions with gaps are taken for several documents
        return self._model(input_ids=tokens[None], position_ids=positions[None], attention_mask=seen).logits[0]

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        tokens = torch.tensor([prompt])
        written = self._model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=num_tokens
        )
        return written[0, len(prompt) :].tolist()

    def encode(self, text: str) -> list[int] | None:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if self._tokenizer else None

    def chat(self, messages: Dialogue) -> tuple[str, list[int]] | None:
        from jinja2 import TemplateError

        if not self._tokenizer or not self._tokenizer.chat_template:
            return None
        try:
            text = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except TemplateError:
            return None
        return text, self.encode(text)


def _loading_faults(info: Mapping[str, Any]) -> list[str]:
    """Transformers makes up weights that it does not find, and only logs that."""
    kinds = {"missing_keys": "misses", "unexpected_keys": "does not know", "mismatched_keys": "finds of another shape"}
    return [f"transformers {what} {sorted(map(str, info[kind]))[:5]}" for kind, what in kinds.items() if info[kind]]
