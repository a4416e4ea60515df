"""A report as one HTML page that needs nothing else: no script, no font, no file."""

from collections.abc import Iterator
from html import escape

from torchtune.data_report._report import PartReport, Report
from torchtune.data_report._samples import Document, Piece, Sample
from torchtune.data_report._words import bar_label, facts_in_words, steps_in_words

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --quiet: #59636e; --paper: #fff; --line: #d1d9e0;
  --trained: #b7f0c1; --masked: #eceff2; --bar: #4c8dd6; --bad: #cf222e; --warn: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9198a1; --paper: #0d1117; --line: #3d444d;
  --trained: #1c5a2e; --masked: #262c36; --bar: #3b75b8; --bad: #ff7b72; --warn: #d29922 } }
body { color: var(--text); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin-top: 1.5rem } h4 { font-size: 1rem; font-weight: 400; margin: 1rem 0 0 }
p, td, th, li { overflow-wrap: anywhere } .quiet, caption { color: var(--quiet) }
table { border-collapse: collapse; width: 100% } caption { text-align: left }
th { text-align: left; font-weight: 600; vertical-align: top; padding: .2rem 1rem .2rem 0; white-space: nowrap }
td { padding: .2rem 0; width: 100% }
.bars th { text-align: right; font-weight: 400 } .bar { display: inline-block; height: .9rem; background: var(--bar);
  vertical-align: middle; margin-right: .5rem; min-width: 1px }
.sample { font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 0;
  padding: .8rem; border: 1px solid var(--line); border-radius: .4rem }
.t { background: var(--trained) } .m { background: var(--masked) } .s { font-weight: 700 } .e { color: var(--quiet) }
.t, .m { box-shadow: inset -1px 0 var(--paper) } .sample span[title]:hover { outline: 2px solid var(--bar) }
dl { display: grid; grid-template-columns: max-content auto; gap: .3rem 1rem } dd { margin: 0 }
dt span { font: 14px/1.7 ui-monospace, monospace; padding: 0 .3rem }
.edge { border-top: 2px dashed var(--bar); margin-top: 1rem; color: var(--quiet) }
.error { color: var(--bad) } .warn { color: var(--warn) } .label { font-weight: 700 }
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
<p>What the rows of this config become before a model sees them. A text is cut into <b>tokens</b>, pieces that each have
a number. The model reads all tokens of a sample, and learns to write only some of them:</p>
<dl>
<dt><span class="t">trained</span></dt><dd>the model learns to write this</dd>
<dt><span class="m">masked</span></dt><dd>the model only reads this</dd>
<dt><span class="t s">&lt;name&gt;</span> <span class="m s">&lt;name&gt;</span></dt><dd>a special token: it marks a
beginning, a role or an end, and is no text</dd>
</dl>
<p class="quiet">Point at a token to see its number. In a dialogue, the answers should be trained and the questions
masked, unless you want both; the token that ends an answer should be trained too, or the model does not learn to
stop.</p>
"""


def as_page(report: Report) -> str:
    """The whole page."""
    return "".join([_HEAD.format(title=escape(report.config), style=_STYLE), *_body(report), "</body>\n</html>\n"])


def _body(report: Report) -> Iterator[str]:
    yield "<h2>Checks before training</h2>\n"
    yield from _findings(report)
    yield f"<p><b>Steps per epoch:</b> {escape(steps_in_words(report.steps))}.</p>\n"
    for part in report.parts:
        yield f"<h2>{escape(part.name)}</h2>\n<p class='quiet'>{escape(part.source)}</p>\n"
        yield from _counts(part, report.batch_size)
        yield from _bars(part)
        yield "<h3>Samples, token by token</h3>\n" if part.samples else ""
        for sample in part.samples:
            yield from _sample(sample)


def _findings(report: Report) -> Iterator[str]:
    warnings = [str(finding) for finding in report.findings if finding.level != "error"]
    if not report.errors and not warnings:
        yield "<p>Nothing found.</p>\n"
    if report.errors:
        yield "<p>Training would not begin, because of the errors.</p>\n"
    for kind, texts in (("error", report.errors), ("warn", warnings)):
        label = {"error": "Error", "warn": "Warning"}[kind]
        for text in texts:
            yield f"<p><span class='label {kind}'>{label}</span> {'<br>'.join(map(escape, text.splitlines()))}</p>\n"


def _counts(part: PartReport, batch_size: int) -> Iterator[str]:
    yield "<table>\n"
    for name, words in facts_in_words(part.facts, batch_size).items():
        yield f"<tr><th>{name}</th><td>{escape(words)}</td></tr>\n"
    yield "</table>\n"


def _bars(part: PartReport) -> Iterator[str]:
    bars = part.facts.lengths.bars
    most = max(count for *_, count in bars)
    yield "<h3>How long the rows are</h3>\n<table class='bars'><caption>tokens: rows</caption>\n"
    for start, stop, count in bars:
        bar = f"<span class='bar' style='width: {70 * count / most:.1f}%'></span>" if count else ""
        yield f"<tr><th>{bar_label(start, stop)}</th><td>{bar}{count:,}</td></tr>\n"
    yield "</table>\n"


def _sample(sample: Sample) -> Iterator[str]:
    is_pack = len(sample.documents) > 1 or sample.padding
    beside = f": {len(sample.documents)} rows that do not see each other" if is_pack else ""
    yield f"<h4>{escape(sample.title)}{beside}</h4>\n<div class='sample'>"
    for number, document in enumerate(sample.documents):
        yield f"<div class='{'edge' if number else 'quiet'}'>{escape(_about(document))}</div>"
        yield from map(_piece, document.pieces)
    if sample.padding:
        yield f"<div class='edge'>{sample.padding:,} tokens of padding</div>"
    yield "</div>\n"


def _about(document: Document) -> str:
    return f"{document.where}: {document.tokens:,} tokens, {document.trained:,} trained"


def _piece(piece: Piece) -> str:
    what = "trained" if piece.trained else "masked"
    kind = f"{what[0]}{' s' * piece.special}"
    text = escape(piece.text).replace("\n", "<span class='e'>&#8629;</span>\n")
    return f"<span class='{kind}' title='{' '.join(map(str, piece.ids))}, {what}'>{text}</span>"
