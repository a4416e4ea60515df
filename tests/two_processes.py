"""Runs a function in two processes that form a world."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from tiny_run import free_port

from torchtune.training.distributed import World, join


def in_two_processes(work: Callable[[World], None], **settings: Any) -> None:
    """Run ``work(world)`` in two forked processes on the CPU; fails if it does in either."""
    port, children = free_port(), []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
                with join(torch.device("cpu"), **settings) as world:
                    work(world)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
