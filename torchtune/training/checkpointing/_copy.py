"""The files beside the weights: tokenizer, licence, configs. They go along as they are, save what would contradict."""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torchtune.training.checkpointing._atomic import MANIFEST, RECIPE_STATE
from torchtune.training.checkpointing._io import FileRecord, HashedFile, copy_file

_MAX_BYTES = 100 * 2**20  # torchtune's documented limit for what is copied
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".gguf")
# An adapter_config.json without its adapter makes transformers look for one; checklist.chk has the old weights' sums.
_NOT_COPIED = re.compile(
    rf"\.index\.json$|^{re.escape(MANIFEST)}$|^adapter(_config\.json)?$|^checklist\.chk$|^\.|^torchtune_config\.yaml$|"
    rf"^run_state\.json$|^(epoch|step)_\d+$|^{RECIPE_STATE}$|^logs$|^metrics\.jsonl$|^profiling_outputs$|"
    r"^results_\d.*\.json$|^samples_.*\.jsonl$|^generations\.jsonl$|^verify\.json$"
)

logger = logging.getLogger(__name__)


def copy_rest(
    source: Path,
    target: Path,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    without: Collection[str] = (),
) -> dict[str, FileRecord]:
    """Copy what is not weights, not the output of a run and not hidden; gives the records of the copies.

    Args:
        changes: name of a JSON file -> keys to set in it.
        without: further names to leave out.
    """
    if not source.is_dir():
        logger.warning("%s is gone; what lay beside its weights, such as the tokenizer, is not copied.", source)
        return {}
    records = {}
    for path in sorted(_files(source, target)):
        name = path.relative_to(source).as_posix()
        if name in without or (target / name).exists():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if edits := (changes or {}).get(name):
            with HashedFile(target / name) as out:
                out.write(_edited(path.read_text(encoding="utf-8"), edits))
            records[name] = out.record
        else:
            records[name] = copy_file(path, target / name)
    return records


def _files(folder: Path, target: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if _NOT_COPIED.search(path.name) or path.resolve() in (target.resolve(), *target.resolve().parents):
            continue
        if path.is_dir():
            yield from _files(path, target)
        elif path.is_file() and path.suffix not in _WEIGHT_SUFFIXES and path.stat().st_size <= _MAX_BYTES:
            yield path


def _edited(text: str, edits: Mapping[str, Any]) -> bytes:
    """JSON in the layout that ``save_pretrained`` gives it, with some keys set; key order stays."""
    return (json.dumps(json.loads(text) | dict(edits), indent=2, ensure_ascii=False) + "\n").encode()
