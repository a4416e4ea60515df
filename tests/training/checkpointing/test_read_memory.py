"""Reading and writing take the memory of a tensor or two, never of the model."""

import ctypes
import os
import sys

import pytest
import torch

from torchtune.training.checkpointing import FullModelTorchTuneCheckpointer
from torchtune.training.checkpointing._safetensors import Info, write_safetensors
from torchtune.training.checkpointing._torch_file import write_torch_file

COUNT, MEGABYTES = 5, 36  # malloc gives back at once what is larger than 32 MB, so the figures are sharp
SHAPE = (1024, MEGABYTES * 256)
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def in_a_fork(work):
    """Run ``work`` where nothing else was freed before, and give its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for setting, value in ((-1, 128 << 10), (-3, 1 << 20)):  # a recipe that ran here may have changed mallopt's
            ctypes.CDLL(None).mallopt(setting, value)
        os.write(writer, str(work()).encode())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return float(os.read(reader, 100))


def megabytes(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith(field))


def names():
    return {f"layers.{i}.mlp.w2.weight": Info(SHAPE, torch.float32) for i in range(COUNT)}


def tensors():
    return ((name, torch.ones(SHAPE)) for name in names())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_memory(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    (tmp_path / "base").mkdir()
    write_torch_file(tmp_path / "base" / "model.pt", {}, ())  # also loads here what torch loads on first use
    native = {name: torch.empty(SHAPE, device="meta") for name in names()}

    def write():
        before = megabytes("VmHWM")
        if suffix == "safetensors":
            write_safetensors(path, names(), tensors())
        else:
            shapes = {k: (i.shape, i.dtype) for k, i in names().items()}
            FullModelTorchTuneCheckpointer(tmp_path / "base").write(tmp_path, tensors(), shapes)
            (tmp_path / "model-00001-of-00001.pt").rename(path)
        return megabytes("VmHWM") - before

    def read():
        """A mapped file's pages are the kernel's to drop, so only the process's own count there."""
        before, peak, own = megabytes("VmHWM"), 0.0, megabytes("RssAnon")
        for _, tensor in FullModelTorchTuneCheckpointer(path).weights(native):
            assert tensor[0, 0] == 1
            peak = max(peak, megabytes("RssAnon") - own)
        return megabytes("VmHWM") - before if suffix == "safetensors" else peak

    assert in_a_fork(write) < 2.5 * MEGABYTES  # the whole is 5
    assert in_a_fork(read) < 2.5 * MEGABYTES
