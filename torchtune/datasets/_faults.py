"""Faults of samples that training would suffer from in silence: which samples of a part have them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from torchtune.datasets._dropped import dropped_messages
from torchtune.datasets._parts import Part
from torchtune.datasets._readable import special_names, text_of
from torchtune.datasets._token_table import TokenTable

_EXCERPT = 70  # characters


@dataclass(frozen=True)
class Fault:
    """Samples that have a fault.

    Args:
        positions: where they are in the part's table.
        total: how many could have it.
        text: what is wrong and what can be done, after "3 of 40 samples of dataset".
        excerpt: of the first one's text.
    """

    positions: np.ndarray
    total: int
    text: str
    excerpt: str


class Look:
    """A part, and what is to be known of each of its samples, [n]."""

    def __init__(self, part: Part, tokenizer: Any) -> None:
        self.part, self.table, self.tokenizer = part, part.table, tokenizer
        ends = [*getattr(tokenizer, "stop_tokens", ()), getattr(tokenizer, "eos_id", None)]
        self.end_ids = [index for index in dict.fromkeys(ends) if index is not None]

    @cached_property
    def targets(self) -> np.ndarray:
        """Tokens that the loss counts."""
        return self.table.targets

    @cached_property
    def is_cut(self) -> np.ndarray:
        """Whether a sample is as long as its tokenizer lets it be."""
        limit = self.part.cut_at
        return np.zeros(len(self.table), dtype=bool) if limit is None else self.table.lengths >= limit

    @cached_property
    def has_lost_its_answer(self) -> np.ndarray:
        """Whether a sample was cut and has nothing to learn. What opens an answer is nothing, and so is the end token
        that tokenizers put behind what they have cut.
        """
        if not len(self.table.tokens):
            return np.zeros(len(self.table), dtype=bool)
        last = np.maximum(self.table.ends - 1, 0)
        forced = self.table.trained[last] & self.ends_turn(self.table.tokens[last])
        opening = self.part.answer_opening if self.is_cut.any() else 0
        return self.is_cut & (self.targets - forced <= opening)

    def ends_turn(self, tokens: np.ndarray) -> np.ndarray:
        """Whether each is an end token."""
        none = np.zeros(len(tokens), dtype=bool)  # numpy's isin takes forty times as long for a few ids
        return reduce(np.logical_or, (tokens == index for index in self.end_ids), none)

    def name_of(self, index: int) -> str:
        """A token's name or text."""
        return special_names(self.tokenizer).get(index) or repr(text_of(self.tokenizer, [index]))

    def fault(
        self, found: np.ndarray, text: str, possible: np.ndarray | None = None, *, shows_end: bool = True
    ) -> Fault:
        """The samples for which ``found`` is True; shown is the end of one, since they often begin all alike."""
        positions, excerpt = np.flatnonzero(found), ""
        if len(positions):
            tokens = self.table[int(positions[0])]["tokens"]
            nearby = tokens[-_EXCERPT:] if shows_end else tokens[:_EXCERPT]
            excerpt = shortened(text_of(self.tokenizer, nearby), end=shows_end)
        return Fault(positions, len(found) if possible is None else int(possible.sum()), text, excerpt)


def shortened(text: str, *, end: bool = False) -> str:
    """The beginning or the end of a text, in one line and quotes."""
    line = repr(text)[1:-1]
    if len(line) <= _EXCERPT:
        return f"'{line}'"
    return f"'...{line[-_EXCERPT:]}'" if end else f"'{line[:_EXCERPT]}...'"


def no_target(look: Look) -> Iterator[Fault]:
    """Samples of which all is masked."""
    yield look.fault(
        (look.targets == 0) & ~look.has_lost_its_answer,
        "have no token to train on: all is masked (see train_on_input, masking_strategy and the roles)",
    )


def cut_answer(look: Look) -> Iterator[Fault]:
    """Samples that end before there is anything to learn."""
    yield look.fault(
        look.has_lost_its_answer,
        f"are cut at {look.part.cut_at} tokens before anything to train on: raise tokenizer.max_seq_len, shorten the "
        "prompts, or leave these rows out",
    )


def empty_answer(look: Look) -> Iterator[Fault]:
    """Samples that train an answer which says nothing and calls no tool."""
    spread = look.part.spread()
    found, possible = (np.zeros(len(look.table), dtype=bool) for _ in range(2))
    possible[spread] = True
    found[spread] = [any(map(_is_empty_answer, look.part.messages(position))) for position in spread.tolist()]
    yield look.fault(
        found,
        "train an answer without text, so the model learns to say nothing: fill it in, leave these rows out, or mask "
        'the turn ("train": false)',
        possible,
    )


