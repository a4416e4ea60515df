"""Models and tokenizers from a Hugging Face folder alone: what is read, and what is refused by name."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from hf_folders import CHATML, families, save
from tokenizer_files import MISTRAL_DATA, small_tekken

from torchtune.data import Message
from torchtune.errors import CheckpointError, ConfigError
from torchtune.models import auto, auto_tokenizer, lora_auto, qlora_auto
from torchtune.models._auto import PLAIN_TEMPLATE
from torchtune.models._llama2_tokenizer import Llama2Tokenizer
from torchtune.models._mistral_tokenizer import MistralTokenizer
from torchtune.modules.low_precision.nf4 import is_quantised
from torchtune.modules.peft import adapter_names
from torchtune.training import FullModelHFCheckpointer

FAMILIES = families()
DIALOGUE = [Message("user", "Ü 🙂", masked=True), Message("assistant", "A")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return save(tmp_path_factory.mktemp("llama"), FAMILIES["llama"], **sizes)


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    """A copy to change."""
    return shutil.copytree(llama, tmp_path / "folder")


def _edit(folder: Path, name: str = "config.json", without: tuple[str, ...] = (), **changes: object) -> Path:
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({k: v for k, v in content.items() if k not in without}))
    return folder


def _build(folder: Path) -> torch.nn.Module:
    with torch.device("meta"):
        return auto(str(folder))


# What the model is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_is_built_from_its_folder(model_type, tmp_path):
    case = FAMILIES[model_type]
    (tmp_path / "config.json").write_text(json.dumps(case.hf_config().to_dict(), default=str))
    numbers = sum(p.numel() for p in _build(tmp_path).parameters())
    assert numbers == sum(p.numel() for p in case.oracle().parameters())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_family_does_not_know_is_refused_by_name(model_type, tmp_path):
    known = json.loads(json.dumps(FAMILIES[model_type].hf_config().to_dict(), default=str))
    activation = {key: "quick_gelu" for key in ("hidden_act", "hidden_activation") if key in known}
    assert activation
    for change, said in (
        ({"new_feature": 3}, "'new_feature': 3"),
        (activation, "activation 'quick_gelu'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "spiral", "factor": 2.0}}, "RoPE type 'spiral'"),
        ({"rope_parameters": _spiral(known.get("rope_parameters") or {})}, "RoPE type 'spiral'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(known | change))
        with pytest.raises(CheckpointError, match=said) as refusal:
            _build(tmp_path)
        assert str(tmp_path) in str(refusal.value)


def _spiral(ropes: dict) -> dict:
    """Parameters of an unknown type, for each type of layer where a config has several."""
    nested = {key: _spiral(value) for key, value in ropes.items() if isinstance(value, dict)}
    return nested or {**ropes, "rope_type": "spiral"}


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["transformers 5", "transformers 4"])
def test_both_spellings_give_the_model_of_transformers(spelling, folder):
    from transformers import AutoModelForCausalLM

    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 32
    if spelling == "transformers 5":
        _edit(folder, rope_parameters={**scaling, "rope_theta": 5e5}, dtype="float32")
    else:
        _edit(folder, without=("rope_parameters", "dtype"), rope_theta=5e5, rope_scaling=scaling, torch_dtype="float32")
    model = auto(str(folder)).eval()
    model.load_state_dict(FullModelHFCheckpointer(str(folder)).load_checkpoint()["model"])
    ids = torch.arange(48)[None]
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(ids).logits
    torch.testing.assert_close(model(ids), theirs, rtol=1e-4, atol=1e-4)


def test_builders_with_adapters(llama):
    with torch.device("meta"):
        adapted = lora_auto(["q_proj", "v_proj"], lora_rank=3, checkpoint_dir=str(llama))
        quantised = qlora_auto(["q_proj"], apply_lora_to_mlp=True, checkpoint_dir=str(llama))
    assert len(adapter_names(adapted)) == 2 * 2 * len(adapted.layers)
    assert adapted.layers[0].attn.q_proj.rank == 3 and not any(map(is_quantised, adapted.modules()))
    assert any(map(is_quantised, quantised.modules()))


# What is no such folder -------------------------------------------------------------------------------------------


def _of(*names: str):
    def make(path: Path) -> Path:
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("{}")
        return path / names[0] if names[0].endswith(".gguf") and len(names) == 1 else path

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: "meta-llama/Llama-3.2-1B", "tune download meta-llama/Llama-3.2-1B --output-dir PATH"),
        (lambda path: path / "absent", "no folder .*absent"),
        (_of("model.gguf"), "is a GGUF file"),
        (_of("model.gguf", "README.md"), "holds GGUF files"),
        (_of("params.json", "consolidated.00.pth"), "Meta's format.*FullModelMetaCheckpointer"),
        (_of("adapter_config.json"), "holds an adapter.*checkpointer.adapter_checkpoint"),
        (_of("epoch_0/config.json", "epoch_1/config.json", "logs/x"), "Perhaps .*epoch_1?"),
        (_of("snapshots/abc/config.json"), "Perhaps .*snapshots/abc?"),
        (_of("README.md"), "has no config.json. A folder with config.json, weights and tokenizer is expected"),
    ],
)
@pytest.mark.parametrize("read", [auto, auto_tokenizer])
def test_another_path_is_refused_as_what_it_is(read, make, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        read(str(make(tmp_path)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder with a decoder.*model_type 't5'"),
        ({"model_type": "llava", "vision_config": {}}, "LlamaForCausalLM reads more than text.*'llava'"),
        ({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "needs the code that comes with it.*'own'"),
        ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, "RwkvForCausalLM is not supported.*'rwkv'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "describes LlamaForSequenceClassification"),
    ],
)
@pytest.mark.parametrize("read", [auto, auto_tokenizer])
def test_another_architecture_is_refused_by_name(read, change, said, folder):
    with pytest.raises(CheckpointError, match=said):
        read(str(_edit(folder, **change)))


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_quantised_weights_are_refused_by_name(method, folder):
    _edit(folder, quantization_config={"quant_method": method, "bits": 4})
    model = _build(folder)
    with pytest.raises(CheckpointError, match=rf"quantised \({method}\).*the folder that they were made from"):
        FullModelHFCheckpointer(str(folder)).weights(model.state_dict())


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[1]", "is not a table")])
def test_a_config_that_cannot_be_read(text, said, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        auto(str(folder))


# The tokenizer ----------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_the_folders_own(llama):
    from transformers import AutoTokenizer

    tokenizer, theirs = auto_tokenizer(str(llama)), AutoTokenizer.from_pretrained(llama)
    rows = [{"role": m.role, "content": m.text_content} for m in DIALOGUE]
    assert tokenizer.tokenize_messages(DIALOGUE)[0] == theirs.apply_chat_template(rows)["input_ids"]
    assert tokenizer.chat_template == CHATML and (tokenizer.eos_id, tokenizer.pad_id) == (257, 257)


def test_sequences_are_no_longer_than_the_model_can_read(llama):
    positions = _build(llama).max_seq_len
    assert [auto_tokenizer(str(llama), n).max_seq_len for n in (None, 10, positions + 1)] == [positions, 10, positions]


def test_a_base_model_gets_a_plain_form_and_says_so(folder, caplog):
    from transformers import AutoTokenizer

    (folder / "chat_template.jinja").unlink()
    with caplog.at_level(logging.WARNING):
        tokenizer = auto_tokenizer(str(folder))
    assert "has no chat template" in caplog.text and "tokenizer.chat_template" in caplog.text
    ids, mask = tokenizer.tokenize_messages(DIALOGUE)
    trained = tokenizer.decode([i for i, m in zip(ids, mask) if not m], skip_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s><|user|>\nÜ 🙂\n<|assistant|>\nA</s>\n"
    assert trained == "<|assistant|>\nA</s>\n" and tokenizer.stop_tokens == [257]
    assert tokenizer.files == {"chat_template.jinja": PLAIN_TEMPLATE}
    theirs = AutoTokenizer.from_pretrained(folder)
    rows = [{"role": m.role, "content": m.text_content} for m in DIALOGUE]
    assert theirs.apply_chat_template(rows, chat_template=PLAIN_TEMPLATE)["input_ids"] == ids


def test_a_plain_form_ends_also_where_only_ids_are_named(folder):
    """Of a folder without tokenizer_config.json."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer = auto_tokenizer(str(folder))
    assert tokenizer.render_template([{"role": "assistant", "content": "A"}]).endswith("<|assistant|>\nA</s>\n")


