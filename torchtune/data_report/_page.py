"""A report as one HTML page that needs nothing else: no script, no font, no file."""

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import PurePath

from torchtune.data_report._mixture import Mixture
from torchtune.data_report._report import PartReport, Report
from torchtune.data_report._samples import Document, Gap, Piece, Sample
from torchtune.data_report._visible import LINE_END, stretches, visible
from torchtune.data_report._words import (
    about,
    bar_label,
    bars_of_rows,
    counted,
    cut_in_words,
    facts_in_words,
    is_pack,
    mixture_in_words,
    packing_in_words,
    source_in_words,
    steps_in_words,
    title_of,
)

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --quiet: #59636e; --paper: #fff; --line: #d1d9e0;
  --trained: #b7f0c1; --edge: #1a7f37; --masked: #eceff2; --bar: #4c8dd6; --bad: #cf222e; --bad-paper: #ffebe9;
  --warn: #9a6700; --warn-paper: #fff8c5; --good-paper: #dafbe1 }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9198a1; --paper: #0d1117; --line: #3d444d;
  --trained: #1c5a2e; --edge: #3fb950; --masked: #262c36; --bar: #3b75b8; --bad: #ff7b72; --bad-paper: #2d1517;
  --warn: #d29922; --warn-paper: #272115; --good-paper: #12261e } }
body { color: var(--text); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; -webkit-text-size-adjust: 100% }
h1 { font-size: 1.6rem; margin-bottom: 0 } h1 + p { margin-top: 0 }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin-top: 1.5rem } h4 { font-size: 1rem; font-weight: 400; margin: 1rem 0 0 }
h1, h2, h4, p, td, th, dd, .box { overflow-wrap: anywhere } .quiet, thead th { color: var(--quiet) }
table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; vertical-align: top; padding: .2rem 1rem .2rem 0; white-space: nowrap }
td { padding: .2rem 0; width: 100%; vertical-align: top } thead th { font-weight: 400 }
.grid { width: auto; margin: .3rem 0 } .grid th { font-weight: 400 } .used, .used th { font-weight: 600 }
.grid td { width: auto; padding-right: .8rem; white-space: nowrap } .grid th { padding-right: .8rem }
@media (max-width: 40rem) { .mixed tr { display: flex; flex-wrap: wrap } }
.bars th { text-align: right; font-weight: 400 } .bars thead td { color: var(--quiet) }
.bar { display: inline-block; height: .9rem; background: var(--bar); vertical-align: middle; margin-right: .5rem;
  min-width: 1px } .lost .bar { opacity: .35 }
.limit th, .limit td { border-top: 2px dashed var(--bad); color: var(--bad); font-size: .9rem }
.box { border: 1px solid var(--line); border-left-width: .3rem; border-radius: .3rem; padding: .6rem .8rem;
  margin: .8rem 0 } .box p { margin: .3rem 0 } .label { font-weight: 700 }
.loses { color: var(--warn) } .bad { color: var(--bad); font-weight: 700 }
.good { background: var(--good-paper); border-color: var(--edge) }
.error { background: var(--bad-paper); border-color: var(--bad) } .error .label { color: var(--bad) }
.warn { background: var(--warn-paper); border-color: var(--warn) } .warn .label { color: var(--warn) }
.box code { display: block; font: 14px/1.6 ui-monospace, monospace; white-space: pre-wrap; margin-top: .3rem }
.sample { font: 14px/1.8 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 0;
  padding: .8rem; border: 1px solid var(--line); border-radius: .4rem } .sample div { unicode-bidi: isolate }
.t { background: var(--trained); border-bottom: 2px solid var(--edge) } .m { background: var(--masked) }
.s { font-weight: 700 } .e { color: var(--quiet) } .h { color: var(--bad); font-style: italic }
.t, .m { box-shadow: inset -1px 0 var(--paper) }
.sample [title]:hover, .sample [title]:focus { outline: 2px solid var(--bar) }
.sample [title]:focus::after { content: " = " attr(title) " "; color: var(--paper); background: var(--bar);
  font-weight: 400; font-style: normal }
