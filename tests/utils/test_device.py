import subprocess
import sys

import pytest
import torch

from torchtune.errors import ConfigError, DataError
from torchtune.utils import DeviceSupport, batch_to_device, get_device, get_device_support, get_torch_device_namespace


class FakeAccelerator:
    """Stands for torch.cuda on a machine with two devices."""

    def __init__(self):
        self.current = None

    def is_available(self):
        return True

    def device_count(self):
        return 2

    def set_device(self, index):
        self.current = index


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    fake = FakeAccelerator()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_utils_do_not_load_torch():
    code = "import sys, torchtune.utils as u; u.get_world_size_and_rank(); u.get_logger('INFO').info('x')"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


def test_the_backends_and_names_are_torchs():
    assert [m.device_type for m in DeviceSupport] == ["cpu", "cuda", "npu", "xpu", "mps", "hpu"]
    assert DeviceSupport.CUDA.communication_backend == "nccl" and DeviceSupport.from_type("cpu").device_name == "CPU"


def test_cpu_is_taken_without_an_index():
    assert get_device("cpu") == torch.device("cpu") and get_device("cpu").index is None


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_a_machine_without_accelerator_falls_back_to_the_cpu():
    assert get_device_support() is DeviceSupport.CPU and get_torch_device_namespace() is torch.cpu
    assert get_device() == torch.device("cpu")
    with pytest.raises(ConfigError, match="device=cpu"):
        get_device("cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="'gpu' is not known.*cuda"):
        get_device("gpu")


def test_the_device_is_made_current(two_gpus):
    assert get_device() == torch.device("cuda:0") and get_device("cuda:1") == torch.device("cuda:1")
    assert two_gpus.current == 1


def test_local_rank_chooses_the_device(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert get_device("cuda") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="LOCAL_RANK=1"):
        get_device("cuda:0")


@pytest.mark.parametrize("device", ["cuda:2", "cuda:x"])
def test_a_number_that_is_not_there_is_refused(two_gpus, device):
    with pytest.raises(ConfigError, match="cuda"):
        get_device(device)


def test_a_batch_moves_in_place_with_what_is_nested():
    batch = {"tokens": torch.ones(2), "encoder_input": {"images": torch.ones(3)}}
    inner = batch["encoder_input"]
    batch_to_device(batch, torch.device("meta"))
    assert batch["tokens"].is_meta and batch["encoder_input"] is inner and inner["images"].is_meta


def test_what_is_no_tensor_is_named():
    with pytest.raises(DataError, match=r"batch\['lengths'\] is list"):
        batch_to_device({"lengths": [1, 2]}, torch.device("cpu"))
