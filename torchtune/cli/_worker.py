"""One process of a run in several: `python -m torchtune.cli._worker recipe arguments...`, started by torchrun."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from torchtune.cli.run import run_here
from torchtune.utils.exit_codes import ending


def main() -> None:
    """Runs the recipe and leaves its outcome where the launcher looks."""
    Path(os.environ["TUNE_EXIT_DIR"], f"{os.environ['RANK']}.json").unlink(missing_ok=True)  # from before a restart
    threading.Thread(target=_stop_with, args=(int(os.environ["TUNE_LAUNCHER"]),), daemon=True).start()
    with ending():
        del sys.path[0]  # the current folder, put first by `-m`; a script's own folder belongs there
        run_here(Path(sys.argv[1]), sys.argv[2:])


def _stop_with(launcher: int) -> None:
    """Stop this process as SIGTERM does when the launcher was killed and could not tell."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
