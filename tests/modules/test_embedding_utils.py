"""Longer and shorter vocabularies."""

import pytest
import torch
from torch import nn

from torchtune.models.llama3_2 import llama3_2
from torchtune.modules.embedding_utils import resize_token_embeddings


def tiny_model(tied):
    return llama3_2(
        vocab_size=10,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        embed_dim=8,
        max_seq_len=16,
        intermediate_dim=16,
        tie_word_embeddings=tied,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_old_ones_stay(tied):
    model, tokens = tiny_model(tied), torch.tensor([[1, 2, 9]])
    before = model(tokens)
    mean = model.tok_embeddings.weight.mean(0)
    resize_token_embeddings(model, 13)
    assert model.tok_embeddings.num_embeddings == 13 and model.tok_embeddings.weight.requires_grad
    torch.testing.assert_close(model.tok_embeddings.weight[10:], mean.expand(3, -1))
    after = model(tokens)
    torch.testing.assert_close(after[..., :10], before)
    torch.testing.assert_close(after[..., 10:], before.mean(-1, keepdim=True).expand(-1, -1, 3))
    assert model(torch.tensor([[12]])).shape == (1, 1, 13)
    assert ("output.weight" in model.state_dict()) != tied


def test_an_output_bias_grows_too():
    model = tiny_model(False)
    model.output = nn.Linear(8, 10)
    resize_token_embeddings(model, 12)
    assert model.output.bias.shape == (12,) and model.output.out_features == 12


def test_shorter_keeps_the_first_rows_and_frozen_stays_frozen():
    model = tiny_model(True).bfloat16().requires_grad_(False)
    first = model.tok_embeddings.weight[:4].clone()
    resize_token_embeddings(model, 4)
    assert torch.equal(model.tok_embeddings.weight, first) and not model.tok_embeddings.weight.requires_grad


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        resize_token_embeddings(tiny_model(True), 0)
    classifier = tiny_model(False)
    classifier.output = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="classifier"):
        resize_token_embeddings(classifier, 12)
    classifier.output = nn.Identity()
    with pytest.raises(ValueError, match="Identity"):
        resize_token_embeddings(classifier, 12)
