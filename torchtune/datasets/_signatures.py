"""Files that are not what they are read as, told by their first bytes and by their names."""

import re

from torchtune.datasets._files import kind_of
from torchtune.datasets._records import BOM, UTF8
from torchtune.errors import DataError

LOOKED_AT = 512  # bytes

_SIGNATURES = {
    rb"PAR1\x15": ("Parquet", "set dataset.source: parquet"),
    rb"ARROW1\x00": ("Arrow", "set dataset.source: arrow"),
    rb"\x1f\x8b": ("compressed with gzip", "end its name in .gz"),
    rb"BZh\d1AY&SY": ("compressed with bzip2", "end its name in .bz2"),
    rb"\xfd7zXZ\x00": ("compressed with xz", "end its name in .xz"),
    rb"\x28\xb5\x2f\xfd": ("compressed with zstd", "end its name in .zst"),
    rb"PK\x03\x04": ("a ZIP archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    rb"\xff\xfe|\xfe\xff": ("UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE"),
}


def refuse_other_forms(name: str, kind: str, head: bytes, encoding: str = UTF8) -> None:
    """Raises DataError where a file is surely not what it is read as.

    Args:
        kind: ``json``, ``csv`` or ``text``
        head: its first bytes
    """
    for pattern, (form, advice) in _SIGNATURES.items():
        if re.match(pattern, head):
            raise DataError(f"{name} is {form}, and is read as {kind}: {advice}")
    if b"\x00" in head:
        raise DataError(f"{name} has zero bytes at its beginning, so it is no text, and is read as {kind}")
    if head.startswith(BOM) and encoding != UTF8:
        raise DataError(f"{name} begins with the mark of UTF-8, and dataset.encoding is {encoding}; leave that out")
    named, begin = kind_of(name), head.removeprefix(BOM).lstrip()[:1]
    is_like_json = begin in (b"{", b"[")
    if {kind, named} == {"json", "csv"} and begin and is_like_json == (named == "json"):
        raise DataError(
            f"{name} is read as {kind}, and neither its name nor its content is: set dataset.source: {named}"
        )