def test_another_template_can_be_named(folder, tmp_path):
    (tmp_path / "other.jinja").write_text("{{ messages[0].content }}{{ mood }}</s>")
    named = auto_tokenizer(str(folder), chat_template=str(tmp_path / "other.jinja"), chat_template_kwargs={"mood": "!"})
    assert named.render_template([{"role": "user", "content": "x"}]) == "x!</s>"
    (tmp_path / "instruct").mkdir()
    (tmp_path / "instruct" / "chat_template.jinja").write_text("other")
    assert auto_tokenizer(str(folder), chat_template=str(tmp_path / "instruct")).chat_template == "other"
    for wrong in ("chatml", str(tmp_path)):
        with pytest.raises(ConfigError, match="neither a Jinja file nor a folder that has a chat template"):
            auto_tokenizer(str(folder), chat_template=wrong)


def test_a_folder_without_tokenizer_json_gets_its_familys_tokenizer(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer.json. Python writes it: .*save_pretrained"):
        auto_tokenizer(str(folder))
    shutil.copy(MISTRAL_DATA / "tokenizer.model.v1", folder / "tokenizer.model")
    tokenizer = auto_tokenizer(str(folder), max_seq_len=20, today="2025-01-01")
    assert isinstance(tokenizer, Llama2Tokenizer) and tokenizer.max_seq_len == 20
    with pytest.raises(ConfigError, match="only with a tokenizer.json"):
        auto_tokenizer(str(folder), chat_template=str(folder))
    mistral = json.loads(json.dumps(FAMILIES["mistral"].hf_config().to_dict(), default=str))
    _edit(folder, **mistral)
    assert isinstance(auto_tokenizer(str(folder)), MistralTokenizer)
    (folder / "tokenizer.model").unlink()
    small_tekken(folder, "v3")
    assert isinstance(auto_tokenizer(str(folder)), MistralTokenizer)
