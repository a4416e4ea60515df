"""A checkpoint in the format of another program: which formats there are, and the one function that writes them all.

One module per format (``_gguf`` for ``gguf``) plans what is written and reads it back; both with nothing else in mind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchtune.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """A format: what it is for, the options that only some have, and whether it holds an adapter and no model."""

    text: str
    options: tuple[str, ...] = ()
    of_adapter: bool = False


TARGETS: Mapping[str, Target] = {
    "hf": Target("a folder for transformers, vLLM and the Hub", ("dtype", "max_shard_size")),
    "peft": Target("the adapter alone, for PEFT and vLLM", of_adapter=True),
    "gguf": Target("one file for llama.cpp and programs built on it", ("quantize",)),
    "ollama": Target("a GGUF file with a Modelfile", ("quantize",)),
    "torchtune": Target("a .pt file with this library's names of tensors", ("dtype",)),
    "meta": Target("consolidated.00.pth and params.json", ("dtype",)),
}
REPORT = "verify.json"
DTYPES = ("fp32", "fp16", "bf16")
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Args:
        dtype: of floating-point weights, one of :data:`DTYPES`; None keeps the checkpoint's.
        quantize: of matrices in a GGUF file, one of :data:`QUANTIZATIONS`; None is the checkpoint's dtype.
        max_shard_size: bytes per file of weights, or text such as ``5GB``.
        base: a Hugging Face folder with what the checkpoint lacks: config and tokenizer, and the weights below an
            adapter. None: what ``adapter_config.json`` names, if that is a folder here.
        verify: read the result back with other programs' code and compare it with ours.
        force: replace what an earlier export wrote.
    """

    dtype: str | None = None
    quantize: str | None = None
    max_shard_size: int | str | None = None
    base: Path | None = None
    verify: bool = False
    force: bool = False


def export_to(path: str | Path, to: str, output_dir: str | Path, options: Options = Options()) -> Path:
    """Write a checkpoint in another format; gives the folder, which appears once it is complete.

    Args:
        path: a folder that a run or ``tune download`` wrote, or a file in one: weights or an adapter.
        to: one of :data:`TARGETS`.

    Raises:
        ConfigError: no such format, or one without the given option; the output is in use.
        CheckpointError: the checkpoint cannot be read or expressed in the format, or the check found a difference.
        MissingDependency: the format, or checking it, needs a package that is not installed.
    """
    _check(to, options)
    from torchtune.export._write import write_export

    return write_export(Path(path).expanduser(), to, Path(output_dir).expanduser(), options)


def _check(to: str, options: Options) -> None:
    if to not in TARGETS:
        from torchtune.config._problem import near

        raise ConfigError(f"there is no format {to!r}.{near(to, TARGETS)} The formats are: {', '.join(TARGETS)}.")
    choices = {"dtype": DTYPES, "quantize": QUANTIZATIONS, "max_shard_size": None}
    for name, known in choices.items():
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if name not in TARGETS[to].options:
            have = " and ".join(target for target, row in TARGETS.items() if name in row.options)
            raise ConfigError(f"{flag} has no meaning with --to {to}; it goes with {have}")
        if known and value not in known:
            raise ConfigError(f"{flag} is {value!r}; known are {', '.join(known)}")
