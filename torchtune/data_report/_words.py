"""The counts of a report in words, the same for the terminal and the page."""

from torchtune.data_report._facts import Facts, Packing
from torchtune.data_report._report import Steps

STRATEGIES = {"best_fit": "best fit", "greedy": "greedy packing", "split": "cutting texts where a pack is full"}


def facts_in_words(facts: Facts, batch_size: int) -> dict[str, str]:
    """What is counted -> how much it is, in the order in which it is read."""
    words = {"rows": _rows(facts)}
    if facts.packing and facts.packing.used in facts.packing.fills:
        words["samples"] = f"{_packs(facts.samples)} of {facts.packing.capacity:,} tokens"
    share, lengths = _share(facts.trained, facts.tokens), facts.lengths
    words["tokens"] = f"{facts.tokens:,}, of which {facts.trained:,} ({share}) are trained on"
    words["length"] = (
        f"{lengths.least:,} to {lengths.longest:,} tokens; half of the rows have at most {lengths.median:,}, "
        f"95% at most {lengths.percentile_95:,}"
    )
    words["cut"] = _cut(facts)
    if facts.packing:
        words["packing"] = _packing(facts.packing, batch_size)
    return words


def steps_in_words(steps: Steps | None) -> str:
    """How many steps an epoch has, and why."""
    if steps is None:
        return "not known before training: max_steps or max_steps_per_epoch says when an epoch ends"
    about = "" if steps.is_exact else "about "
    divided = f"batch_size {steps.batch_size} x gradient_accumulation_steps {steps.gradient_accumulation_steps}"
    limited = f", of which max_steps_per_epoch takes {steps.limit:,}" if steps.limit else ""
    return (
        f"{about}{steps.per_epoch:,} in one process: {about}{steps.samples:,} samples / ({divided}){limited}; with "
        "several processes divide by their number"
    )


def bar_label(start: int, stop: int | None) -> str:
    """The lengths that a bar stands for."""
    return f"{start:,} or more" if stop is None else f"{start:,} - {stop:,}" if stop > start else f"{start:,}"


def _rows(facts: Facts) -> str:
    if facts.rows == facts.looked_at:
        return f"{facts.rows:,}, all looked at"
    if facts.rows is None:
        return f"a stream; what follows is about its first {facts.looked_at:,}"
    return f"{facts.rows:,}; what follows is about {facts.looked_at:,} of them, drawn at random (--most)"


def _cut(facts: Facts) -> str:
    cut = facts.truncation
    if cut is None:
        return "nothing: tokenizer.max_seq_len is null"
    if not cut.samples:
        return f"nothing: no row is longer than {cut.limit:,} tokens (tokenizer.max_seq_len)"
    rows, tokens = _share(cut.samples, facts.looked_at), _share(cut.tokens, facts.tokens + cut.tokens)
    return (
        f"{cut.samples:,} rows ({rows}) are longer than {cut.limit:,} tokens (tokenizer.max_seq_len): {cut.tokens:,} "
        f"tokens ({tokens}) are lost, and all of what is to be learnt in {cut.answers:,} rows"
    )


def _packing(packing: Packing, batch_size: int) -> str:
    fills = [
        f"{STRATEGIES[name]}: {_packs(fill.packs)}, {fill.share:.1%} filled"
        for name, fill in sorted(packing.fills.items(), key=lambda item: item[0] != packing.used)
    ]
    if packing.used:
        return f"into {packing.capacity:,} tokens by {'; by '.join(fills)}"
    return (
        f"off: in batches of {batch_size}, {1 - packing.unpacked:.1%} is padding. With packed: True into "
        f"{packing.capacity:,} tokens by {'; by '.join(fills)}"
    )


def _packs(count: int) -> str:
    return f"{count:,} pack{'s' * (count != 1)}"


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"
