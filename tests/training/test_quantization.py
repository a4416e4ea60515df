"""Quantizers against torchao and transformers, quantised folders as models, and what is refused."""

import sys
from functools import partial

import pytest
import torch
import transformers
from tiny_run import make_model

from torchtune.errors import ConfigError, MissingDependency
from torchtune.models.llama3_2 import llama3_2, lora_llama3_2
from torchtune.training import quantization
from torchtune.training._torchao import take_apart
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.checkpointing.quantised import QuantisedWriter
from torchtune.training.distributed import World
from torchtune.training.model import load_model
from torchtune.training.quantization import load_quantised, make_quantizer, quantisable

CPU = torch.device("cpu")
TOKENS = torch.arange(3, 60).view(3, 19)
SIZES = {"vocab_size": 271, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64}
BUILD = partial(llama3_2, **SIZES, intermediate_dim=128, max_seq_len=320)


def theirs():
    """Our name and arguments -> torchao's config of the same meaning."""
    from torchao import quantization as ao

    eight_four = ao.Int8DynamicActivationIntxWeightConfig
    return {
        ("Int8WeightOnlyQuantizer", ()): ao.Int8WeightOnlyConfig(),
        ("Int8DynActInt8WeightQuantizer", ()): ao.Int8DynamicActivationInt8WeightConfig(),
        ("Int8DynActInt4WeightQuantizer", (32,)): eight_four(
            weight_dtype=torch.int4, weight_granularity=ao.PerGroup(32)
        ),
        ("Float8WeightOnlyQuantizer", ()): ao.Float8WeightOnlyConfig(),
    }


NAMES = (
    ("Int8WeightOnlyQuantizer", ()),
    ("Int8DynActInt8WeightQuantizer", ()),
    ("Int8DynActInt4WeightQuantizer", (32,)),
    ("Float8WeightOnlyQuantizer", ()),
)
parametrize = pytest.mark.parametrize("name, args", NAMES, ids=[name for name, _ in NAMES])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "float")


def quantizer(name, args=()):
    return getattr(quantization, name)(*args)


def load(folder):
    source = FullModelHFCheckpointer(str(folder))
    return load_model(BUILD, source.weights, World(0, 1, CPU), dtype=torch.float32).eval()


def write(folder, target, quantizer):
    source = FullModelHFCheckpointer(str(folder))
    with torch.device("meta"):
        model = BUILD()
    state = model.state_dict()
    target.mkdir()
    writer = QuantisedWriter(source, quantizer.torchao_config(), quantisable(model), CPU)
    writer.write(
        target, source.weights(state), {n: (tuple(state[n].shape), i[1]) for n, i in source.saved_as(state).items()}
    )
    return FullModelHFCheckpointer(str(target))


def quantised_by_torchao(folder, config):
    from torchao.quantization import quantize_

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    quantize_(model, config, lambda layer, name: isinstance(layer, torch.nn.Linear) and name != "lm_head")
    return model


@parametrize
def test_the_folder_has_the_logits_of_torchao_on_transformers_model(folder, tmp_path, name, args):
    expected = quantised_by_torchao(folder, theirs()[name, args])
    model = load_quantised(BUILD, write(folder, tmp_path / "q", quantizer(name, args)), CPU, torch.float32)
    with torch.no_grad():
        assert torch.equal(model(TOKENS), expected(TOKENS).logits)


@parametrize
def test_in_memory_each_weight_is_what_torchao_makes_of_it(folder, name, args):
    from torchao.quantization import quantize_

    model, plain = load(folder), load(folder)
    assert quantizer(name, args).quantize(model) is model
    quantize_(plain.layers, theirs()[name, args])
    assert len(quantisable(plain)) == 14
    for weight in quantisable(plain):
        found, expected = (take_apart(m.get_parameter(weight).data) for m in (model, plain))
        assert found[1] == expected[1]
        assert all(torch.equal(found[0][part], value) for part, value in expected[0].items())
    assert type(model.tok_embeddings.weight.data) is torch.Tensor  # and with it the tied output projection


@pytest.mark.parametrize("name, args", [NAMES[0], NAMES[3]], ids=lambda value: str(value))
def test_in_memory_as_from_the_folder(folder, tmp_path, name, args):
    """Only the rows of queries and keys lie in another order, which rounds sums otherwise."""
    saved = load_quantised(BUILD, write(folder, tmp_path / "q", quantizer(name, args)), CPU, torch.float32)
    made = quantizer(name, args).quantize(load(folder))
    with torch.no_grad():
        torch.testing.assert_close(made(TOKENS), saved(TOKENS), atol=1e-5, rtol=0)


def test_a_cache_of_keys_changes_nothing(folder, tmp_path):
    model = load_quantised(BUILD, write(folder, tmp_path / "q", quantizer(*NAMES[0])), CPU, torch.float32)
    with torch.no_grad():
        whole = model(TOKENS[:1])
        model.setup_caches(1, torch.float32, decoder_max_seq_len=19)
        steps = [model(TOKENS[:1, i : i + 1], input_pos=torch.tensor([[i]])) for i in range(19)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)


def test_loading_takes_no_memory_for_float_weights(folder, tmp_path):
    saved = write(folder, tmp_path / "q", quantizer(*NAMES[0]))
    model = load_quantised(BUILD, saved, CPU, torch.float32)
    parts = [take_apart(model.get_parameter(name).data)[0]["qdata"] for name in quantisable(model)]
    assert {part.dtype for part in parts} == {torch.int8}
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in model.parameters())


