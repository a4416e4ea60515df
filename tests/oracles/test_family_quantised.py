"""Every family in a folder of 8-bit weights: the logits of transformers' model, quantised by torchao in its memory."""

from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from family_cases import Case, all_cases

from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.checkpointing.quantised import QuantisedWriter
from torchtune.training.quantization import Int8WeightOnlyQuantizer, load_quantised, quantisable

CPU = torch.device("cpu")
FAMILIES = {name.partition("/")[0]: case for name, case in reversed(all_cases().items())}


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
@torch.no_grad()
def test_logits_are_transformers_with_torchao(case: Case, tmp_path: Path) -> None:
    from torchao.quantization import quantize_

    case.oracle().save_pretrained(tmp_path / "float")
    source = FullModelHFCheckpointer(tmp_path / "float")
    build = partial(source.family.build, source.config)
    with torch.device("meta"):
        model = build()
    state, config = model.state_dict(), Int8WeightOnlyQuantizer().torchao_config()
    (tmp_path / "int8").mkdir()
    shapes = {name: (tuple(state[name].shape), dtype) for name, (_, dtype) in source.saved_as(state).items()}
    QuantisedWriter(source, config, quantisable(model), CPU).write(tmp_path / "int8", source.weights(state), shapes)

    ours = load_quantised(build, FullModelHFCheckpointer(tmp_path / "int8"), CPU, torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "float", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    quantize_(theirs, config, lambda layer, name: type(layer) is torch.nn.Linear and name != "lm_head")
    tokens = torch.randint(3, 97, (2, case.seq_len), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=case.tolerance, atol=case.tolerance)
