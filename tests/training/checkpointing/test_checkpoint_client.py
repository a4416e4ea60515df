"""The client that torchtune's recipes save and load with."""

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models import family_of
from torchtune.training import OptimizerInBackwardWrapper
from torchtune.training.checkpointing import is_complete
from torchtune.training.checkpointing._checkpoint_client import CheckpointClient, TrainingProgress


@pytest.fixture
def client(llamas):
    folder = llamas.folder(dtype="float32")

    def make(**keys):
        node = {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(folder)}
        node |= {"checkpoint_files": ["model.safetensors"], "output_dir": str(llamas.root / "out")}
        return CheckpointClient(OmegaConf.create({"device": "cpu", "checkpointer": node} | keys))

    return make


@pytest.fixture
def model():
    return torch.nn.Linear(2, 2)


def progress(epochs_run, **more):
    return TrainingProgress(seed=7, epochs_run=epochs_run, total_epochs=2, max_steps_per_epoch=3, **more)


def decoder(llamas):
    config = {"model_type": "llama", **llamas.theirs().config.to_dict()}
    return family_of(config).build(config)


def trained(model, state, make_optimizer=torch.optim.AdamW):
    model.load_state_dict(state)
    optimizer = make_optimizer(model.parameters())
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()
    return optimizer


def test_keys_of_the_progress():
    # The first five are what torchtune 0.6.1 writes.
    always = {"seed": 7, "epochs_run": 1, "total_epochs": 2, "max_steps_per_epoch": 3, "dataloader": None}
    assert progress(1).state_dict() == always
    steps = {"steps_run": 4, "total_training_steps": 6}
    full = progress(1, **steps, dataloader_state_dict={"a": 1}, val_dataloader_state_dict={"b": 2})
    assert full.state_dict() == always | steps | {"dataloader": {"a": 1}, "val_dataloader": {"b": 2}}


@pytest.mark.parametrize("single_device", [False, True])
def test_resuming_gives_what_was_saved(llamas, client, single_device):
    model = decoder(llamas)
    optimizer = trained(model, client().load_base_checkpoint()["model"])
    client().save_checkpoint(model, optimizer, progress(1), epoch=0, single_device=single_device)
    loaded = client(resume_from_checkpoint=True).load_base_checkpoint()
    assert loaded["seed"] == 7 and loaded["epochs_run"] == 1
    assert all(torch.equal(loaded["model"][k], v) for k, v in model.state_dict().items())
    first = 0 if single_device else "tok_embeddings.weight"
    moment = optimizer.state[model.tok_embeddings.weight]["exp_avg"]
    assert torch.equal(loaded["optimizer"]["state"][first]["exp_avg"], moment)


def test_resuming_takes_the_weights_that_belong_to_the_state(llamas, client):
    """The last epoch is saved without a state, so the newest folder is not the one to go on from."""
    model = decoder(llamas)
    optimizer = trained(model, client().load_base_checkpoint()["model"])
    client().save_checkpoint(model, optimizer, progress(1), epoch=0)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer.step()
    client().save_checkpoint(model, optimizer, progress(2), epoch=1)
    assert is_complete(llamas.root / "out" / "epoch_1")
    resuming = client(resume_from_checkpoint=True)
    assert all(torch.equal(v, first[k]) for k, v in resuming.load_base_checkpoint()["model"].items())
    (llamas.root / "out" / "epoch_0" / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="epoch_0.*MANIFEST"):
        resuming.load_base_checkpoint()


def test_steps_have_folders_of_their_own(llamas, client):
    model = decoder(llamas)
    optimizer = trained(model, client().load_base_checkpoint()["model"])
    client().save_checkpoint(model, optimizer, progress(0, steps_run=5), epoch=0, full_tensors=False, dir_prefix="step")
    assert is_complete(llamas.root / "out" / "step_5")
    assert client(resume_from_checkpoint=True).load_base_checkpoint()["steps_run"] == 5


def test_one_optimizer_per_parameter(llamas, client):
    model = decoder(llamas)
    model.load_state_dict(client().load_base_checkpoint()["model"])
    wrapper = OptimizerInBackwardWrapper({n: torch.optim.SGD([p], momentum=0.9) for n, p in model.named_parameters()})
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    for one in wrapper.optim_map.values():
        one.step()
    client().save_checkpoint(model, wrapper, progress(1), epoch=0)
    saved = client(resume_from_checkpoint=True).load_base_checkpoint()["optimizer"]
    expected = wrapper.optim_map["norm.scale"].state[model.norm.scale]["momentum_buffer"]
    assert torch.equal(saved["norm.scale"]["state"]["norm.scale"]["momentum_buffer"], expected)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_adapters_are_saved_beside_the_model_they_merge_into(adapted, adapter_only):
    adapted = adapted()
    model = adapted.ours(["q_proj", "v_proj"], lora_rank=4, lora_alpha=8).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(adapted.tokens).sum().backward()
    optimizer.step()
    node = {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(adapted.folder)}
    node |= {"checkpoint_files": ["model.safetensors"], "output_dir": str(adapted.folder.parent / "out")}
    cfg = OmegaConf.create({"device": "cpu", "checkpointer": node})
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"}
    CheckpointClient(cfg).save_checkpoint(
        model, optimizer, progress(1), epoch=0, adapter_config=settings, adapter_only=adapter_only
    )
    written = adapted.folder.parent / "out" / "epoch_0"
    peft = PeftModel.from_pretrained(adapted.theirs(), written if adapter_only else written / "adapter")
    adapted.assert_same(model.eval(), peft.eval())
    if not adapter_only:
        adapted.assert_same(model, AutoModelForCausalLM.from_pretrained(written).eval())
    resumed = CheckpointClient(OmegaConf.merge(cfg, {"resume_from_checkpoint": True})).load_base_checkpoint()
    assert all(torch.equal(resumed["adapter"][k], v) for k, v in adapted.tensors(model).items())
    assert torch.equal(resumed["model"]["layers.0.attn.q_proj.weight"], model.layers[0].attn.q_proj.weight)
    assert resumed["epochs_run"] == 1 and "adapter_config" not in resumed


def test_what_it_cannot_do_is_refused(client, model):
    with pytest.raises(ConfigError, match="enable_async_checkpointing"):
        client(enable_async_checkpointing=True)
    with pytest.raises(CheckpointError, match="adapter_only"):
        client().save_checkpoint(model, None, progress(2), epoch=0, adapter_only=True)
    with pytest.raises(CheckpointError, match="recipe_state.pt"):
        client(resume_from_checkpoint=True).load_base_checkpoint()
