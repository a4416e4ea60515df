"""Files in which stacks of experts are in MXFP4, as gpt-oss is released."""

import torch
from torch import Tensor

from torchtune.modules.low_precision.mxfp4 import dequantize_mxfp4
from torchtune.training.checkpointing._safetensors import Info
from torchtune.training.checkpointing._source import Tensors

MXFP4 = "mxfp4"
"""The ``quant_method`` of such files."""
_BLOCKS, _SCALES = "_blocks", "_scales"


class Mxfp4Experts:
    """The tensors of such files, each stack [E, out, in] as the bfloat16 tensor [E, in, out] that it was made of.

    One matrix of a stack is taken from its blocks at a time.
    """

    def __init__(self, files: Tensors) -> None:
        self._files, found = files, files.infos
        self._stacks = {n.removesuffix(_BLOCKS) for n in found if n.endswith(_BLOCKS)}
        self._stacks = {stack for stack in self._stacks if stack + _SCALES in found}
        self.infos: dict[str, Info] = {}
        for name, info in found.items():
            stack = name.removesuffix(_BLOCKS).removesuffix(_SCALES)
            if stack not in self._stacks:
                self.infos[name] = info
            elif name.endswith(_BLOCKS):
                experts, rows, blocks, half = info.shape
                self.infos[stack] = Info((experts, blocks * half * 2, rows), torch.bfloat16)

    def where(self, name: str) -> str:
        return self._files.where(name + _BLOCKS if name in self._stacks else name)

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        if name not in self._stacks:
            return self._files.read(name, rows)
        shape = self.infos[name].shape
        experts = range(*(rows or (0, shape[0])))
        whole = torch.empty(len(experts), *shape[1:], dtype=torch.bfloat16)
        for place, i in enumerate(experts):
            blocks, scales = (self._files.read(name + part, (i, i + 1))[0] for part in (_BLOCKS, _SCALES))
            whole[place] = dequantize_mxfp4(blocks, scales).t()
        return whole
