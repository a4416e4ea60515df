"""Every format, read by the code that it is for."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from torchtune.errors import CheckpointError
from torchtune.export import Options, export_to
from torchtune.export._meta import meta_params
from torchtune.export._verify import TEXTS
from torchtune.models import family_of
from torchtune.models._decoder import Arch
from torchtune.training import FullModelTorchTuneCheckpointer


def weights_of(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("model", ["llama3", "bf16", "llama2"])
def test_hugging_face_folder_is_the_same_model(models, export, ids, model):
    folder = export(models[model], "hf")
    before, after = weights_of(models[model]), weights_of(folder)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    theirs, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    assert torch.equal(theirs(ids).logits, AutoModelForCausalLM.from_pretrained(models[model])(ids).logits)
    one, two = (AutoTokenizer.from_pretrained(place) for place in (models[model], folder))
    assert [one(text).input_ids for text in TEXTS] == [two(text).input_ids for text in TEXTS]
    assert one.chat_template == two.chat_template
    config = [GenerationConfig.from_pretrained(place).eos_token_id for place in (models[model], folder)]
    assert config[0] == config[1]


def test_dtype_and_shards(models, export):
    folder = export(models["llama3"], "hf", dtype="bf16", max_shard_size="100KB")
    before, after = weights_of(models["llama3"]), weights_of(folder)
    assert all(torch.equal(before[name].bfloat16(), after[name]) for name in before)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_torchtune_file_has_our_names(models, export):
    folder = export(models["llama3"], "torchtune")
    found = torch.load(folder / "model-00001-of-00001.pt", weights_only=True)
    config = json.loads((models["llama3"] / "config.json").read_text())
    model = family_of(config).build(config)
    model.load_state_dict(found)
    assert FullModelTorchTuneCheckpointer(folder).load_checkpoint()["model"].keys() == found.keys()


def test_meta_folder_in_metas_own_implementation(models, export, ids):
    """Its reader takes sizes, RoPE and weights from the folder; the scaling of RoPE is always Llama 3.1's there."""
    import torch.distributed as dist
    from fairscale.nn.model_parallel.initialize import destroy_model_parallel, initialize_model_parallel
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    folder = export(models["llama2"], "meta")
    assert (folder / "tokenizer.model").read_bytes() == (models["llama2"] / "tokenizer.model").read_bytes()
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    initialize_model_parallel(1)
    try:
        params = json.loads((folder / "params.json").read_text())
        theirs = Transformer(ModelArgs(**params, max_seq_len=64, max_batch_size=2))
        theirs.load_state_dict(torch.load(folder / "consolidated.00.pth", weights_only=True), strict=False)
        with torch.inference_mode():
            found = theirs(ids, 0)
    finally:
        destroy_model_parallel()
        dist.destroy_process_group()
    expected = AutoModelForCausalLM.from_pretrained(models["llama2"])(ids).logits
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dim", "width"),
    [(64, 128), (64, 172), (4096, 14_336), (4096, 11_008), (2048, 8192), (8192, 28_672), (5120, 13_824)],
)
def test_params_give_metas_reader_the_width_of_the_feed_forward(dim, width):
    sizes = {"vocab_size": 9, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "max_seq_len": 9}
    params = meta_params(Arch(**sizes, embed_dim=dim, intermediate_dim=width))
    # The arithmetic of FeedForward in llama_models/llama3/model.py, on the numbers that it is given.
    hidden = int(params.get("ffn_dim_multiplier", 1) * int(2 * (4 * dim) / 3))
    assert -(-hidden // params["multiple_of"]) * params["multiple_of"] == width


def test_metas_format_is_llamas(models, export):
    with pytest.raises(CheckpointError, match="the family mistral"):
        export(models["mistral_7b"], "meta")


def test_meta_and_back(models, export, tmp_path):
    """From Meta's names to Hugging Face's, with the config that came along."""
    meta = export(models["llama3"], "meta")
    assert "output.weight" in torch.load(meta / "consolidated.00.pth", weights_only=True)  # Meta's reader wants it
    back = export_to(meta, "hf", tmp_path / "back", Options())
    before, after = weights_of(models["llama3"]), weights_of(back)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
