"""Classifiers and reward models in Hugging Face's layout, and how one starts from the weights of a language model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchtune.models._family import num_classes
from torchtune.models._tensor_forms import Fetch, Read, Shape
from torchtune.models._weights import EMBEDDING, OUTPUT, ReadPlan
from torchtune.utils._logging import log_once

_STD = 0.02  # of transformers' fresh heads, where config.json gives no initializer_range

logger = logging.getLogger(__name__)


def is_classifier(shapes: Mapping[str, Shape]) -> bool:
    """Whether a model's output is not one score for each word."""
    return OUTPUT in shapes and shapes[OUTPUT][0] != shapes[EMBEDDING][0]


@dataclass(frozen=True)
class FreshHead(Read):
    """A head whose numbers are drawn, in the dtype of ``foreign``, and are the same whenever they are asked for."""

    shape: Shape = ()
    std: float = _STD

    def make(self, fetch: Fetch) -> Tensor:
        drawn = torch.empty(self.shape).normal_(0, self.std, generator=torch.Generator().manual_seed(0))
        return drawn.to(fetch(self.foreign, (0, 1)).dtype)


def start_head(plan: ReadPlan, shapes: Mapping[str, Shape], config: Mapping[str, Any], place: str) -> None:
    """Let a classifier begin with the weights of a language model, which have no head for it."""
    embedding = next((read.foreign for read in plan.reads if read.native == EMBEDDING), None)
    if plan.missing != [OUTPUT] or embedding is None:
        return
    rows, columns = shapes[OUTPUT]
    message = (
        f"{place} holds a language model, so the classifier's head (output.weight, {rows} x {columns}) begins with "
        "random numbers. Train it: with adapters, that takes trainable_modules: [output]."
    )
    log_once(logger, message, logging.WARNING)
    plan.missing.clear()
    plan.reads.append(FreshHead(OUTPUT, embedding, shape=shapes[OUTPUT], std=config.get("initializer_range") or _STD))


def classifier_facts(config: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """What ``config.json`` has to say for transformers to read a classifier; nothing where it says that already."""
    if num_classes(config) == classes:
        return {}
    names = config.get("architectures") or [f"{config['model_type'].capitalize()}ForCausalLM"]
    labels = {str(number): f"LABEL_{number}" for number in range(classes)}
    return {
        "architectures": [name.partition("For")[0] + "ForSequenceClassification" for name in names],
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }
