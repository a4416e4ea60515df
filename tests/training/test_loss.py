"""Each kind of loss, summed over target tokens, has the value of plain cross-entropy on shifted labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchtune.errors import ConfigError
from torchtune.models.llama3_2 import llama3_2, lora_llama3_2
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss
from torchtune.training.loss import count_targets, next_token_labels, summed_loss


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 16, "max_seq_len": 16}
    return llama3_2(**sizes, intermediate_dim=24, tie_word_embeddings=request.param)


@pytest.fixture
def batch():
    tokens = torch.arange(24).view(2, 12)
    labels = tokens.clone()
    labels[0, :5] = labels[1, 9:] = -100
    return {"tokens": tokens, "labels": labels}


def test_labels_move_one_place(batch):
    moved = next_token_labels(batch)
    assert moved[0].tolist() == [-100] * 4 + list(range(5, 12)) + [-100]
    assert count_targets(batch) == (moved != -100).sum() == 7 + 8


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.0), LinearCrossEntropyLoss(),
     LinearCrossEntropyLoss(num_output_chunks=3), CEWithChunkedOutputLoss(num_output_chunks=4)],
    ids=lambda loss: type(loss).__name__,
)  # fmt: skip
def test_equals_plain_cross_entropy(model, batch, loss):
    logits = model(batch["tokens"]).float()
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    found = summed_loss(loss, model)(model, batch)
    found.backward()
    torch.testing.assert_close(found, expected)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name])


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), CEWithChunkedOutputLoss(4), nn.CrossEntropyLoss(label_smoothing=0.1)], ids=str
)
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_on_the_output_takes_part(batch, loss, use_dora):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 16, "max_seq_len": 16}
    adapters = {"lora_rank": 2, "lora_alpha": 4, "use_dora": use_dora, "tie_word_embeddings": False}
    model = lora_llama3_2(["q_proj"], False, True, **sizes, **adapters)
    nn.init.normal_(model.output.lora_b.weight)
    logits = model(batch["tokens"])[:, :-1].flatten(0, 1)
    smoothing = getattr(loss, "label_smoothing", 0.0)
    labels = batch["labels"][:, 1:].flatten()
    expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    wanted = [p for p in model.parameters() if p.requires_grad]
    truth = torch.autograd.grad(expected, wanted, materialize_grads=True)
    found = summed_loss(loss, model)(model, batch)
    torch.testing.assert_close(found, expected)
    for mine, one in zip(torch.autograd.grad(found, wanted, materialize_grads=True), truth, strict=True):
        torch.testing.assert_close(mine, one, rtol=1e-4, atol=1e-5)


def test_another_loss_gets_logits(model, batch):
    found = summed_loss(nn.CrossEntropyLoss(label_smoothing=0.1), model)(model, batch)
    logits = model(batch["tokens"]).float()[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(found, expected)


def test_a_loss_of_which_the_sum_is_not_known(model):
    with pytest.raises(ConfigError, match="reduction is 'sum'"):
        summed_loss(nn.CrossEntropyLoss(reduction="sum"), model)
