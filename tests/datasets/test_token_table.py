"""Tables in files: what is torn, wrong or abandoned is never read and does not stay."""

import json
import os
import time

import numpy as np
import pytest

from torchtune.datasets._token_table import InFolder, Piece, open_table

PIECE = Piece(np.arange(5, dtype=np.int32), np.array([0, 1, 1, 0, 1], dtype=bool), np.array([2, 3]))


def made(folder) -> InFolder:
    sink = InFolder(folder, {"samples": 2})
    sink.add(PIECE)
    return sink


def test_what_was_added_is_read_back(tmp_path):
    made(tmp_path / "one").table()
    found = open_table(tmp_path / "one")
    assert len(found) == 2 and found[1]["tokens"].tolist() == [2, 3, 4] and found[1]["labels"].tolist() == [2, -100, 4]


def overwrite(folder, name: str, content: bytes) -> None:
    size = (folder / name).stat().st_size
    (folder / name).write_bytes((content * size)[:size] if content in (b"\0", b"\1") else content)


@pytest.mark.parametrize("name, content", [
    ("tokens.bin", b"\0"), ("trained.bin", b"\1"), ("ends.bin", b"\0"), ("ends.bin", b""), ("facts.json", b"[]"),
    ("facts.json", b"{"), ("facts.json", b"{}"),
])  # fmt: skip
def test_a_file_of_another_content_is_no_table(name, content, tmp_path):
    made(tmp_path / "one").table()
    overwrite(tmp_path / "one", name, content)
    assert open_table(tmp_path / "one") is None
    assert len(made(tmp_path / "one").table()) == 2  # made anew in its place
    assert len(open_table(tmp_path / "one")) == 2


def test_of_two_that_make_the_same_one_stays(tmp_path):
    first, second = made(tmp_path / "one"), made(tmp_path / "one")
    taken = first.table()
    assert second.table()[1]["tokens"].tolist() == taken[1]["tokens"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_a_killed_run_has_left_is_taken_away(tmp_path):
    for name, hours in (("old", 2), ("new", 0)):
        made(tmp_path / name)
        (hidden,) = tmp_path.glob(f".{name}.*")
        for path in [*hidden.iterdir(), hidden]:
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    made(tmp_path / "one").table()
    assert [path.name.split(".")[1] for path in tmp_path.glob(".*")] == ["new"]


class Full:
    """A file on a disk without room."""

    def __init__(self, *_: object) -> None: ...

    def write(self, _: bytes) -> None:
        raise OSError(28, "No space left on device")

    close = flush = lambda self: self.write(b"")


def test_a_full_disk_is_left_as_it_was(tmp_path):
    sink = made(tmp_path / "one")
    sink._files = dict.fromkeys(sink._files, Full())
    with pytest.raises(OSError):
        sink.add(PIECE)
    sink.discard()
    assert list(tmp_path.iterdir()) == []


def test_facts_are_written_beside(tmp_path):
    made(tmp_path / "one").table()
    assert json.loads((tmp_path / "one" / "facts.json").read_text())["samples"] == 2
