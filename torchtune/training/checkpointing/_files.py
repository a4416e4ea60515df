"""Which files of a folder hold a model's weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.checkpointing._atomic import checkpoints
from torchtune.training.checkpointing._io import read_json

CheckpointFiles = str | Sequence[str] | Mapping[str, str] | None

_PART = re.compile(r"^(?P<stem>.*?)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.\w+)$")
_NOT_WEIGHTS = re.compile(
    r"^(adapter|optimizer|training_args|scheduler|rng|rng_state|scaler|recipe_state)\b|^adapter_|^\."
)


@dataclass
class FormattedCheckpointFiles:
    """The names of numbered files, for example ``model-00001-of-00030.safetensors`` and the 29 that follow.

    Args:
        filename_format: a name with two ``{}``: the number and the count.
        max_filename: the count, with the leading zeros that the names have.
    """

    filename_format: str
    max_filename: str

    def __post_init__(self) -> None:
        if self.filename_format.count("{}") != 2:
            raise ConfigError(
                f"filename_format {self.filename_format!r} needs exactly two {{}}, for the number and the count, "
                "as in 'model-{}-of-{}.safetensors'"
            )
        if not str(self.max_filename).isdigit():
            raise ConfigError(f"max_filename {self.max_filename!r} is not a number, for example '00030'")

    @classmethod
    def from_dict(cls, d: dict) -> "FormattedCheckpointFiles":
        """From a config's node.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        if set(d) != {"filename_format", "max_filename"}:
            raise ConfigError(f"checkpoint_files needs filename_format and max_filename, it has {sorted(d)}")
        return cls(d["filename_format"], str(d["max_filename"]))

    def build_checkpoint_filenames(self) -> list[str]:
        """All the names, in order."""
        width, count = len(self.max_filename), int(self.max_filename)
        return [self.filename_format.format(f"{i:0{width}}", self.max_filename) for i in range(1, count + 1)]


def split_folder(checkpoint_dir: str | Path) -> tuple[Path, str | None]:
    """The folder, and the file's name when the path is one file.

    Raises:
        CheckpointError: there is nothing at the path, or only an adapter.
    """
    path = Path(checkpoint_dir).expanduser()
    if path.is_file():
        return path.parent, path.name
    if not path.is_dir():
        raise CheckpointError(f"checkpoint_dir {path} does not exist; `tune download` fetches a model into a folder")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"checkpoint_dir {path} holds an adapter and no model. Name the model that the adapter was trained on, and "
            "this folder as checkpointer.adapter_checkpoint."
        )
    return path, None


def named_files(folder: Path, files: CheckpointFiles) -> list[Path]:
    """The paths that a config's ``checkpoint_files`` means.

    Raises:
        CheckpointError: a file is absent or lies outside the folder.
        ConfigError: the entry has another form.
    """
    if isinstance(files, Mapping):
        files = FormattedCheckpointFiles.from_dict(dict(files)).build_checkpoint_filenames()
    elif isinstance(files, str | Path):
        files = [str(files)]
    names = sorted(str(f) for f in files or ())
    if not names:
        raise ConfigError("checkpoint_files is empty; name the files or leave the key out")
    paths = [_inside(folder, name) for name in names]
    absent = [p.name for p in paths if not p.is_file()]
    if absent:
        there = sorted(p.name for p in folder.iterdir() if p.is_file())[:20]
        raise CheckpointError(
            f"checkpoint_files names {', '.join(absent[:5])}, which {folder} does not have "
            f"({len(absent)} of {len(names)} absent). It has {', '.join(there) or 'no files'}. "
            "Leave checkpoint_files out to use what is there."
        )
    return paths


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise CheckpointError(f"checkpoint_files names {name!r}; a path inside checkpoint_dir is expected")
    return folder / name


