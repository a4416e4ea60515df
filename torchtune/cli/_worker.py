"""One process of a run in several: `python -m torchtune.cli._worker recipe arguments...`, started by torchrun."""

import os
import sys
from pathlib import Path

from torchtune.cli.run import run_here
from torchtune.utils.exit_codes import ending


def main() -> None:
    """Runs the recipe and leaves its outcome where the launcher looks."""
    Path(os.environ["TUNE_EXIT_DIR"], f"{os.environ['RANK']}.json").unlink(missing_ok=True)  # from before a restart
    with ending():
        del sys.path[0]  # the current folder, put first by `-m`; a script's own folder belongs there
        run_here(Path(sys.argv[1]), sys.argv[2:])


if __name__ == "__main__":
    main()
