"""What a loss must have, and what it gets for nothing."""

import pytest
from torch import nn

from torchtune.modules.loss.loss_types import RLLoss, SFTLoss


@pytest.mark.parametrize("kind", [SFTLoss, RLLoss])
def test_an_unfinished_loss_cannot_be_made(kind):
    with pytest.raises(TypeError, match="abstract"):
        kind()


def test_a_small_loss_works_with_the_defaults():
    class Mean(nn.Module, SFTLoss):
        def apply_compile_strategy(self, *args, **kwargs):
            return self

        def forward(self, outputs, targets):
            return outputs.mean()

    loss = Mean()
    assert loss.set_model_output(nn.Identity()) is None
    assert loss.tp_requires_loss_parallel_ctx_manager is False
    assert loss.patch_tp_plan({"a": 1}) == {"a": 1}
