import pytest
import torch
from torch import nn

from torchtune.errors import ConfigError
from torchtune.training import precision
from torchtune.training.precision import (
    PRECISION_STR_TO_DTYPE,
    get_dtype,
    set_default_dtype,
    validate_expected_param_dtype,
)


def test_each_name_gives_its_dtype():
    cpu = torch.device("cpu")
    assert {name: get_dtype(name, cpu) for name in PRECISION_STR_TO_DTYPE} == {
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "fp64": torch.float64,
    }
    assert get_dtype() is torch.float32


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="dtype 'bfloat16' is not one of fp16, bf16"):
        get_dtype("bfloat16")


def test_bf16_is_refused_where_it_is_missing_but_not_on_a_cpu(monkeypatch):
    monkeypatch.setattr(precision, "verify_bf16_support", lambda: False)
    with pytest.raises(ConfigError, match="dtype=fp32"):
        get_dtype("bf16", torch.device("cuda"))
    assert get_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    assert get_dtype("fp16", torch.device("cuda")) is torch.float16


def test_the_default_dtype_comes_back_also_after_an_error():
    with set_default_dtype(torch.bfloat16):
        assert nn.Linear(1, 1).weight.dtype is torch.bfloat16
    with pytest.raises(RuntimeError), set_default_dtype(torch.float64):
        raise RuntimeError
    assert torch.get_default_dtype() is torch.float32


def test_a_parameter_of_another_dtype_is_named():
    model = nn.ModuleDict({"proj": nn.Linear(1, 1), "norm": nn.LayerNorm(1)})
    model["proj"].bfloat16()
    validate_expected_param_dtype(model.named_parameters(), torch.bfloat16, exclude_param_names=["norm"])
    with pytest.raises(ConfigError, match="norm.weight is torch.float32, but torch.bfloat16"):
        validate_expected_param_dtype(model.named_parameters(), torch.bfloat16)
