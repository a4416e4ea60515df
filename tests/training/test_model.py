"""A model built without storage and filled one tensor at a time."""

import torch

from torchtune.models.llama3_2 import llama3_2
from torchtune.training.distributed import World
from torchtune.training.model import fill, load_model, meta_init

ALONE = World(0, 1, torch.device("cpu"))
SIZES = {"vocab_size": 40, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 16, "max_seq_len": 16}


def test_made_on_meta_in_the_wanted_dtype():
    with meta_init(torch.bfloat16):
        layer = torch.nn.Linear(2, 2)
    assert layer.weight.is_meta and layer.weight.dtype is torch.bfloat16
    assert torch.get_default_dtype() is torch.float32 and not torch.nn.Linear(1, 1).weight.is_meta


def test_equals_the_model_that_the_weights_are_of():
    torch.manual_seed(0)
    plain = llama3_2(**SIZES)
    seen, prepared = {}, []

    def weights(shapes):
        seen.update(shapes)
        yield from reversed(list(plain.state_dict().items()))

    loaded = load_model(lambda: llama3_2(**SIZES), weights, ALONE, dtype=torch.float32, prepare=prepared.append)
    assert prepared == [loaded]
    assert all(shape.is_meta for shape in seen.values()) and seen.keys() == plain.state_dict().keys()
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(loaded(tokens), plain(tokens), rtol=0, atol=0)


def test_filled_in_the_models_dtype():
    layer = torch.nn.Linear(2, 3, bias=False, dtype=torch.bfloat16)
    fill(layer, [("weight", torch.full((3, 2), 1.5))])
    assert layer.weight.dtype is torch.bfloat16 and (layer.weight == 1.5).all()


def test_a_smaller_vocabulary_is_filled_up_with_its_mean():
    layer = torch.nn.Linear(2, 4, bias=False)
    fill(layer, [("weight", torch.tensor([[1.0, 2.0], [3.0, 6.0]]))])
    assert layer.weight.tolist() == [[1, 2], [3, 6], [2, 4], [2, 4]]
