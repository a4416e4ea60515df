"""Names that look like one that was not found."""

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean ...?` with up to three of the known names, or nothing when none is near."""
    import difflib

    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [long for long in known if name in long][:3]
    return f" Did you mean {' or '.join(near)}?" if near else ""
