"""Where in a rendered dialogue stands what the model is trained on, whatever its chat template does."""

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._chat_template import Span
from torchtune.modules.transforms.tokenizers._rows import PLACE, Row

Render = Callable[[Sequence[Row]], str]

_OTHER = "\ufdd3"  # as PLACE, for a second text


def trained_spans(
    rows: Sequence[Row], masked: Sequence[bool], text: str, marks: list[Span], render: Render, special: Collection[str]
) -> list[Span]:
    """The characters of a dialogue that are not masked.

    The template's own marks count, where only answers are trained on. Without them a message reaches from the end of
    what the template writes of those before it to the end of what it writes with it.

    Args:
        rows: the messages, as the template gets them; ``masked`` has an entry for each.
        text: what the template makes of them; ``marks`` is what it says that the model writes.
        render: the template, for other dialogues.
        special: the texts of special tokens.

    Raises:
        DataError: the template changes a message when others follow, so that its place is not known.
    """
    if len(set(masked)) < 2:
        return [(0, len(text))] if masked and not masked[0] else []
    found = _by_marks(rows, masked, marks)
    return _by_runs(rows, masked, text, render, special) if found is None else found


def _by_marks(rows: Sequence[Row], masked: Sequence[bool], marks: list[Span]) -> list[Span] | None:
    """None where the template has no marks, or they do not tell the masked messages from the others."""
    answers = [hidden for row, hidden in zip(rows, masked) if row["role"] == "assistant"]
    if not marks or answers.count(False) < masked.count(False):  # something besides answers is trained on
        return None
    if len(marks) == len(answers):
        return [mark for mark, hidden in zip(marks, answers) if not hidden]
    return None if any(answers) else marks


def _by_runs(
    rows: Sequence[Row], masked: Sequence[bool], text: str, render: Render, special: Collection[str]
) -> list[Span]:
    spans, begin, count = [], 0, 0
    for hidden, run in groupby(masked):
        count += len(list(run))
        end = len(text) if count == len(rows) else _end_of_beginning(rows, count, text, render, special)
        spans += [] if hidden else [(begin, end)]
        begin = end
    return spans


def _end_of_beginning(rows: Sequence[Row], count: int, text: str, render: Render, special: Collection[str]) -> int:
    """Where the first ``count`` messages end.

    Only the ends of runs are looked for, because many templates refuse a dialogue that stops after a system message.
    """
    beginning = _rendered(rows[:count], render)
    if beginning is not None and text.startswith(beginning):
        return len(beginning)
    found = None
    if rows[count - 1]["role"] == "assistant":
        found = _end_of_answer(rows, count - 1, text, render, special)
    elif rows[count]["role"] == "assistant":
        asked = _begin_of_content(rows, count - 1, text, render)
        found = _begin_of_content(rows, count, text, render)
        found = None if asked is None or found is None or asked > found else found
    if found is None:
        raise DataError(
            f"the chat template renders the first {count} of {len(rows)} messages differently when more follow, so "
            "which tokens belong to which message is unknown; train on all messages, or use a template that only "
            "appends or that marks answers with {% generation %}"
        )
    return found


def _end_of_answer(rows: Sequence[Row], index: int, text: str, render: Render, special: Collection[str]) -> int | None:
    """Where an answer ends that is written otherwise when it is the last: Qwen 3, for one, drops its reasoning.

    That is so far before the content of the next message as it would be after an answer that is known.
    """
    following = _begin_of_content(rows, index + 1, text, render)
    plain = [*rows[:index], {"role": "assistant", "content": PLACE}]
    last = _rendered(plain, render)
    inner = _rendered([*plain, {**rows[index + 1], "content": _OTHER}], render)
    if following is None or last is None or inner is None:
        return None
    between = inner.partition(PLACE)[2].partition(_OTHER)[0]
    closing = last.partition(PLACE)[2]
    if not between.startswith(closing):  # the last answer is closed otherwise: by <|return|> in gpt-oss
        if not closing.startswith(tuple(special)):
            return None
        closing = max(filter(between.startswith, special), key=len, default=between)
    end = following - len(between) + len(closing)
    return end if text[:end].endswith(closing) else None


def _begin_of_content(rows: Sequence[Row], index: int, text: str, render: Render) -> int | None:
    """Where the content of a message begins, found by putting something else in its place.

    That is where an answer begins if the messages before it are written otherwise when it follows: Mistral's
    templates, for one, move the system message about.
    """
    marked = _rendered([*rows[:index], {**rows[index], "content": PLACE}, *rows[index + 1 :]], render)
    before, place, after = ("", "", "") if marked is None else marked.partition(PLACE)
    alike = text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text)
    return len(before) if place and alike and PLACE not in after else None


def _rendered(rows: Sequence[Row], render: Render) -> str | None:
    """None where the template refuses such a dialogue."""
    try:
        return render(rows)
    except DataError:
        return None
