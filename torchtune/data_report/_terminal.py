"""A report as text for a terminal: with colours, or with marks where there are none."""

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from torchtune.data_report._report import PartReport, Report
from torchtune.data_report._samples import Document, Piece, Sample
from torchtune.data_report._words import bar_label, facts_in_words, steps_in_words

_WIDTH = 110
_BAR = 40  # characters of the longest
_SHOWN = 120  # tokens at each end of a long stretch
_RESET, _TRAINED, _MASKED, _EDGE = "\x1b[0m", "\x1b[32m", "\x1b[90m", "\x1b[36m"
_SPECIAL = "\x1b[1m"
_OPEN, _CLOSE = "\u27e6", "\u27e7"  # ⟦ and ⟧, which hardly any text has
_LINE_END = "\u21b5"  # ↵


def as_text(report: Report, *, colour: bool) -> str:
    """The whole report.

    Args:
        colour: False marks what is trained on with brackets.
    """
    paint = _Paint(colour)
    lines = [f"Data of {report.config}"]
    for part in report.parts:
        lines += ["", *_counts(part, report.batch_size)]
    steps = textwrap.fill(f"Steps per epoch: {steps_in_words(report.steps)}", _WIDTH, subsequent_indent="  ")
    lines += ["", steps, "", *_findings(report), "", paint.legend]
    for part in report.parts:
        for sample in part.samples:
            lines += ["", *_sample(part, sample, paint)]
    return "\n".join(lines)


def _counts(part: PartReport, batch_size: int) -> Iterator[str]:
    yield f"{part.name}: {part.source}" if part.source else part.name
    for name, words in facts_in_words(part.facts, batch_size).items():
        yield textwrap.fill(f"  {name:<8} {words}", _WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False)
    bars = part.facts.lengths.bars
    most, width = max(count for *_, count in bars), max(len(bar_label(start, stop)) for start, stop, _ in bars)
    yield f"  {'tokens':>{width}}  rows"
    for start, stop, count in bars:
        yield f"  {bar_label(start, stop):>{width}}  {'#' * -(-count * _BAR // most) + ' ' * bool(count)}{count:,}"


def _findings(report: Report) -> Iterator[str]:
    found = [str(finding) for finding in report.findings]
    if not found and not report.errors:
        yield "Checks before training: nothing found"
        return
    yield "Checks before training:"
    for text in [*report.errors, *(text for text in found if text not in report.errors)]:
        yield f"  {'error  ' if text in report.errors else 'warning'} {text.replace(chr(10), chr(10) + ' ' * 8)}"


def _sample(part: PartReport, sample: Sample, paint: "_Paint") -> Iterator[str]:
    first = sample.documents[0]
    if len(sample.documents) == 1 and not sample.padding:
        yield paint.edge(f"--- {part.name}, {sample.title}: {_about(first)}")
        yield paint.pieces(first.pieces)
        return
    yield paint.edge(f"=== {part.name}, {sample.title}: {len(sample.documents)} rows that do not see each other")
    for document in sample.documents:
        yield paint.edge(f"--- {_about(document)}")
        yield paint.pieces(document.pieces)
    yield paint.edge(f"--- {sample.padding:,} tokens of padding")


def _about(document: Document) -> str:
    return f"{document.where}: {document.tokens:,} tokens, {document.trained:,} trained"


class _Paint:
    """Text in colours, or between marks."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    @property
    def legend(self) -> str:
        pieces = [Piece("trained on", [], True, False), Piece("read only (masked)", [], False, False)]
        looks = " and ".join(self.pieces([piece]) for piece in pieces)
        return f"Samples: {looks}; <|names|> like these are special tokens; {_LINE_END} is the end of a line"

    def edge(self, text: str) -> str:
        return f"{_EDGE}{text}{_RESET}" if self._colour else text

    def pieces(self, pieces: Iterable[Piece]) -> str:
        return "".join(
            self._stretch(list(run), trained) for trained, run in groupby(pieces, key=lambda piece: piece.trained)
        )

    def _stretch(self, pieces: list[Piece], trained: bool) -> str:
        left_out = len(pieces) - 2 * _SHOWN
        if left_out > _SHOWN:
            note = Piece(f" [... {left_out:,} tokens more ...] ", [], trained, False)
            pieces = [*pieces[:_SHOWN], note, *pieces[-_SHOWN:]]
        if not self._colour:
            text = "".join(printable(piece.text) for piece in pieces)
            return f"{_OPEN}{text}{_CLOSE}" if trained else text
        colour = _TRAINED if trained else _MASKED
        return "".join(f"{_SPECIAL * piece.special}{colour}{printable(piece.text)}{_RESET}" for piece in pieces)


def printable(text: str) -> str:
    """The text with line ends to be seen, and without characters that a terminal would obey."""
    visible = (letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    return "".join(visible).replace("\n", f"{_LINE_END}\n")
