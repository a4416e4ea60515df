"""Where in a rendered dialogue stands what the model is trained on, whatever its chat template does."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._chat_template import Span
from torchtune.modules.transforms.tokenizers._rows import PLACE, Row

Render = Callable[[Sequence[Row]], str]

_OTHER = "\ufdd3"  # as PLACE, for a second text


def trained_spans(
    rows: Sequence[Row],
    masked: Sequence[bool],
    text: str,
    marks: list[Span] | None,
    render: Render,
    special: Collection[str],
    begin: int = 0,
) -> list[Span]:
    """The characters of a dialogue that are not masked.

    The template's own marks count, where only answers are trained on. Without them a message reaches from the end of
    what the template writes of those before it to the end of what it writes with it.

    Args:
        rows: the messages, as the template gets them; ``masked`` has an entry for each.
        text: what the template makes of them.
        marks: what the template says that the model writes; None where it never says so.
        render: the template, for other dialogues.
        special: the texts of special tokens.
        begin: where the first message begins.

    Raises:
        DataError: the template changes a message when others follow, so that its place is not known.
    """
    if all(masked):
        return []
    if marks is None or any(row["role"] != "assistant" for row, hidden in zip(rows, masked) if not hidden):
        return _by_runs(rows, masked, text, render, special, begin)
    return _by_marks(rows, masked, text, marks, render)


def injected(roles: Sequence[str], render: Render) -> str:
    """What a template writes of its own accord before the first message, such as a system message and the date.

    The message begins at its header: at what the template also writes when others come before it. A message that comes
    first may have none like that; then all before its content is taken for the template's own. Where nothing is to be
    seen the text is empty.

    Args:
        roles: those of the dialogue; its first few are enough.
    """
    rows = [{"role": role, "content": _OTHER if i else PLACE} for i, role in enumerate(roles)]
    while rows and (text := _rendered(rows, render)) is None:  # few templates refuse one message alone
        rows.pop()
    before, place, _ = text.partition(PLACE) if rows else ("", "", "")
    if not place or _OTHER in before:
        return ""
    return before.removesuffix(next(_headers(rows, before, render), ""))


def _headers(rows: Sequence[Row], before: str, render: Render) -> Iterator[str]:
    """The end of ``before`` that the template also writes where other messages come before the first."""
    role = rows[0]["role"]
    for shown in dict.fromkeys((role, "user")):
        for earlier in (["user"], ["user", "assistant"], ["system"]):
            known = [{"role": name, "content": _OTHER} for name in earlier]
            beginning = _rendered(known, render)
            text = _rendered([*known, {**rows[0], "role": shown}, *rows[1:]], render)
            if beginning is None or text is None:
                continue
            later, place, _ = text.partition(PLACE)
            if place and later.endswith(before):
                yield before
            if place and later.startswith(beginning):
                header = later.removeprefix(beginning)
                # A template that refuses a later system message writes its header as it does the user's, or not at all.
                ends = (header, header.lstrip(), header.replace(shown, role))
                yield from (end for end in ends if end.strip() and before.endswith(end))


def _by_marks(rows: Sequence[Row], masked: Sequence[bool], text: str, marks: list[Span], render: Render) -> list[Span]:
    """The marks in the answers that are trained on."""
    answers = [i for i, row in enumerate(rows) if row["role"] == "assistant"]
    if not marks or not any(masked[i] for i in answers):
        return marks
    found, begin = [], 0
    for hidden, run in groupby(answers, key=masked.__getitem__):
        following = answers[answers.index(list(run)[-1]) + 1 :]
        end = _begin_of_marks(rows, following[0], text, marks, render) if following else len(text)
        found += [] if hidden else [(max(begin, mark[0]), min(end, mark[1])) for mark in marks]
        begin = end
    return [mark for mark in found if mark[0] < mark[1]]


def _begin_of_marks(rows: Sequence[Row], index: int, text: str, marks: list[Span], render: Render) -> int:
    """A place before the marks of an answer and behind those of the answers before it."""
    found = _length_of_beginning(rows, index, text, render)
    contents = _contents(rows, index, text, render) if found is None else None
    if contents is not None and rows[index - 1]["role"] == "assistant":
        found = next((begin for begin, end in marks if begin <= contents[1] < end), None)
    elif contents is not None:
        found = contents[0]
    if found is None:
        raise _unknown(rows, index)
    return found


def _by_runs(
    rows: Sequence[Row], masked: Sequence[bool], text: str, render: Render, special: Collection[str], begin: int
) -> list[Span]:
    spans, count = [], 0
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
    found = _length_of_beginning(rows, count, text, render)
    if found is None and rows[count - 1]["role"] == "assistant":
        found = _end_of_answer(rows, count - 1, text, render, special)
    elif found is None and rows[count]["role"] == "assistant":
        contents = _contents(rows, count, text, render)
        found = None if contents is None else contents[1]
    if found is None:
        raise _unknown(rows, count)
    return found


def _length_of_beginning(rows: Sequence[Row], count: int, text: str, render: Render) -> int | None:
    """Where the first ``count`` messages end, if the template writes them as if there were no others."""
    beginning = _rendered(rows[:count], render)
    return len(beginning) if beginning is not None and text.startswith(beginning) else None


def _contents(rows: Sequence[Row], index: int, text: str, render: Render) -> Span | None:
    """Where the contents of a message and of the one before it begin, the earlier one first."""
    before, content = (_begin_of_content(rows, i, text, render) for i in (index - 1, index))
    return None if before is None or content is None or before > content else (before, content)


def _unknown(rows: Sequence[Row], count: int) -> DataError:
    return DataError(
        f"the chat template renders the first {count} of {len(rows)} messages differently when more follow, so "
        "which tokens belong to which message is unknown; train on all messages, or use a template that only "
        "appends or that marks answers with {% generation %}"
    )


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
