"""A report as text for a terminal: with colours, or with marks where there are none."""

import textwrap
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

from torchtune.data_report._mixture import Mixture
from torchtune.data_report._report import PartReport, Report
from torchtune.data_report._samples import Document, Gap, Piece, Sample
from torchtune.data_report._visible import CLOSE, LINE_END, OPEN, stretches, unmistakable, visible
from torchtune.data_report._words import (
    about,
    bar_label,
    bars_of_rows,
    counted,
    cut_in_words,
    facts_in_words,
    has_hidden_text,
    is_pack,
    mixture_in_words,
    packing_in_words,
    source_in_words,
    special_names,
    steps_in_words,
    title_of,
)

_WIDTH = 110
_NARROWEST = 40
_BAR = 40  # characters of the longest
_RESET, _TRAINED, _MASKED, _EDGE, _HIDDEN = "\x1b[0m", "\x1b[32m", "\x1b[90m", "\x1b[36m", "\x1b[35m"
_SPECIAL = "\x1b[1m"


def as_text(report: Report, *, colour: bool, width: int | None = None) -> str:
    """The whole report.

    Args:
        colour: False marks what is trained on with brackets.
        width: of the terminal; None where there is none.
    """
    paint = _Paint(colour, special_names(report))
    return "\n".join([*_Layout(width).report(report), "", *paint.legend(report), *paint.samples(report)])


class _Layout:
    """The counts, in lines that are no longer than the terminal is wide."""

    def __init__(self, width: int | None) -> None:
        self._width = min(max(width or _WIDTH, _NARROWEST), _WIDTH)
        self._is_terminal = width is not None

    def report(self, report: Report) -> Iterator[str]:
        yield f"Data of {report.config}"
        for part in report.parts:
            yield from ("", *self._counts(part, report.batch_size))
        if report.mixture:
            yield from ("", *self._mixture(report.mixture))
        yield from ("", self._fold(f"Steps per epoch: {steps_in_words(report)}", 2), "")
        yield from self._findings(report)

    def _fold(self, text: str, indent: int) -> str:
        return textwrap.fill(text, self._width, subsequent_indent=" " * indent, break_on_hyphens=False)

    def _counts(self, part: PartReport, batch_size: int) -> Iterator[str]:
        yield f"{part.name}: {visible(part.source)}" if part.source else part.name
        facts = part.facts
        for name, words in facts_in_words(part).items():
            yield self._fold(f"  {name:<8} {words}", 11)
        if facts.packing:
            words, fillings = packing_in_words(facts.packing, facts.looked_at, batch_size)
            yield self._fold(f"  {'packing':<8} {words}", 11)
            is_wide = self._width > 60
            rows = [(f.name, f.sequences, f.filled + "  <- as it is" * (f.is_used and is_wide)) for f in fillings]
            yield from _table(rows, indent=11 if is_wide else 0)
        yield from self._bars(part)

    def _bars(self, part: PartReport) -> Iterator[str]:
        bars, first_cut = bars_of_rows(part.facts)
        labels = [bar_label(start, stop) for start, stop, _ in bars]
        most, width = max(count for *_, count in bars), max(map(len, labels))
        longest = min(_BAR, self._width - width - len(f"    {most:,} "))
        yield f"  {'tokens':>{width}}  rows"
        for number, (label, (_, _, count)) in enumerate(zip(labels, bars)):
            if number == first_cut:
                yield f"  {'-' * width}  cut at {part.facts.truncation.limit:,}"
            yield f"  {label:>{width}}  {'#' * -(-count * longest // most) + ' ' * bool(count)}{count:,}"

    def _mixture(self, mixture: Mixture) -> Iterator[str]:
        yield self._fold(f"Mixture: {mixture_in_words(mixture)}", 2)
        rows = _table([source_in_words(source, mixture.is_packed) for source in mixture.sources], indent=2)
        yield from (self._fold(row, 4) for row in rows)

    def _findings(self, report: Report) -> Iterator[str]:
        warnings = [str(finding) for finding in report.findings if finding.level != "error"]
        found = [("error", report.errors), ("warning", warnings), ("note", report.notes)]
        if not report.errors and not warnings:
            yield "Checks before training: nothing found"
        else:
            yield "Checks before training:"
        for kind, texts in found:
            for text in texts:
                yield from self._finding(kind, text)

    def _finding(self, kind: str, text: str) -> Iterator[str]:
        first, *others = visible_lines(text)
        for line in (f"  {kind:<7} {first}", *(" " * 8 + other for other in others)):
            yield self._fold(line, 10) if self._is_terminal else line