def test_sizes_on_the_disk(folder, tmp_path):
    """Of the 73,728 weights in linear layers of 1,216 outputs: bytes for the values, and for scales and zero points."""
    float_bytes = 4 * (271 * 64 + 5 * 64)
    linear, outputs = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64), 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)
    expected = {"Int8WeightOnlyQuantizer": linear + 5 * outputs, "Int8DynActInt4WeightQuantizer": linear * (1 + 5 / 32)}
    for name, args in (NAMES[0], NAMES[2]):
        write(folder, tmp_path / name, quantizer(name, args))
        file = next((tmp_path / name).glob("*.safetensors"))
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        assert file.stat().st_size - header == float_bytes + expected[name]


# What a config may name


def test_torchaos_own_configs_are_quantizers():
    node = {"_component_": "torchao.quantization.Int8WeightOnlyConfig", "set_inductor_config": False}
    made = make_quantizer(node)
    assert made.name == "Int8WeightOnly" and made.torchao_config().set_inductor_config is False
    nested = {"_component_": "torchao.quantization.PerGroup", "group_size": 32}
    made = make_quantizer({"_component_": "torchao.quantization.Int8WeightOnlyConfig", "granularity": nested})
    assert made.torchao_config().granularity.group_size == 32


@parametrize
def test_the_name_is_torchtunes_short_one(name, args):
    modes = {"Int8WeightOnly": "8w", "Int8DynActInt8Weight": "8da8w", "Int8DynActInt4Weight": "8da4w"}
    modes["Float8WeightOnly"] = "f8w"
    made = quantizer(name, args)
    assert made.name == quantization.get_quantizer_mode(made) == modes[name.removesuffix("Quantizer")]


def test_torchtunes_arguments_have_its_defaults():
    eight_four, four = (
        quantizer(n).torchao_config() for n in ("Int8DynActInt4WeightQuantizer", "Int4WeightOnlyQuantizer")
    )
    assert eight_four.weight_granularity.group_size == 256
    assert (four.group_size, four.int4_packing_format) == (128, "tile_packed_to_4d")


def test_what_is_no_quantizer_is_refused():
    with pytest.raises(ConfigError, match="torch.nn.Identity, which is no quantizer; name a class of"):
        make_quantizer({"_component_": "torch.nn.Identity"})


def test_without_torchao_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingDependency, match="pip install 'torchao>=0.18'"):
        make_quantizer({"_component_": "torchtune.training.quantization.Int8WeightOnlyQuantizer"})


# What cannot work


@pytest.mark.parametrize(
    "made, message",
    [
        (("Int8DynActInt4WeightQuantizer", ()), r"groups of 256 do not divide the 64 input channels of "
         r"layers.0.attn.q_proj.weight \(14 of 14 layers\); take groups of 64"),
        (("Int8DynActInt4WeightQuantizer", (128,)), r"\(12 of 14 layers\)"),
        (("Int4WeightOnlyQuantizer", ()), "Int4WeightOnlyConfig needs a GPU, and dtype bf16, and device is cpu"),
        (("Float8DynActFloat8WeightQuantizer", ()), "needs a GPU with float8 arithmetic"),
    ],
)  # fmt: skip
def test_refused_before_there_are_weights(made, message):
    with torch.device("meta"):
        model = BUILD()
    with pytest.raises(ConfigError, match=message):
        quantizer(*made).check(model, CPU)


def test_what_torchao_refuses_is_a_fault_of_the_config(monkeypatch):
    monkeypatch.setattr(quantization, "_NEEDS", {})
    with pytest.raises(ConfigError, match=r"torchao cannot quantise a weight \[64, 64\] of torch.float32 on cpu"):
        quantizer("Int4WeightOnlyQuantizer", (32,)).quantize(BUILD())
    with pytest.raises(MissingDependency, match="mslk"):
        make_quantizer({"_component_": "torchao.quantization.Int4WeightOnlyConfig", "group_size": 32}).quantize(BUILD())


def test_adapters_are_merged_first():
    adapted = lora_llama3_2(["q_proj"], **SIZES, intermediate_dim=128, max_seq_len=320, lora_rank=2, lora_alpha=4)
    with pytest.raises(ConfigError, match="quantize the merged weights"):
        quantizer("Int8WeightOnlyQuantizer").quantize(adapted)


def test_inner_k_tiles_has_one_value():
    with pytest.raises(ConfigError, match="inner_k_tiles is 4, and torchao packs with 8 only"):
        quantization.Int4WeightOnlyQuantizer(inner_k_tiles=4)


@pytest.mark.parametrize(
    "words, message",
    [
        ({"dtype": torch.bfloat16}, "in another dtype; set dtype: fp32"),
        ({"quantizer": ("Int8DynActInt8WeightQuantizer", ())}, "quantised with Int8WeightOnlyConfig.*quantizer: null"),
        ({"build": "adapted"}, "a quantised model has no adapters"),
    ],
)  # fmt: skip
def test_a_config_that_contradicts_the_folder_is_refused(folder, tmp_path, words, message):
    saved = write(folder, tmp_path / "q", quantizer("Int8WeightOnlyQuantizer"))
    adapted = partial(lora_llama3_2, ["q_proj"], lora_rank=2, lora_alpha=4, **BUILD.keywords)
    asked = quantizer(*words["quantizer"]) if "quantizer" in words else quantizer("Int8WeightOnlyQuantizer")
    build = adapted if "build" in words else BUILD
    with pytest.raises(ConfigError, match=message):
        load_quantised(build, saved, CPU, words.get("dtype", torch.float32), asked)
