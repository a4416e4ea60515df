"""Whether a fresh interpreter does its work quickly and without heavy libraries, also on a machine that is slow now."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).parents[1]
HEAVY = {"torch", "numpy", "datasets", "safetensors", "transformers", "huggingface_hub"}
REPORT = """
import resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""
COMMAND = """
import sys
from torchtune.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def check_light(script: str, arguments: Sequence[str] = (), cwd: Path | None = None) -> str:
    """Runs a script and gives what it printed, having asserted that it loads nothing heavy and takes little CPU time.

    Little is a fifth of a second, which is two imports of omegaconf on a quick machine. Where the machine is slow or
    others use it, the best of ten runs may take as long as three imports beside it.
    """
    times, imports = [], []
    for _ in range(10):  # the first one may have to compile
        printed, seconds, loaded = _run(script, arguments, cwd)
        assert not loaded & HEAVY
        times.append(seconds)
        imports.append(_run("import omegaconf", (), None)[1])
        if min(times) < max(0.2, 3 * min(imports)):
            return printed
    raise AssertionError(f"CPU seconds: {times}; importing omegaconf alone took {imports}")


def _run(script: str, arguments: Sequence[str], cwd: Path | None) -> tuple[str, float, set[str]]:
    command = [sys.executable, "-c", script + REPORT, *arguments]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, *modules = done.stderr.splitlines()[-1].split()
    return done.stdout, float(seconds), set(modules)
