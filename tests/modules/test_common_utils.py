"""Key-value caches for a while, plain weights in state dicts, layer selections."""

import pytest
import torch

from torchtune.models.llama3_2 import llama3_2
from torchtune.modules import common_utils
from torchtune.modules.common_utils import (
    delete_kv_caches,
    disable_kv_cache,
    local_kv_cache,
    reparametrize_as_dtype_state_dict_post_hook,
    slice_str_to_array,
)


@pytest.fixture
def model():
    return llama3_2(
        vocab_size=32, num_layers=2, num_heads=2, num_kv_heads=1, embed_dim=8, max_seq_len=16, intermediate_dim=16
    ).eval()


def local(model):
    return local_kv_cache(model, batch_size=2, device=torch.device("cpu"), dtype=torch.float32, decoder_max_seq_len=9)


def test_local_caches_exist_only_inside(model):
    with local(model):
        assert model.caches_are_enabled() and model.layers[1].attn.kv_cache.k_cache.shape[2] == 9
    assert not model.caches_are_setup() and not model.layers[0].attn.cache_enabled


def test_local_caches_go_also_after_an_error(model):
    with pytest.raises(KeyError), local(model):
        raise KeyError
    assert not model.caches_are_setup()


def test_local_caches_are_refused_beside_others(model):
    model.setup_caches(2, torch.float32)
    with pytest.raises(ValueError, match="already"), local(model):
        pass
    assert model.caches_are_setup()


def test_a_disabled_cache_keeps_what_it_holds(model):
    tokens = torch.arange(6).view(1, 6)
    whole = model(tokens)
    with local(model):
        model(tokens[:, :4])
        with disable_kv_cache(model):
            assert model.caches_are_setup() and not model.caches_are_enabled()
            torch.testing.assert_close(model(tokens), whole)
        assert model.layers[0].attn.kv_cache.size == 4
        torch.testing.assert_close(model(tokens[:, 4:]), whole[:, 4:])


def test_disabling_needs_an_enabled_cache(model):
    with pytest.raises(ValueError, match="no key-value caches"), disable_kv_cache(model):
        pass
    with local(model), disable_kv_cache(model):
        with pytest.raises(ValueError, match="does not nest"), disable_kv_cache(model):
            pass


def test_caches_come_back_after_an_error(model):
    with local(model):
        with pytest.raises(KeyError), disable_kv_cache(model):
            raise KeyError
        assert model.caches_are_enabled()


def test_deleting_needs_caches(model):
    with pytest.raises(ValueError, match="no key-value caches"):
        delete_kv_caches(model)
    model.setup_caches(1, torch.float32)
    delete_kv_caches(model)
    assert not any("cache" in name and "rope" not in name for name, _ in model.named_buffers() if "kv" in name)
    assert not model.caches_are_enabled()


class FourBit(torch.Tensor):
    """Stands for a quantised weight: its plain value is twice what it stores."""

    def get_original_weight(self):
        return self.as_subclass(torch.Tensor) * 2


@pytest.mark.parametrize("low_cpu_ram", [False, True])
def test_quantised_weights_become_plain_and_others_stay(monkeypatch, low_cpu_ram):
    monkeypatch.setattr(common_utils, "_use_low_cpu_ram", low_cpu_ram)
    plain = torch.randn(3)
    state_dict = {"q": torch.arange(6.0).view(2, 3).as_subclass(FourBit), "norm": plain}
    assert reparametrize_as_dtype_state_dict_post_hook(None, state_dict, "prefix.", {}) is None
    assert type(state_dict["q"]) is torch.Tensor and state_dict["q"].dtype == torch.bfloat16
    assert torch.equal(state_dict["q"], (torch.arange(6).view(2, 3) * 2).bfloat16())
    assert state_dict["norm"] is plain
    assert state_dict["q"].untyped_storage().is_shared() == low_cpu_ram


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", {0, 1, 2, 3, 4, 5}),
        (":", {0, 1, 2, 3, 4, 5}),
        ("0,2", {0, 2}),
        (" 1, 5", {1, 5}),
        ("5", {5}),
        ("1:3", {1, 2}),
        ("4:", {4, 5}),
        (":2", {0, 1}),
        ("::2", {0, 2, 4}),
        ("1:6:3", {1, 4}),
        ("3:3", set()),
    ],
)
def test_selections(text, chosen):
    assert slice_str_to_array(text, 6) == [i in chosen for i in range(6)]


@pytest.mark.parametrize("text", ["a", "0,", "0:4:2,5", "1:2:3:4", "::0"])
def test_unreadable_selections(text):
    with pytest.raises(ValueError, match="cannot read the selection"):
        slice_str_to_array(text, 6)


@pytest.mark.parametrize("text", ["6", "-1", "0,7", "1:9", "-2:"])
def test_selections_outside(text):
    with pytest.raises(ValueError, match="does not fit 6 items"):
        slice_str_to_array(text, 6)
