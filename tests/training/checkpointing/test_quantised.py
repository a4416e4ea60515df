"""Folders of quantised weights against transformers, which writes and reads the same form."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.training._torchao import put_together, take_apart
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.checkpointing.quantised import QuantisedFiles, QuantisedReader, QuantisedWriter
from torchtune.training.quantization import quantisable

CPU = torch.device("cpu")


def configs():
    """Every kind whose kernels a CPU has, as torchao spells it."""
    from torchao import quantization as ao

    return {
        "int8": ao.Int8WeightOnlyConfig(),
        "int8 groups": ao.Int8WeightOnlyConfig(granularity=ao.PerGroup(16)),
        "int8 activations": ao.Int8DynamicActivationInt8WeightConfig(),
        "int4 and int8 activations": ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=ao.PerGroup(16)
        ),
        "int4": ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(16)),
        "float8": ao.Float8WeightOnlyConfig(),
    }


KINDS = ("int8", "int8 groups", "int8 activations", "int4 and int8 activations", "int4", "float8")


def write(folder, kind, dtype=torch.float32, **options):
    """The folder's model, quantised, in a new folder beside it."""
    source = FullModelHFCheckpointer(folder)
    with torch.device("meta"):
        model = family_of(source.config).build(source.config)
    state, target = model.state_dict(), folder.with_name("quantised")
    writer = QuantisedWriter(source, configs()[kind], quantisable(model), CPU)
    shapes = {name: (tuple(state[name].shape), dtype) for name in source.saved_as(state)}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    writer.write(target, source.weights(state), shapes, **options)
    return target


def theirs(folder, **words):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **words).eval()


def quantised_by_them(folder, kind, dtype=torch.float32):
    about = transformers.TorchAoConfig(configs()[kind])
    return theirs(folder, dtype=dtype, quantization_config=about)


