"""A bar on a terminal; off it whole lines, few of them."""

import io

import pytest

from torchtune.training import progress
from torchtune.training.progress import ProgressDisplay


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch):
    """Puts a stream in the place of stderr; called in the test, since pytest sets stderr anew before it."""

    def put(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return put


def test_a_bar_has_torchtunes_shape(show):
    screen = show(Screen())
    display = ProgressDisplay(4, 1)
    for step in (2, 3, 4):
        display.step(1, step, 1.5)
    display.close()
    last = screen.getvalue().rstrip().split("\r")[-1]
    assert last.startswith("1|4|Loss: 1.5: 100%|") and "4/4 [" in last


def test_off_a_terminal_the_first_the_last_and_one_in_a_while(show, monkeypatch):
    screen = show(io.StringIO())
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    display = ProgressDisplay(30)
    for step in range(1, 31):
        clock[0] += 1
        display.step(2, step, 0.5)
    display.close()
    lines = screen.getvalue().splitlines()
    assert "\r" not in screen.getvalue()
    assert [line.split("|")[1] for line in lines] == ["1", "11", "21", "30"]
    assert lines[1] == "2|11|Loss: 0.5: 11/30 [1.00s/it, 00:19 left]"


@pytest.mark.parametrize("kind", [io.StringIO, Screen])
def test_a_process_that_is_not_the_first_is_silent(show, kind):
    screen = show(kind())
    display = ProgressDisplay(1, visible=False)
    display.step(1, 1, 0.0)
    display.close()
    assert screen.getvalue() == ""
