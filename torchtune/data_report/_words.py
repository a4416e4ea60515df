"""The counts of a report in words, the same for the terminal and the page."""

from collections.abc import Iterator
from dataclasses import dataclass

from torchtune.data_report._facts import Facts, Packing
from torchtune.data_report._mixture import Mixture, Source
from torchtune.data_report._report import Columns, PartReport, Report, Steps
from torchtune.data_report._samples import Cut, Document, Piece, Sample
from torchtune.data_report._visible import has_hidden, visible

_STRATEGIES = {"best_fit": "best fit", "greedy": "greedy", "split": "end to end"}
_HOW = {
    "best_fit": "by best fit",
    "greedy": "one after the other (greedy)",
    "split": "with texts end to end, cut where a pack is full",
}


@dataclass(frozen=True)
class Filling:
    """How full sequences are.

    Args:
        is_used: whether the config has it so.
    """

    name: str
    sequences: str
    filled: str
    is_used: bool


def counted(count: int, one: str) -> str:
    """As many of something, which has its plural with an s."""
    return f"{count:,} {one}{'s' * (count != 1)}"


def facts_in_words(part: PartReport) -> dict[str, str]:
    """What is counted -> how much it is, in the order in which it is read."""
    facts = part.facts
    words = {"rows": _rows(facts)}
    if facts.packing and facts.packing.used in facts.packing.fills:
        words["samples"] = f"{counted(facts.samples, 'pack')} of {facts.packing.capacity:,} tokens"
    share, lengths = _share(facts.trained, facts.tokens), facts.lengths
    words["tokens"] = f"{facts.tokens:,}, of which {facts.trained:,} ({share}) are trained on"
    words["length"] = (
        f"{lengths.least:,} to {lengths.longest:,} tokens; half of the rows have at most {lengths.median:,}, "
        f"95% at most {lengths.percentile_95:,}"
        if lengths.least < lengths.longest
        else f"all rows have {counted(lengths.longest, 'token')}"
    )
    words["cut"] = _cut(facts)
    if part.columns:
        words["columns"] = _columns(part.columns)
    return words


def packing_in_words(packing: Packing, rows: int, batch_size: int) -> tuple[str, list[Filling]]:
    """How rows are or could be packed; and how full sequences are without it and with it."""
    unpacked = Filling("unpacked", counted(rows, "sample"), f"{packing.unpacked:.1%} filled", packing.used is None)
    fillings = [unpacked]
    for name, fill in packing.fills.items():
        used = name == packing.used
        fillings.append(Filling(_STRATEGIES[name], counted(fill.packs, "pack"), f"{fill.share:.1%} filled", used))
    return _packs(packing, batch_size), fillings


def mixture_in_words(mixture: Mixture) -> str:
    """How long an epoch is, and why."""
    if mixture.samples is None:
        return f"each sample is drawn by weight (mixture_stop: {mixture.stop})"
    until = "ends before a sample would come twice" if mixture.stop == "first_exhausted" else "has every sample"
    kind = "pack" if mixture.is_packed else "sample"
    return f"an epoch is {counted(mixture.samples, kind)} long and {until} (mixture_stop: {mixture.stop})"


def source_in_words(source: Source, is_packed: bool) -> tuple[str, str, str, str]:
    """A dataset of a mixture: its name, weight, share, and how often it comes."""
    share = f"{source.share:.1%}"
    if source.samples is None:
        return source.name, f"weight {source.weight:g}", f"{share} of the samples", ""
    kind = "pack" if is_packed else "sample"
    times = f"each {kind} {_times(source.times)}" if source.times >= 1 else f"{source.times:.1%} of its {kind}s, once"
    return source.name, f"weight {source.weight:g}", f"{counted(source.samples, kind)}, {share}", times


def steps_in_words(report: Report) -> str:
    """How many steps an epoch has, and why."""
    if report.steps is None:
        return _steps_of_stream(report)
    steps: Steps = report.steps
    about = "" if steps.is_exact else "about "
    divided = f"batch_size {steps.batch_size} x gradient_accumulation_steps {steps.gradient_accumulation_steps}"
    limited = f", of which max_steps_per_epoch takes {steps.limit:,}" if steps.limit else ""
    ended = f"; max_steps ends the run after {counted(report.max_steps, 'step')}" if report.max_steps else ""
    return (
        f"{about}{steps.per_epoch:,} in one process: {about}{counted(steps.samples, 'sample')} / ({divided}){limited}; "
        f"with several processes divide by their number{ended}"
    )


def bar_label(start: int, stop: int | None) -> str:
    """The lengths that a bar stands for."""
    return f"{start:,} or more" if stop is None else f"{start:,} - {stop:,}" if stop > start else f"{start:,}"