dl { display: grid; grid-template-columns: max-content auto; gap: .3rem 1rem } dd { margin: 0 }
dt span { font: 14px/1.7 ui-monospace, monospace; padding: 0 .3rem }
.edge { border-top: 2px dashed var(--bar); margin-top: 1rem; color: var(--quiet) }
.cut { color: var(--bad) } .cut.right { border-top: 2px dashed } .cut.left { border-bottom: 2px dashed }
"""
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data of {title}</title>
<style>{style}</style>
</head>
<body>
<h1>Data of {title}</h1>
<p class="quiet">{path}</p>
"""
_LEGEND = """<h2>How to read the samples</h2>
<p>Training shows the model <b>samples</b>, made of the rows of your data. The text of a sample is cut into
<b>tokens</b>, pieces that each have a number. The model reads all of them, and learns to write those in green:</p>
<dl>
<dt><span class="t">trained</span></dt><dd>the model learns to write this: the loss, the number that training makes
smaller, is about these tokens alone</dd>
<dt><span class="m">masked</span></dt><dd>the model only reads this</dd>
<dt><span class="t s">&lt;name&gt;</span> <span class="m s">&lt;name&gt;</span></dt><dd>a special token: it marks a
beginning, a role or an end, and is no text</dd>
<dt><span class="m h">\\x1b</span></dt><dd>a character that cannot be seen, such as a tab (\\t)</dd>
<dt><span class="m e">&#8629;</span></dt><dd>the end of a line</dd>
</dl>
<p class="quiet">Point at a token, or tap it, to see its number. In a dialogue, the answers should be trained and the
questions masked, unless you want both; the token that ends an answer should be trained too, or the model does not
learn to stop.</p>
"""


def as_page(report: Report) -> str:
    """The whole page."""
    path = PurePath(report.config)
    head = _HEAD.format(title=_safe(path.name), path=_safe(str(path)), style=_STYLE)
    return "".join([head, *_body(report), "</body>\n</html>\n"])


def _body(report: Report) -> Iterator[str]:
    yield "<h2>Checks before training</h2>\n"
    yield from _findings(report)
    yield f"<p><b>Steps per epoch:</b> {escape(steps_in_words(report))}.</p>\n"
    if report.mixture:
        yield from _mixture(report.mixture)
    yield _LEGEND
    for part in report.parts:
        yield f"<h2>{escape(part.name)}</h2>\n<p class='quiet'>{_safe(part.source)}</p>\n"
        yield from _counts(part)
        yield from _bars(part)
        yield from _packing(part, report.batch_size)
        yield "<h3>Samples, token by token</h3>\n" if part.samples else ""
        for sample in part.samples:
            yield from _sample(sample)


def _findings(report: Report) -> Iterator[str]:
    warnings = [str(finding) for finding in report.findings if finding.level != "error"]
    if report.errors:
        many = counted(len(report.errors), "error")
        yield f"<p class='bad'>Training would not begin, because of {many}:</p>\n"
    elif not warnings:
        yield _box("good", "Nothing found", ["No check has anything to say against this data."])
    for kind, label, texts in (("error", "Error", report.errors), ("warn", "Warning", warnings)):
        for text in texts:
            yield _box(kind, label, text.splitlines())
    for text in report.notes:
        yield _box("note", "Note", text.splitlines())


def _box(kind: str, label: str, lines: Iterable[str]) -> str:
    said = "".join(f"<code>{_safe(line.strip())}</code>" if _is_excerpt(line) else f" {_safe(line)}" for line in lines)
    return f"<div class='box {kind}'><span class='label'>{label}</span>{said}</div>\n"


def _is_excerpt(line: str) -> bool:
    return line.startswith("  ")