def check_is_model_folder(folder: Path) -> None:
    """Raises CheckpointError where a folder has no ``config.json``; a run's output is told by its checkpoints."""
    if folder.is_dir() and not (folder / "config.json").is_file():
        check_is_no_run(folder)
        raise CheckpointError(
            f"{folder} has no config.json, so it is no model in Hugging Face's layout. It has {_listing(folder)}."
        )


def check_is_no_run(folder: Path) -> None:
    """Raises CheckpointError where a folder is the output of a run, which has its checkpoints below it."""
    if found := checkpoints(folder):
        raise CheckpointError(f"{folder} is the output of a run; name one of its checkpoints, the newest is {found[0]}")


def find_hf_files(folder: Path) -> list[Path]:
    """The shards of a Hugging Face folder: those that its index names, else those that are there.

    Raises:
        CheckpointError: there are none, or some of a set are absent.
    """
    for pattern, index in (
        ("*.safetensors", "model.safetensors.index.json"),
        ("*.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            return _indexed_files(folder / index, pattern[1:])
        found = _weights(folder, pattern)
        main = [p for p in found if p.name.startswith(("model", "pytorch_model"))]
        if main or found:
            return _complete(main or found)
    raise CheckpointError(f"{folder} has no weights: no *.safetensors and no *.bin. It has {_listing(folder)}.")


def find_meta_files(folder: Path) -> list[Path]:
    """``consolidated.00.pth`` and the other model-parallel parts.

    Raises:
        CheckpointError: there are none, or a number in between is absent.
    """
    found = sorted(folder.glob("consolidated*.pth"))
    if not found:
        raise CheckpointError(f"{folder} has no consolidated.*.pth. It has {_listing(folder)}.")
    numbers = [int(p.suffixes[0][1:]) for p in found if re.fullmatch(r"consolidated\.\d+\.pth", p.name)]
    absent = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    if absent:
        raise CheckpointError(f"{folder} lacks " + ", ".join(f"consolidated.{n:02}.pth" for n in absent))
    return found


def find_native_files(folder: Path) -> list[Path]:
    """The ``.pt`` files that a native save wrote.

    Raises:
        CheckpointError: there are none, or some of a set are absent.
    """
    found = _weights(folder, "*.pt")
    if not found:
        raise CheckpointError(f"{folder} has no *.pt file. It has {_listing(folder)}.")
    return _complete(found)


def _weights(folder: Path, pattern: str) -> list[Path]:
    return sorted(p for p in folder.glob(pattern) if p.is_file() and not _NOT_WEIGHTS.search(p.name))


def _listing(folder: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return ", ".join(names[:15]) + (f" and {len(names) - 15} more" if len(names) > 15 else "") if names else "nothing"


def _indexed_files(index: Path, suffix: str) -> list[Path]:
    """The files an index names. An index comes from elsewhere, so only plain names beside it are believed."""
    table = read_json(index)
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor")
    names = sorted({str(n) for n in weight_map.values()})
    for name in names:
        if not re.fullmatch(r"[\w][\w.\-+ ]*", name) or not name.endswith(suffix):
            raise CheckpointError(
                f"{index} names {name!r}; only plain names of {suffix} files beside it are read. "
                "The index may be malicious."
            )
    absent = [n for n in names if not (index.parent / n).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(absent[:5])} ({len(absent)} of the {len(names)} files that "
            f"{index.name} names); the download may be incomplete"
        )
    return [index.parent / n for n in names]


def _complete(paths: list[Path]) -> list[Path]:
    """The same paths, once it is sure that no part of a numbered set is absent."""
    names = {p.name for p in paths}
    for part in filter(None, map(_PART.match, sorted(names))):
        width = len(part["count"])
        wanted = [
            f"{part['stem']}-{i:0{width}}-of-{part['count']}{part['suffix']}" for i in range(1, int(part["count"]) + 1)
        ]
        absent = [n for n in wanted if n not in names]
        if absent:
            raise CheckpointError(
                f"{paths[0].parent} lacks {', '.join(absent[:5])} ({len(absent)} of {len(wanted)} parts); "
                "the download may be incomplete"
            )
    return paths
