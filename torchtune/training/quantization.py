"""What kind of quantizer a config names."""

from collections.abc import Callable
from typing import Any

# torchao's quantizers (https://docs.pytorch.org/ao) by class name, so that torchao need not be installed.
_MODES = {
    "Int4WeightOnlyQuantizer": "4w",
    "Int4WeightOnlyQATQuantizer": "4w-qat",
    "Int4WeightOnlyQATQuantizerModuleSwap": "4w-qat-module-swap",
    "Int8DynActInt4WeightQuantizer": "8da4w",
    "Int8DynActInt4WeightQATQuantizer": "8da4w-qat",
    "Int8DynActInt4WeightQATQuantizerModuleSwap": "8da4w-qat-module-swap",
}


def get_quantizer_mode(quantizer: Callable[..., Any] | None) -> str | None:
    """Short name of what ``quantizer`` does: "4w" (int4 weights), "8da4w" (and int8 activations), "-qat" for training.

    None when there is no quantizer, or one that is not known.
    """
    return _MODES.get(type(quantizer).__name__)
