"""What a model's adapters are, apart from their values; read from its layers, so that nothing else has to say it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from torchtune.modules.peft._apply import adapted_layers, whole_trained_names
from torchtune.modules.peft.dora import DoRALinear


@dataclass(frozen=True)
class AdapterSpec:
    """The shape and scaling of a set of adapters.

    Args:
        ranks: by the name of the adapted layer, like ``alphas``.
        trained: names of parameters that are trained in full beside the adapters.
        others: names of the linear layers without an adapter, which tell what a short name would mean too much.
    """

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    trained: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def adapter_spec(model: nn.Module) -> AdapterSpec | None:
    """The adapters that a model has; None when it has none."""
    layers = adapted_layers(model)
    if not layers:
        return None
    first = next(iter(layers.values()))
    inside = {f"{name}.{leaf}" for name in layers for leaf in ("lora_a", "lora_b")}
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name not in inside]
    return AdapterSpec(
        ranks={name: layer.rank for name, layer in layers.items()},
        alphas={name: layer.alpha for name, layer in layers.items()},
        dropout=getattr(first.dropout, "p", 0.0),
        use_rslora=first.use_rslora,
        use_dora=isinstance(first, DoRALinear),
        trained=tuple(whole_trained_names(model)),
        others=tuple(linears),
    )
