"""Whether the tensors of some files fill a model, and what to say when they do not."""

from collections.abc import Mapping, Sequence

from torchtune.errors import CheckpointError
from torchtune.models._weights import ReadPlan, WeightMap
from torchtune.training.checkpointing._source import Tensors

_SHOWN = 10


def check_plan(plan: ReadPlan, source: Tensors, names: WeightMap, place: str, about: str) -> None:
    """Refuse files that do not fill the model exactly.

    Args:
        place: the folder, for the message.
        about: what the files say of themselves, for the message.

    Raises:
        CheckpointError: with every kind of fault, the first ten of each and their number.
    """
    misshapen = {read.foreign: (read, found, expected) for read, found, expected in plan.misshapen}
    faults = [
        *_section("missing from the files", [f"{n}" for n in plan.missing]),
        *_section("in the files but not in the model", [_unexpected(n, source, names) for n in plan.unexpected]),
        *_section(
            "of another shape",
            [
                f"{source.where(r.foreign)}: {r.foreign} is {list(found)}; the model's {r.native} is {list(expected)}"
                for r, found, expected in misshapen.values()
            ],
        ),
    ]
    if faults:
        raise CheckpointError(
            "\n".join(
                [
                    f"the weights in {place} do not fit the model.",
                    *faults,
                    f"{about} Choose the model that the checkpoint was made for, or the checkpoint of this model.",
                ]
            )
        )


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} tensor(s) {title}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]


def _unexpected(name: str, source: Tensors, names: WeightMap) -> str:
    line = f"{source.where(name)}: {name} {list(source.infos[name].shape)}"
    return line if names.knows(name) else f"{line} (nearest known name: {names.nearest(name)})"


def check_vocabulary(model_vocab_size: int, tokenizer_vocab_size: int) -> None:
    """Refuse a tokenizer whose ids the model's embedding does not have.

    Raises:
        CheckpointError: the model's vocabulary is the smaller one.
    """
    if model_vocab_size < tokenizer_vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer_vocab_size:,} tokens, the model's embedding {model_vocab_size:,} rows; "
            f"tokens from {model_vocab_size:,} on would have none. Use the tokenizer that belongs to this checkpoint. "
            "(This holds whatever the data is, so no setting of data_checks changes it.)"
        )


def describe(config: Mapping) -> str:
    """What a ``config.json`` says of its model, in one sentence."""
    keys = (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    return "config.json says " + ", ".join(f"{k} {config[k]}" for k in keys if k in config) + "."