def visible_lines(text: str) -> list[str]:
    """The lines of a message, without characters that a terminal would obey."""
    return [visible(line) for line in text.split("\n")]


def _table(rows: list[tuple[str, ...]], indent: int) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield (" " * indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths))).rstrip()


class _Paint:
    """Samples in colours, or between marks."""

    def __init__(self, colour: bool, names: Collection[str]) -> None:
        self._colour, self._names = colour, names

    def legend(self, report: Report) -> Iterator[str]:
        pieces = [Piece("trained on", [], True, False), Piece("read only (masked)", [], False, False)]
        looks = " and ".join(self._pieces([piece]) for piece in pieces)
        yield f"Samples: {looks}; <|names|> like these are special tokens; {LINE_END} is the end of a line"
        if has_hidden_text(report):
            own = "" if self._colour else r"; \\x1b is the text's own \x1b"
            yield f"  {self._written(chr(27))} and the like: a character that cannot be seen, or is a mark here{own}"

    def samples(self, report: Report) -> Iterator[str]:
        for part in report.parts:
            for sample in part.samples:
                yield from ("", *self._sample(part, sample))

    def _sample(self, part: PartReport, sample: Sample) -> Iterator[str]:
        if not is_pack(sample):
            [document] = sample.documents
            yield from self._document(document, f"{part.name}, {title_of(sample)}: ")
            return
        yield self._edge(f"=== {part.name}, {title_of(sample)}")
        for document in sample.documents:
            yield from self._document(document)
        yield self._edge(f"--- {counted(sample.padding, 'token')} of padding")

    def _document(self, document: Document, title: str = "") -> Iterator[str]:
        yield self._edge(f"--- {title}{about(document)}")
        cut = [self._edge(f"--- {cut_in_words(document.cut)}")] if document.cut else []
        text = [self._pieces(document.pieces)]
        yield from cut + text if document.cut and document.cut.side == "left" else text + cut

    def _edge(self, text: str) -> str:
        return f"{_EDGE}{text}{_RESET}" if self._colour else text

    def _pieces(self, pieces: Iterable[Piece | Gap]) -> str:
        return "".join(
            self._stretch(list(run), trained) for trained, run in groupby(pieces, key=lambda piece: piece.trained)
        )

    def _stretch(self, pieces: list[Piece | Gap], trained: bool) -> str:
        if self._colour:
            return "".join(map(self._painted, pieces))
        text = "".join(self._plain(kind, run) for kind, run in groupby(pieces, key=_kind))
        return f"{OPEN}{text}{CLOSE}" if trained else text

    def _plain(self, kind: str, pieces: Iterable[Piece | Gap]) -> str:
        if kind == "gap":
            return "".join(map(_gap, pieces))
        text = "".join(piece.text for piece in pieces)
        return text if kind == "special" else unmistakable(text, self._names).replace("\n", f"{LINE_END}\n")

    def _painted(self, piece: Piece | Gap) -> str:
        if isinstance(piece, Gap):
            return self._edge(_gap(piece))
        look = f"{_SPECIAL * piece.special}{_TRAINED if piece.trained else _MASKED}"
        return "".join(
            f"{_HIDDEN if is_hidden else look}{stretch}{_RESET}".replace("\n", f"{LINE_END}\n")
            for stretch, is_hidden in stretches(piece.text)
        )

    def _written(self, letter: str) -> str:
        return f"{_HIDDEN}{visible(letter)}{_RESET}" if self._colour else visible(letter)


def _gap(gap: Gap) -> str:
    return f" [... {counted(gap.tokens, 'token')} more ...] "


def _kind(piece: Piece | Gap) -> str:
    if isinstance(piece, Gap):
        return "gap"
    return "special" if piece.special else "text"