def contents(folder):
    """Names, tensors and header of all weight files."""
    tensors, header = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
            header |= file.metadata()
    return tensors, {name: text for name, text in header.items() if "." in name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype, tied", [(torch.bfloat16, True), (torch.float32, False)])
def test_the_files_are_those_that_transformers_writes(llamas, kind, dtype, tied):
    folder = llamas.folder(tie_word_embeddings=tied)
    model = quantised_by_them(folder, kind, dtype)
    model.save_pretrained(folder.with_name("theirs"))
    ours = write(folder, kind, dtype)
    (tensors, header), (expected, expected_header) = contents(ours), contents(folder.with_name("theirs"))
    assert expected_header.pop("lm_head.weight") == '{"_type": "Tensor"}'
    assert header.pop("lm_head.weight", None) is None if tied else header.pop("lm_head.weight")
    assert header == expected_header
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    config, theirs_config = (json.loads((f / "config.json").read_text()) for f in (ours, folder.with_name("theirs")))
    assert config["quantization_config"].items() <= theirs_config["quantization_config"].items()
    assert config["dtype"] == theirs_config["dtype"] == str(dtype).removeprefix("torch.")
    assert (ours / "tokenizer.json").is_file() and (ours / "LICENSE.txt").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_folder_of_several_files(llamas, kind):
    folder = llamas.folder(tie_word_embeddings=False)
    ours = write(folder, kind, max_shard_size=4000)
    assert len(list(ours.glob("*.safetensors"))) > 3
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(theirs(ours)(tokens).logits, quantised_by_them(folder, kind)(tokens).logits)


def test_every_header_alone_is_one_that_torchao_knows(llamas):
    from torchao.prototype.safetensors.safetensors_utils import is_metadata_torchao

    for path in write(llamas.folder(), "int8", max_shard_size=4000).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert is_metadata_torchao({k: v for k, v in file.metadata().items() if k != "format"})


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_wrote_is_read_bit_for_bit(llamas, kind):
    folder = llamas.folder(tie_word_embeddings=False)
    model = quantised_by_them(folder, kind)
    saved = folder.with_name("theirs")
    model.save_pretrained(saved)
    reader = QuantisedReader(FullModelHFCheckpointer(saved))
    expected = model.state_dict()
    names = family_of(reader.config).hf
    read = dict(reader.weights(llamas.native(folder)))
    assert len(read) == len(expected)
    for write_ in names.plan_write(read, head_dim=None):
        found, tensor = read[write_.natives[0]], expected[write_.foreign]
        assert type(found) is type(tensor.data)
        if type(found) is not torch.Tensor:
            (parts, text), (their_parts, their_text) = take_apart(found), take_apart(tensor.data)
            assert text == their_text
            assert all(torch.equal(parts[part], value) for part, value in their_parts.items())
        else:
            assert torch.equal(found, tensor)


def test_rows_of_a_quantised_tensor(llamas):
    folder = write(llamas.folder(), "int4")
    name = "model.layers.0.mlp.up_proj.weight"
    files = QuantisedFiles(sorted(folder.glob("*.safetensors")))
    whole, rows = files.read(name), files.read(name, (16, 48))
    assert files.infos[name].shape == (48, 32) and files.infos[name].dtype == torch.float32
    assert torch.equal(rows.dequantize(), whole.dequantize()[16:])


def test_what_only_a_gpu_computes_with_is_taken_apart_and_put_together():
    from torchao import quantization as ao

    codes, scales = torch.randint(0, 99, (8, 8, 32, 4), dtype=torch.int32), torch.rand(8, 64, 2, dtype=torch.bfloat16)
    packed = ao.Int4TilePackedTo4dTensor(codes, scales, [1, 128], torch.Size([64, 1024]))
    parts, text = take_apart(packed)
    assert torch.equal(parts["qdata"], codes) and torch.equal(parts["scale_and_zero"], scales)
    again = put_together({part: tensor.to("meta") for part, tensor in parts.items()}, text)
    assert type(again) is type(packed)
    assert (again.shape, again.dtype, again.block_size) == ((64, 1024), torch.bfloat16, [1, 128])


@pytest.mark.parametrize("about", [{"quant_method": "torchao"}, {"quant_method": "gptq", "bits": 4}])
def test_quantised_weights_are_not_taken_for_others(llamas, about):
    folder = llamas.folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
    with pytest.raises(CheckpointError, match=f"are quantised \\({about['quant_method']}\\).*made from"):
        list(FullModelHFCheckpointer(folder).weights(llamas.native(folder)))


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("no JSON", "not a tensor's"),
        ('{"_type": "Int8Tensor"}', "not a tensor's"),
        ('{"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": ["qdata", "other"]}', "other, which no file has"),
        ('{"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": ["qdata", "scale"]}', "damaged"),
        ('{"_type": "os.system", "_data": "true", "_tensor_data_names": ["qdata"]}', "damaged"),
        ('{"_type": "PerRow", "_data": {"dim": 0}, "_tensor_data_names": ["qdata"]}', "damaged"),
        ('{"_type": "Int8Tensor", "_data": {"dtype": {"_type": "torch.dtype", "_data": "hub"}}, '
         '"_tensor_data_names": ["qdata", "scale", "zero_point"]}', "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_true_is_refused(llamas, text, reason):
    folder = write(llamas.folder(), "int8")
    path = next(folder.glob("*.safetensors"))
    with safe_open(path, "pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    save_file(tensors, path, header | {Q_PROJ: text})
    with pytest.raises(CheckpointError, match=reason) as caught:
        dict(QuantisedReader(FullModelHFCheckpointer(folder)).weights(llamas.native(folder)))
    assert Q_PROJ in str(caught.value)


def test_pickles_are_not_read(llamas):
    folder = write(llamas.folder(), "int8")
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin may hold code"):
        QuantisedReader(FullModelHFCheckpointer(folder)).weights(llamas.native(folder))


def test_a_model_of_another_size_is_refused_by_its_own_names(llamas):
    folder = write(llamas.folder(), "int8")
    native = {k: torch.empty(8, 8, device="meta") if "w1" in k else v for k, v in llamas.native(folder).items()}
    with pytest.raises(CheckpointError, match=r"gate_proj.weight is \[48, 32\]; the model's layers.0.mlp.w1.weight is"):
        QuantisedReader(FullModelHFCheckpointer(folder)).weights(native)
