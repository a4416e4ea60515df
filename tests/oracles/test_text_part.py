"""Folders of models that read images too: their language model, against transformers' whole model."""

import json
import logging
import warnings
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.models._adapters import lora
from torchtune.models._text_part import text_config
from torchtune.modules.peft import get_adapter_params
from torchtune.training.adapters import BaseWeights, load_adapters
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.model import load_model

ALONE = World(0, 1, torch.device("cpu"))
TEXT = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VISION |= {"image_size": 16}
MODELS = {
    "mistral3": (
        {"model_type": "mistral", "sliding_window": None, "rope_theta": 1e9},
        {"model_type": "pixtral", "head_dim": 16},
        {"tie_word_embeddings": False},
    ),
    "llama4": (
        {"model_type": "llama4_text", "attention_chunk_size": 11, "intermediate_size_mlp": 96, "num_local_experts": 4}
        | {"no_rope_layers": [1, 0], "moe_layers": [1], "floor_scale": 8},
        {"model_type": "llama4_vision_model", "vision_output_dim": 64, "projector_input_dim": 32}
        | {"projector_output_dim": 64, "pixel_shuffle_ratio": 0.5},
        {"boi_token_index": 94, "eoi_token_index": 95, "tie_word_embeddings": False},
    ),
    "gemma3": (
        {"model_type": "gemma3_text", "sliding_window": 11, "query_pre_attn_scalar": 32},
        {"model_type": "siglip_vision_model"},
        {"mm_tokens_per_image": 16},
    ),
}
# https://huggingface.co/mistralai/Mistral-Small-3.1-24B-Instruct-2503/blob/main/config.json
SMALL_3_1 = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000000.0,
        "sliding_window": None,
        "use_cache": True,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"model_type": "pixtral", "hidden_size": 1024},
    "vision_feature_layer": -1,
}


@pytest.fixture(params=MODELS)
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    """Transformers' model with random weights; its folder is ``tmp_path / "whole"``."""
    text, vision, other = MODELS[request.param]
    parts = {"text_config": TEXT | text, "vision_config": VISION | vision, "image_token_index": 96}
    config = transformers.AutoConfig.for_model(request.param, **parts, **other)
    torch.manual_seed(0)
    made = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3)
    made.save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "processor_config.json").write_text("{}")
    (tmp_path / "whole" / "LICENSE.txt").write_text("free")
    return made.eval()


def tokens() -> Tensor:
    return torch.randint(3, 96, (2, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_language_model_is_read_and_written_alone(
    theirs: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = FullModelHFCheckpointer(tmp_path / "whole", output_dir=tmp_path / "out")
    build = lambda: checkpointer.family.build(checkpointer.config)  # noqa: E731
    with caplog.at_level(logging.WARNING):
        model = load_model(build, checkpointer.weights, ALONE, dtype=torch.float32).eval()
    assert "only its language model is taken" in caplog.text
    expected = theirs(input_ids=tokens()).logits
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-4, atol=1e-4)

    checkpointer.save_checkpoint({"model": model.state_dict()}, epoch=0)
    written = tmp_path / "out" / "epoch_0"
    assert (written / "LICENSE.txt").is_file() and not (written / "processor_config.json").exists()
    alone, told = transformers.AutoModelForCausalLM.from_pretrained(
        written, attn_implementation="eager", output_loading_info=True
    )
    assert not any(told.values())
    torch.testing.assert_close(alone.eval()(tokens()).logits, expected, rtol=1e-4, atol=1e-4)
    again = FullModelHFCheckpointer(written)
    saved = dict(again.weights(model.state_dict()))
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


def test_files_with_transformers_own_names_are_read(theirs: nn.Module, tmp_path: Path) -> None:
    reader = FullModelHFCheckpointer(tmp_path / "whole")
    native = reader.family.build(reader.config).state_dict()
    expected = dict(reader.weights(native))
    save_file(
        {name: tensor.clone() for name, tensor in theirs.state_dict().items()}, tmp_path / "whole/model.safetensors"
    )
    places = {"model.language_model.norm.weight", "language_model.model.norm.weight"}
    assert places & load_file(tmp_path / "whole/model.safetensors").keys()
    found = dict(reader.weights(native))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], t) for name, t in expected.items())


@torch.no_grad()
def test_adapters_go_on_transformers_whole_model_and_come_back(theirs: nn.Module, tmp_path: Path) -> None:
    checkpointer = FullModelHFCheckpointer(tmp_path / "whole")
    base = BaseWeights(checkpointer)
    feed_forward = theirs.config.model_type != "llama4"  # PEFT's form of adapters of its experts is not known
    plain = lambda: checkpointer.family.build(checkpointer.config)  # noqa: E731
    build = lambda: lora(plain, ["q_proj", "v_proj"], feed_forward)  # noqa: E731
    model = load_model(build, base.weights, ALONE, dtype=torch.float32).eval()
    for parameter in get_adapter_params(model).values():
        parameter.normal_(0, 0.1)
    folder = tmp_path / "adapter"
    folder.mkdir()
    contents_of(model, checkpointer, base, ALONE, adapters_only=True).write(folder)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys.*")
        adapted = peft.PeftModel.from_pretrained(theirs, folder).eval()
    assert not [name for name, _ in adapted.named_parameters() if "lora_" in name and "vision" in name]
    torch.testing.assert_close(adapted(input_ids=tokens()).logits, model(tokens()), rtol=1e-4, atol=1e-4)
    again = load_model(build, base.weights, ALONE, dtype=torch.float32)
    load_adapters(again, checkpointer, folder, base)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_release_describes_the_builders_model() -> None:
    from torchtune.models.mistral import mistral_small_3_1_24b

    config = text_config(SMALL_3_1)
    with torch.device("meta"):
        found, expected = family_of(config).build(config), mistral_small_3_1_24b()
    assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    rope, wanted = found.layers[0].attn.pos_embeddings, expected.layers[0].attn.pos_embeddings
    assert (rope.base, found.max_seq_len) == (wanted.base, expected.max_seq_len) == (1e9, 131_072)
    assert config["torch_dtype"] == "bfloat16"


def test_another_model_for_images_is_refused_by_name(tmp_path: Path) -> None:
    config = {"model_type": "mistral3", "text_config": {"model_type": "ministral3"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'ministral3'"):
        FullModelHFCheckpointer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(CheckpointError, match="'llava'"):
        FullModelHFCheckpointer(tmp_path)