def bars_of_rows(facts: Facts) -> tuple[list[tuple[int, int | None, int]], int | None]:
    """How long rows are before they are cut, and which bar is the first of rows that are; None where none is."""
    cut = facts.truncation
    if cut is None or not cut.samples:
        return facts.lengths.bars, None
    return cut.bars, next(i for i, (start, *_) in enumerate(cut.bars) if start > cut.limit)


def title_of(sample: Sample) -> str:
    """Which sample it is, and what it is made of where that is no single row."""
    many = len(sample.documents)
    if not is_pack(sample):
        return sample.title
    return f"{sample.title}: {counted(many, 'row')}{' that do not see each other' * (many > 1)}"


def is_pack(sample: Sample) -> bool:
    """Whether it may be made of several rows."""
    return len(sample.documents) > 1 or sample.padding > 0


def about(document: Document) -> str:
    """Where it is from and how long it is."""
    return f"{visible(document.where)}: {counted(document.tokens, 'token')}, {document.trained:,} trained"


def cut_in_words(cut: Cut) -> str:
    """What is missing at the end of a document that was cut."""
    return f"cut here, at {cut.limit:,} tokens (tokenizer.max_seq_len): {counted(cut.tokens, 'token')} of the row lost"


def has_hidden_text(report: Report) -> bool:
    """Whether some sample that is shown has something that is written out."""
    texts = "".join(piece.text for piece in _pieces(report) if not piece.special)
    return has_hidden(texts) or any(name in texts for name in special_names(report))


def special_names(report: Report) -> set[str]:
    """The special tokens of the samples that are shown."""
    return {piece.text for piece in _pieces(report) if piece.special}


def _pieces(report: Report) -> Iterator[Piece]:
    for part in report.parts:
        for document in (document for sample in part.samples for document in sample.documents):
            yield from (piece for piece in document.pieces if isinstance(piece, Piece))


def _rows(facts: Facts) -> str:
    if facts.rows == facts.looked_at:
        return f"{facts.rows:,}, all looked at"
    if facts.rows is None:
        return f"a stream; what follows is about its first {facts.looked_at:,}"
    return f"{facts.rows:,}; what follows is about {facts.looked_at:,} of them, drawn at random (--most)"


def _cut(facts: Facts) -> str:
    cut = facts.truncation
    if cut is None and facts.packing is not None and facts.packing.used == "split":
        return "nothing is lost: texts are cut only where a pack is full"
    if cut is None:
        return "nothing: tokenizer.max_seq_len is null"
    if not cut.samples:
        return f"nothing: no row is longer than {counted(cut.limit, 'token')} (tokenizer.max_seq_len)"
    rows, tokens = _share(cut.samples, facts.looked_at), _share(cut.tokens, facts.tokens + cut.tokens)
    are = "is" if cut.samples == 1 else "are"
    return (
        f"{counted(cut.samples, 'row')} ({rows}) {are} cut at {cut.limit:,} tokens (tokenizer.max_seq_len), "
        f"{cut.within:,} of them within what is trained on; {counted(cut.tokens, 'token')} ({tokens}) are lost"
        + (f", and all of what is to be learnt in {counted(cut.answers, 'row')}" if cut.answers else "")
    )


def _columns(columns: Columns) -> str:
    used, unused = (", ".join(map(visible, names)) for names in (columns.used, columns.unused))
    return f"used: {used}, not used: {unused}" if used else f"not used: {unused}"


def _packs(packing: Packing, batch_size: int) -> str:
    size = packing.capacity
    if packing.used:
        return f"on: packs of {size:,} tokens, {_HOW[packing.used]}"
    if packing.limited_by == "tokenizer.max_seq_len":
        packs = f", packs of {size:,} tokens (tokenizer.max_seq_len)"
    elif packing.limited_by:
        packs = f" and tokenizer.max_seq_len: {size}, which is {packing.limited_by}"
    else:
        packs = f" and tokenizer.max_seq_len, which must be set, for example to {size}"
    cut = f"; {counted(packing.cut, 'row')} would be cut" if packing.cut else ""
    return f"off: batches of {batch_size} are padded. With dataset.packed: True{packs}{cut}"


def _times(times: float) -> str:
    return "once" if times == 1 else f"{times:.1f} times"


def _steps_of_stream(report: Report) -> str:
    if report.max_steps_per_epoch:
        said = f"max_steps_per_epoch ends an epoch after {counted(report.max_steps_per_epoch, 'step')}"
    elif report.max_steps:
        said = f"max_steps ends the run after {counted(report.max_steps, 'step')}"
    else:
        said = "a run of it needs max_steps or max_steps_per_epoch, which say when it ends"
    return f"not known before training, since the dataset is a stream; {said}"


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"
