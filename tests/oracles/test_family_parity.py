"""Every family against transformers, on tiny random weights in float32; the cases are in ``tests/family_cases``."""

import copy

import pytest
import torch
from family_cases import Case, all_cases
from safetensors.torch import load_file
from two_processes import in_two_processes

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.distributed import World, shard, whole

CASES = all_cases()
in_every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def ours_like(theirs: torch.nn.Module) -> torch.nn.Module:
    """Our model as transformers' ``config.json`` describes it, with transformers' weights."""
    config = theirs.config.to_dict()
    family = family_of(config)
    ours = family.build(config)
    ours.load_state_dict(family.hf.to_native(_saved(theirs), ours.state_dict(), head_dim=ours.head_dim))
    return ours.eval()


def _saved(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors as transformers writes them to files, which is not always as it keeps them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def some_tokens(case: Case, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 97, (batch, case.seq_len), generator=torch.Generator().manual_seed(1))


@in_every_case
def test_logits_and_gradients_equal_transformers(case: Case) -> None:
    theirs = case.oracle()
    ours = ours_like(theirs)
    tokens = some_tokens(case)
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    weight = torch.randn(*tokens.shape, 97, generator=torch.Generator().manual_seed(2)) / tokens.numel()
    found, expected = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(found, expected, **close)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    _compare_gradients(theirs, ours, close)


def _compare_gradients(theirs: torch.nn.Module, ours: torch.nn.Module, close: dict) -> None:
    """Gradients travel like weights: into a copy of their model, through files, to our names."""
    family = family_of(theirs.config.to_dict())
    as_weights = copy.deepcopy(theirs)
    for holder, parameter in zip(as_weights.parameters(), theirs.parameters(), strict=True):
        holder.data = torch.zeros_like(holder) if parameter.grad is None else parameter.grad
    expected = family.hf.to_native(_saved(as_weights), ours.state_dict(), head_dim=ours.head_dim)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], **close, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.builder])
def test_the_builder_makes_the_model_of_config_json(name: str) -> None:
    case = CASES[name]
    config = case.hf_config().to_dict()
    torch.manual_seed(0)
    from_config, from_builder = family_of(config).build(config).eval(), case.builder().eval()
    from_config.load_state_dict(from_builder.state_dict())
    tokens = some_tokens(case)
    assert torch.equal(from_config(tokens), from_builder(tokens))


@in_every_case
def test_files_come_back_bit_for_bit(case: Case, tmp_path) -> None:
    theirs = case.oracle().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    family = family_of(theirs.config.to_dict())
    native = {k: v.to(torch.bfloat16) for k, v in family.build(theirs.config.to_dict()).state_dict().items()}
    reader = FullModelHFCheckpointer(str(tmp_path / "theirs"), output_dir=str(tmp_path / "out"))
    reader.save_checkpoint({"model": dict(reader.weights(native))}, epoch=0)
    files = sorted((tmp_path / "out" / "epoch_0").glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@in_every_case
def test_the_cache_gives_the_logits_of_the_whole_sequence(case: Case) -> None:
    ours = ours_like(case.oracle())
    tokens = some_tokens(case)
    with torch.no_grad():
        expected = ours(tokens)
        ours.setup_caches(2, torch.float32, decoder_max_seq_len=case.seq_len)
        pieces = [
            ours(piece) for piece in tokens.split([case.seq_len // 2, 1, 1, case.seq_len - case.seq_len // 2 - 2], 1)
        ]
    close = {"rtol": case.tolerance, "atol": case.tolerance}
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, **close)


@in_every_case
def test_documents_in_a_pack_do_not_see_each_other(case: Case) -> None:
    from torchtune.modules.attention_utils import Documents, packed_block_causal_mask

    ours = ours_like(case.oracle())
    lens = [case.seq_len // 3, 1, case.seq_len - case.seq_len // 3 - 1]
    tokens = some_tokens(case, batch=1)
    positions = torch.cat([torch.arange(n) for n in lens])[None]
    with torch.no_grad():
        packed = ours(tokens, mask=packed_block_causal_mask([torch.tensor(lens)]), input_pos=positions)
        cut = ours(tokens, mask=Documents((tuple(lens),)), input_pos=positions)
        alone = torch.cat([ours(piece) for piece in tokens.split(lens, dim=1)], dim=1)
    for found in (packed, cut):
        torch.testing.assert_close(found, alone, rtol=case.tolerance, atol=case.tolerance)


@in_every_case
def test_a_key_that_is_not_read_is_refused(case: Case) -> None:
    config = case.hf_config().to_dict()
    with pytest.raises(CheckpointError, match="a_new_feature"):
        family_of(config).build(config | {"a_new_feature": 3})


@in_every_case
def test_an_unknown_rope_type_and_activation_are_refused_by_name(case: Case) -> None:
    config = case.hf_config().to_dict()
    key = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    with pytest.raises(CheckpointError, match="squeeze"):
        family_of(config).build(config | {key: "squeeze"})
    twisted = {"rope_type": "twisted", "rope_theta": 1e4}
    with pytest.raises(CheckpointError, match="twisted"):
        family_of(config).build(config | {"rope_parameters": _with_type(config.get("rope_parameters"), twisted)})


def _with_type(parameters: dict | None, twisted: dict) -> dict:
    """The same for each type of layer where the config has some for each."""
    if parameters and all(isinstance(value, dict) for value in parameters.values()):
        return dict.fromkeys(parameters, twisted)
    return twisted


def _first_of_each_family() -> dict[str, Case]:
    return {name.partition("/")[0]: case for name, case in reversed(CASES.items())}


def test_one_process_equals_two() -> None:
    """Loss and gradients of every family's first case, with the parameters split over two processes."""
    expected = {}
    for name, case in _first_of_each_family().items():
        model = ours_like(case.oracle())
        model(some_tokens(case)).square().mean().backward()
        expected[name] = (model.state_dict(), {k: p.grad for k, p in model.named_parameters()})

    def work(world: World) -> None:
        for name, case in _first_of_each_family().items():
            state, gradients = expected[name]
            model = family_of(case.hf_config().to_dict()).build(case.hf_config().to_dict()).eval()
            model.load_state_dict(state)
            shard(model, world)
            row = some_tokens(case)[world.rank : world.rank + 1]
            model(row).square().mean().backward()
            for key, parameter in model.named_parameters():
                found = whole(parameter.grad)
                torch.testing.assert_close(
                    found, gradients[key], rtol=1e-4, atol=1e-4, msg=lambda m, key=key, name=name: f"{name} {key}: {m}"
                )

    in_two_processes(work)
