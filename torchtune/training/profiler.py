"""torch.profiler set up from a config's flat keys, writing what it finds into one folder per cycle."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch.profiler import ProfilerActivity, profile, schedule

from torchtune.errors import ConfigError
from torchtune.utils import get_world_size_and_rank, log_rank_zero

logger = logging.getLogger(__name__)

PROFILER_KEY = "profiler"
DEFAULT_PROFILER_ACTIVITIES = {ProfilerActivity.CPU, ProfilerActivity.CUDA, ProfilerActivity.XPU}
DEFAULT_SCHEDULE: dict[str, int] = {"wait_steps": 5, "warmup_steps": 5, "active_steps": 2, "num_cycles": 1}
DEFAULT_TRACE_OPTS: dict[str, bool] = {
    "profile_memory": False,
    "with_stack": False,
    "record_shapes": True,
    "with_flops": False,
}
DEFAULT_PROFILE_DIR = "profiler_output"

# The least that each may be; num_cycles 0 repeats to the end: https://docs.pytorch.org/docs/stable/profiler.html
_LEAST = {"wait_steps": 0, "warmup_steps": 0, "active_steps": 1, "num_cycles": 0}
_TABLE_ROWS = 50


class DummyProfiler:
    """Has a profiler's methods and does nothing, so that a loop needs no test of whether it is profiled."""

    def __enter__(self) -> "DummyProfiler":
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""


def setup_torch_profiler(
    enabled: bool = False,
    cpu: bool = True,
    cuda: bool = True,
    xpu: bool = True,
    hpu: bool = False,
    profile_memory: bool = DEFAULT_TRACE_OPTS["profile_memory"],
    with_stack: bool = DEFAULT_TRACE_OPTS["with_stack"],
    record_shapes: bool = DEFAULT_TRACE_OPTS["record_shapes"],
    with_flops: bool = DEFAULT_TRACE_OPTS["with_flops"],
    wait_steps: int | None = None,
    warmup_steps: int | None = None,
    active_steps: int | None = None,
    num_cycles: int | None = None,
    output_dir: str | None = None,
) -> tuple[profile | DummyProfiler, DictConfig]:
    """The profiler, to be stepped once per optimizer step, and the settings that it ended up with.

    Each cycle writes ``<output_dir>/iteration_<step>/`` with, for each process, a trace for Perfetto or TensorBoard, a
    table of the costliest operations, and what ``with_stack`` and ``profile_memory`` add.

    Args:
        cpu: record this kind of activity; a kind that this machine lacks is passed over. So ``cuda``, ``xpu``, ``hpu``.
        profile_memory: also write memory over time, which switches ``with_stack`` and ``record_shapes`` on.
        wait_steps: steps of each cycle to leave out, then ``warmup_steps`` to trace and discard, then ``active_steps``
            to keep; ``num_cycles`` 0 goes on to the end. None is the value in ``DEFAULT_SCHEDULE``.
        output_dir: None is ``DEFAULT_PROFILE_DIR`` in the current folder.

    Raises:
        ConfigError: a step count is out of its range, or no kind of activity is left.
    """
    if not enabled:
        log_rank_zero(logger, "Profiling disabled.")
        return DummyProfiler(), DictConfig({"enabled": False})
    if profile_memory and not (with_stack and record_shapes):
        log_rank_zero(logger, "profile_memory needs with_stack and record_shapes: they are switched on.")
        with_stack = record_shapes = True
    steps = _schedule(
        wait_steps=wait_steps, warmup_steps=warmup_steps, active_steps=active_steps, num_cycles=num_cycles
    )
    options = {
        "profile_memory": profile_memory,
        "with_stack": with_stack,
        "record_shapes": record_shapes,
        "with_flops": with_flops,
    }
    wanted = {"cpu": cpu, "cuda": cuda, "xpu": xpu, "hpu": hpu}
    folder = Path(output_dir or DEFAULT_PROFILE_DIR)
    profiler = profile(
        activities=_activities(wanted),
        schedule=schedule(
            wait=steps["wait_steps"],
            warmup=steps["warmup_steps"],
            active=steps["active_steps"],
            repeat=steps["num_cycles"],
        ),
        on_trace_ready=lambda profiler: _write(profiler, folder, **options),
        **options,
    )
    return profiler, DictConfig({"enabled": True, "output_dir": str(folder), **wanted, **options, **steps})


def _schedule(**given: int | None) -> dict[str, int]:
    missing = {name: DEFAULT_SCHEDULE[name] for name, value in given.items() if value is None}
    if missing:
        defaults = ", ".join(f"{name} = {value}" for name, value in missing.items())
        log_rank_zero(logger, f"Profiler schedule: defaulting to {defaults}")
    steps = {**given, **missing}
    for name, value in steps.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name]:
            raise ConfigError(f"profiler.{name} is {value!r}; a whole number of at least {_LEAST[name]} was expected")
    return steps


def _activities(wanted: dict[str, bool]) -> list[ProfilerActivity]:
    available = {activity.name.lower(): activity for activity in torch.profiler.supported_activities()}
    chosen = [available[name] for name, is_wanted in wanted.items() if is_wanted and name in available]
    if not chosen:
        raise ConfigError(
            f"the profiler is enabled, but nothing is left to record: this machine has {', '.join(sorted(available))}; "
            "set one of these to True in the config's profiler section, or enabled to False"
        )
    return chosen


def _write(profiler: profile, folder: Path, *, profile_memory: bool, with_stack: bool, **_: bool) -> None:
    _, rank = get_world_size_and_rank()
    target = folder / f"iteration_{profiler.step_num}"
    target.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(target / f"rank{rank}.{time.time_ns()}.pt.trace.json.gz"))
    if with_stack:
        profiler.export_stacks(str(target / f"rank{rank}_stacks.txt"), _sort_key(profiler))
    if profile_memory:
        _write_memory_timeline(profiler, target / f"rank{rank}_memory_timeline.json.gz")
    averages = profiler.key_averages()
    table = averages.table(sort_by=_sort_key(profiler), row_limit=_TABLE_ROWS)
    (target / f"rank{rank}_key_averages.txt").write_text(table)
    log_rank_zero(logger, f"Profile of step {profiler.step_num} is in {target}")


def _sort_key(profiler: profile) -> str:
    return f"self_{profiler.use_device or 'cpu'}_time_total"


def _write_memory_timeline(profiler: profile, path: Path) -> None:
    # Deprecated in torch, whose replacement records CUDA only; this one also works on a CPU.
    if hasattr(profiler, "export_memory_timeline"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            profiler.export_memory_timeline(str(path))
