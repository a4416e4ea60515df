"""How far a run is, for a person who watches: a bar on a terminal, now and then a line in a file."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows ``epoch|step|Loss: ...`` for every step; only the main process shows anything.

    Args:
        total: steps of this epoch; ``done``: those finished before.
    """

    def __init__(self, total: int, done: int = 0, *, visible: bool = True) -> None:
        self.total, self.done, self.visible = total, done, visible
        self.tty = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, disable=not (visible and self.tty))
        self.started, self.first, self.last_line = time.monotonic(), done, 0.0

    def step(self, epoch: int, step: int, loss: float) -> None:
        """One step is done. ``epoch`` counts from 1, ``step`` from the start of the run."""
        self.done += 1
        text = f"{epoch}|{step}|Loss: {loss}"
        self.bar.set_description(text, refresh=False)
        self.bar.update(1)
        if self.visible and not self.tty and self._line_is_due():
            elapsed = time.monotonic() - self.started
            pace = elapsed / (self.done - self.first)
            left = tqdm.format_interval(pace * (self.total - self.done))
            print(f"{text}: {self.done}/{self.total} [{pace:.2f}s/it, {left} left]", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self.bar.close()

    def _line_is_due(self) -> bool:
        now = time.monotonic()
        if self.done == self.total or self.done == self.first + 1 or now - self.last_line >= _SECONDS_BETWEEN_LINES:
            self.last_line = now
            return True
        return False
