"""SIGTERM and SIGINT as something a loop can look at."""

import signal
import time
from types import FrameType, TracebackType

# A scheduler signals every process of a run, and the launcher passes on what it got: two signals that mean one.
_SECONDS_OF_ONE = 2


class StopSignal:
    """Inside the block, the first SIGTERM or SIGINT is only noted; one that comes some seconds later acts as usual.

    The recipe looks at ``received`` after each step, agrees with the other processes, saves and leaves with 128 and
    the signal's number: 143 for SIGTERM, 130 for SIGINT.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since >= _SECONDS_OF_ONE:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