def _is_empty_answer(message: Any) -> bool:
    is_answer = message.role == "assistant" and not message.masked
    return is_answer and not any(part["type"] != "text" or part["content"].strip() for part in message.content)


def missing_end(look: Look) -> Iterator[Fault]:
    """Dialogues that do not teach the model to stop. A text ends as its ``add_eos`` says, and a cut sample nowhere."""
    if not look.end_ids or not len(look.table) or not look.part.messages(0):
        return
    possible = (look.targets > 0) & ~look.is_cut
    ends = look.table.summed(lambda tokens, trained: look.ends_turn(tokens) & trained)
    names = ", ".join(map(look.name_of, look.end_ids[:3]))
    yield look.fault(
        possible & (ends == 0),
        f"train no token that ends a turn ({names}), so the model does not learn to stop: look at the chat template, "
        "or at the `generation` marks in it",
        possible,
    )


def double_bos(look: Look) -> Iterator[Fault]:
    """Samples that begin twice."""
    bos, table = getattr(look.tokenizer, "bos_id", None), look.table
    if bos is None:
        return
    long = np.flatnonzero(table.lengths > 1)
    first = (table.ends - table.lengths)[long]
    found = np.zeros(len(table), dtype=bool)
    found[long] = (table.tokens[first] == bos) & (table.tokens[first + 1] == bos)
    yield look.fault(
        found,
        f"begin with {look.name_of(bos)} twice: the chat template, the prompt template or the data write one more than "
        "the tokenizer",
        shows_end=False,
    )


def dropped_message(look: Look) -> Iterator[Fault]:
    """Samples that lack the text of a message, by role."""
    for role, texts in dropped_messages(look.part, look.is_cut, look.tokenizer).items():
        yield Fault(
            np.asarray(list(texts)),
            len(look.part.spread()),
            f"have a message from {role!r} that is not in what the model reads: the template leaves it out. Use a "
            "template with a place for this role, or put the text into another message",
            shortened(next(iter(texts.values()))),
        )


def unknown_ids(look: Look, num_embeddings: int) -> Iterator[Fault]:
    """Samples with ids that the embedding does not have."""
    found = look.table.summed(lambda tokens, trained: (tokens < 0) | (tokens >= num_embeddings)) > 0
    first = look.table[int(np.argmax(found))]["tokens"] if found.any() else np.zeros(1)
    yield look.fault(
        found,
        f"hold ids that the model's embedding of {num_embeddings:,} rows does not have, up to {first.max()} in the "
        "first. It has all of the config's tokenizer, so these come from the dataset itself: make its samples with the "
        "tokenizer that it is given",
    )


def validation_overlap(look: Look, train: Look) -> Iterator[Fault]:
    """Validation samples that are trained on as well."""
    pairs = _equal(look.table, train.table)
    found = np.zeros(len(look.table), dtype=bool)
    found[list(pairs)] = True
    first = train.part.where(next(iter(pairs.values()))) if pairs else ""
    yield look.fault(
        found,
        f"stand in {train.part.title} too (the first: {first}), so the validation loss says less about new data",
    )


def _equal(one: TokenTable, other: TokenTable) -> dict[int, int]:
    """Samples of one table that stand in another: position in the first -> position in the second."""
    keys = [(table.summed(lambda tokens, trained: tokens) << 24) ^ table.lengths for table in (one, other)]
    mine, theirs = (np.flatnonzero(np.isin(here, there)).tolist() for here, there in (keys, keys[::-1]))
    known = {_bytes(other, position): position for position in reversed(theirs)}
    found = {position: known.get(_bytes(one, position)) for position in mine}
    return {position: same for position, same in found.items() if same is not None}


def _bytes(table: TokenTable, position: int) -> bytes:
    begin = int(table.ends[position - 1]) if position else 0
    return table.tokens[begin : table.ends[position]].tobytes()


OF_A_PART: dict[str, Callable[[Look], Iterator[Fault]]] = {
    "no_target": no_target,
    "cut_answer": cut_answer,
    "empty_answer": empty_answer,
    "missing_end": missing_end,
    "double_bos": double_bos,
    "dropped_message": dropped_message,
}
"""The checks that need a part and nothing else."""
