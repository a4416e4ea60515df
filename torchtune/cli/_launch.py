"""Starts a recipe in several processes through torchrun, and gives the exit code of what failed first."""

import logging
import os
import signal
import socket
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torchtune.errors import PEER_FAILED, ConfigError
from torchtune.utils.exit_codes import BUG, DONE, INTERRUPTED, TERMINATED, read_records

# A worker may need minutes to write a large checkpoint after SIGTERM; torchrun alone would kill it after 30 seconds.
SHUTDOWN_SECONDS = 900
_LOOPBACK = "127.0.0.1"


def launch(options: Sequence[str], recipe: Path, arguments: Sequence[str]) -> int:
    """Runs the recipe as torchrun's options say and gives the exit code of the whole run on this machine."""
    torchrun = import_module("torch.distributed.run")
    args = _torchrun_arguments(torchrun, options, recipe, arguments)
    with tempfile.TemporaryDirectory(prefix="tune-run-") as folder:
        for_workers = {"TUNE_EXIT_DIR": folder, "TUNE_LAUNCHER": str(os.getpid())}
        os.environ |= for_workers
        try:
            stopped_by, failures = _run(torchrun, args)
        finally:
            for name in for_workers:
                del os.environ[name]
        outcomes = read_records(Path(folder))
    if not stopped_by and not failures:
        return DONE
    return _conclude(outcomes, failures, stopped_by)


def _torchrun_arguments(
    torchrun: ModuleType, options: Sequence[str], recipe: Path, arguments: Sequence[str]
) -> Namespace:
    """torchrun's parsed arguments: the user's, and what a run on one machine needs."""
    parser = torchrun.get_args_parser()
    args = parser.parse_args([*options, str(recipe), *arguments])
    if not (args.module or args.no_python or args.run_path):
        args.module = True
        args.training_script = "torchtune.cli._worker"
        args.training_script_args = [str(recipe), *arguments]
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    _check_counts(torchrun, args)
    _set_rendezvous(args)
    _set_threads(args)
    return args


def _check_counts(torchrun: ModuleType, args: Namespace) -> None:
    try:
        torchrun.parse_min_max_nnodes(args.nnodes)
        torchrun.determine_local_world_size(args.nproc_per_node)
    except (ValueError, RuntimeError) as problem:
        given = f"--nnodes {args.nnodes} --nproc_per_node {args.nproc_per_node}"
        raise ConfigError(f"torchrun cannot start {given}: {problem}") from problem


def _set_rendezvous(args: Namespace) -> None:
    """One machine meets itself on loopback; several need an address that the user gives."""
    named = args.rdzv_endpoint or args.master_addr != _LOOPBACK or args.master_port is not None
    if str(args.nnodes).split(":")[-1] != "1":
        if not named:
            raise ConfigError(
                f"--nnodes {args.nnodes} needs an address where the machines meet: --rdzv-backend c10d "
                "--rdzv-endpoint HOST:29400 --rdzv-id ANY_NAME, the same on each of them."
            )
        return
    if named:
        return
    args.standalone = True
    args.local_addr = args.local_addr or _LOOPBACK
    # The collectives have no authentication: keep their sockets off the network.
    interface = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


def _set_threads(args: Namespace) -> None:
    """Shares the cores between the processes; torchrun alone would give one to each, with a warning."""
    if args.nproc_per_node.isdigit():
        share = (os.cpu_count() or 1) // int(args.nproc_per_node or 1)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def _run(torchrun: ModuleType, args: Namespace) -> tuple[int, Mapping[int, object]]:
    """Runs to the end: the signal that stopped it, or 0, and torchrun's record of each failed rank."""
    child_failed = import_module("torch.distributed.elastic.multiprocessing.errors").ChildFailedError
    signalled = import_module("torch.distributed.elastic.multiprocessing.api").SignalException
    if "LOGLEVEL" not in os.environ:  # torchrun's own account of a failure; ours follows
        _quieten("torch.distributed.elastic")
    try:
        torchrun.run(args)
    except child_failed as error:
        return 0, error.failures
    except signalled as stop:
        print(f"Stopped by {signal.Signals(stop.sigval).name}.", file=sys.stderr)
        return stop.sigval, {}
    return 0, {}


def _quieten(prefix: str) -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(prefix):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _conclude(outcomes: Mapping[int, dict], failures: Mapping[int, object], stopped_by: int = 0) -> int:
    """Prints what failed first and gives its exit code.

    The cause is looked for among errors with a name and processes that something killed, then among bugs; that another
    process is gone, or was told to stop, is what the rest of the run says after it.
    """
    found = [(_weight(outcome["code"]), outcome["time"], rank, outcome) for rank, outcome in outcomes.items()]
    for rank, failure in failures.items():
        if rank not in outcomes:
            outcome = _without_record(failure)
            found.append((outcome["weight"], outcome["time"], rank, outcome))
    if not found:
        print("Stopped before any process had saved its state.", file=sys.stderr)
        return 128 + stopped_by  # as one process would end
    _, _, rank, outcome = min(found, key=lambda entry: entry[:3])
    if outcome["text"]:
        print(f"[rank {rank}] {outcome['text']}", file=sys.stderr, flush=True)
    return outcome["code"]


def _weight(code: int) -> int:
    """How near to the cause an exit code is; less is nearer."""
    if code in (DONE, INTERRUPTED, TERMINATED):
        return {TERMINATED: 3, INTERRUPTED: 3, DONE: 4}[code]
    return {PEER_FAILED: 2, BUG: 1}.get(code, 0)


def _without_record(failure: object) -> dict:
    """The outcome of a process that ended without a word: it was killed, or it is no Python program."""
    code, when = failure.exitcode, failure.timestamp
    if code >= 0:
        return {"weight": _weight(code), "code": code, "time": when, "text": f"ended with exit code {code}."}
    name = signal.Signals(-code).name
    text = f"Process {failure.pid} was killed by {name}."
    if name == "SIGKILL":
        text += (
            " If nobody did that, the machine ran out of memory (see `dmesg`): use fewer processes or a smaller batch."
        )
    weight = 2 if name == "SIGTERM" else 0
    return {"weight": weight, "code": PEER_FAILED, "time": when, "text": text}