def _mixture(mixture: Mixture) -> Iterator[str]:
    yield f"<p><b>Mixture:</b> {escape(mixture_in_words(mixture))}.</p>\n<table class='grid mixed'>\n"
    for source in mixture.sources:
        yield _row(source_in_words(source, mixture.is_packed))
    yield "</table>\n"


def _counts(part: PartReport) -> Iterator[str]:
    yield "<table>\n"
    for name, words in facts_in_words(part).items():
        loses = name == "cut" and part.facts.truncation and part.facts.truncation.within
        yield f"<tr><th>{name}</th><td{' class=loses' * bool(loses)}>{escape(words)}</td></tr>\n"
    yield "</table>\n"


def _packing(part: PartReport, batch_size: int) -> Iterator[str]:
    if part.facts.packing is None:
        return
    words, fillings = packing_in_words(part.facts.packing, part.facts.looked_at, batch_size)
    yield f"<h3>Packing</h3>\n<p>It is {escape(words)}.</p>\n<table class='grid'>\n"
    for one in fillings:
        yield _row((one.name, one.sequences, one.filled), one.is_used)
    yield "</table>\n<p class='quiet'>Bold: as it is. What is not filled is padding, which takes time.</p>\n"


def _row(cells: tuple[str, ...], is_used: bool = False) -> str:
    first, *others = map(escape, cells)
    kind = " class='used'" if is_used else ""
    return f"<tr{kind}><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>\n"


def _bars(part: PartReport) -> Iterator[str]:
    bars, first_cut = bars_of_rows(part.facts)
    most = max(count for *_, count in bars)
    is_cut = first_cut is not None
    yield f"<h3>How long the rows are{', before they are cut' * is_cut}</h3>\n<table class='bars'>\n"
    yield "<thead><tr><th>tokens</th><td>rows of this length</td></tr></thead>\n"
    for number, (start, stop, count) in enumerate(bars):
        if number == first_cut:
            limit = part.facts.truncation.limit
            yield f"<tr class='limit'><th></th><td>cut here, at {limit:,} tokens (tokenizer.max_seq_len)</td></tr>\n"
        bar = f"<span class='bar' style='width: {70 * count / most:.1f}%'></span>" if count else ""
        lost = " class='lost'" if is_cut and number >= first_cut else ""
        yield f"<tr{lost}><th>{bar_label(start, stop)}</th><td>{bar}{count:,}</td></tr>\n"
    yield "</table>\n"


def _sample(sample: Sample) -> Iterator[str]:
    yield f"<h4>{escape(title_of(sample))}</h4>\n<div class='sample'>"
    for number, document in enumerate(sample.documents):
        yield from _document(document, "edge" if number else "quiet")
    if is_pack(sample):
        yield f"<div class='edge'>{counted(sample.padding, 'token')} of padding</div>"
    yield "</div>\n"


def _document(document: Document, kind: str) -> Iterator[str]:
    cut = document.cut
    mark = f"<div class='cut {cut.side}'>{escape(cut_in_words(cut))}</div>" if cut else ""
    yield f"<div class='{kind}'>{escape(about(document))}</div>"
    yield mark if cut and cut.side == "left" else ""
    yield "<div>"
    yield from map(_piece, document.pieces)
    yield "</div>"
    yield mark if cut and cut.side == "right" else ""


def _piece(piece: Piece | Gap) -> str:
    if isinstance(piece, Gap):
        return f"<span class='e'> [... {counted(piece.tokens, 'token')} more ...] </span>"
    what = "trained" if piece.trained else "masked"
    kind = f"{what[0]}{' s' * piece.special}"
    text = "".join(
        f"<span class='h'>{stretch}</span>" if is_hidden else escape(stretch)
        for stretch, is_hidden in stretches(piece.text)
    ).replace("\n", f"<span class='e'>{LINE_END}</span>\n")
    return f"<span class='{kind}' title='{' '.join(map(str, piece.ids))}, {what}' tabindex='-1'>{text}</span>"


def _safe(text: str) -> str:
    return escape(visible(text))
