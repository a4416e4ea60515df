"""Change the size of a model's vocabulary."""

import torch
from torch import Tensor, nn

from torchtune.modules.tied_linear import TiedLinear


def resize_token_embeddings(model: nn.Module, num_embeddings: int) -> None:
    """Make token embedding and output projection ``num_embeddings`` rows long, in place.

    New rows are the mean of the old ones, so that a new token starts out no more likely than an average one
    (https://www.cs.columbia.edu/~johnhew/vocab-expansion.html). Rows beyond the end are cut off.
    Call it before the model is sharded and before the optimizer is made: the parameters are replaced.

    Args:
        model: has ``tok_embeddings`` and ``output``; a tied output follows the embedding.

    Raises:
        ValueError: fewer than one row, a sharded model, or an output projection that is neither linear nor tied.
    """
    if num_embeddings < 1:
        raise ValueError(f"num_embeddings must be at least 1, not {num_embeddings}")
    embedding, output = model.tok_embeddings, model.output
    tied = isinstance(output, TiedLinear)
    if not tied and not isinstance(output, nn.Linear):
        raise ValueError(f"cannot resize an output of type {type(output).__name__}; nn.Linear and TiedLinear are known")
    if not tied and output.out_features != embedding.num_embeddings:
        raise ValueError(
            f"the output projection has {output.out_features} rows and the embedding {embedding.num_embeddings}; "
            "they cannot be resized together (is this a classifier?)"
        )
    embedding.weight = _resized(embedding.weight, num_embeddings)
    embedding.num_embeddings = num_embeddings
    if tied:
        return
    output.weight = _resized(output.weight, num_embeddings)
    if output.bias is not None:
        output.bias = _resized(output.bias, num_embeddings)
    output.out_features = num_embeddings


@torch.no_grad()
def _resized(old: Tensor, rows: int) -> nn.Parameter:
    if hasattr(old, "device_mesh"):
        raise ValueError("the model is sharded already; resize its vocabulary before sharding it")
    new = old.new_empty(rows, *old.shape[1:])
    kept = min(rows, len(old))
    new[:kept] = old[:kept]
    new[kept:] = old.float().mean(dim=0).to(old.dtype)
    return nn.Parameter(new, requires_grad=old.requires_grad)
