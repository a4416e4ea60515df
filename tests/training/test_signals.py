"""The first signal is noted; one that comes later acts as it did before."""

import os
import signal

import pytest

from torchtune.training import signals
from torchtune.training.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_is_noted_and_a_later_one_acts(number, monkeypatch):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    acted = []
    signal.signal(number, lambda *_: acted.append("as before"))
    try:
        with StopSignal() as stop:
            assert stop.received is None
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # the same once more, as a launcher passes it on
            assert stop.received == number and not acted
            monkeypatch.setattr(signals, "_SECONDS_OF_ONE", 0)
            os.kill(os.getpid(), number)
            assert acted == ["as before"]
        os.kill(os.getpid(), number)
        assert len(acted) == 2
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
