"""Models to export, and a way to export them."""

from pathlib import Path

import pytest
import torch
from export_models import llama2, llama3, mistral, nemo

from torchtune.export import Options, export_to


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of base models, by name; tests leave them as they are."""
    root = tmp_path_factory.mktemp("models")
    return {
        "llama3": llama3(root / "llama3"),
        "bf16": llama3(root / "bf16", tied=False, dtype=torch.bfloat16),
        "llama2": llama2(root / "llama2"),
        "mistral_7b": mistral(root / "mistral_7b"),
        "nemo": nemo(root / "nemo"),
    }


@pytest.fixture
def export(tmp_path):
    """Exports into ``tmp_path / to`` and gives that folder."""

    def run(path: Path, to: str, **options) -> Path:
        return export_to(path, to, tmp_path / to, Options(**options))

    return run


@pytest.fixture
def ids():
    """Token ids that all the models have."""
    return torch.randint(600, (2, 40), generator=torch.Generator().manual_seed(0))
