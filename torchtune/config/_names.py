"""Short and former names of components -> the dotted paths they stand for, and which arguments each role is handed."""

from collections.abc import Iterator
from dataclasses import dataclass

from torchtune.config import _source, _static
from torchtune.config._problem import near
from torchtune.errors import ConfigError

# Names that moved inside torchtune between its releases 0.1 and 0.6; a prefix carries all that lies below it.
MOVED: dict[str, str] = {
    "torchtune.utils.FullModelMetaCheckpointer": "torchtune.training.FullModelMetaCheckpointer",
    "torchtune.utils.FullModelHFCheckpointer": "torchtune.training.FullModelHFCheckpointer",
    "torchtune.utils.FullModelTorchTuneCheckpointer": "torchtune.training.FullModelTorchTuneCheckpointer",
    "torchtune.utils.checkpointing": "torchtune.training.checkpointing",
    "torchtune.utils.metric_logging": "torchtune.training.metric_logging",
    "torchtune.utils.setup_torch_profiler": "torchtune.training.setup_torch_profiler",
    "torchtune.utils.profiler": "torchtune.training.setup_torch_profiler",
    "torchtune.utils.torch_profiler": "torchtune.training.setup_torch_profiler",
    "torchtune.utils.lr_schedulers": "torchtune.training.lr_schedulers",
    "torchtune.utils.get_cosine_schedule_with_warmup": "torchtune.training.get_cosine_schedule_with_warmup",
    "torchtune.modules.get_cosine_schedule_with_warmup": "torchtune.training.get_cosine_schedule_with_warmup",
    "torchtune.modules.lr_schedulers": "torchtune.training.lr_schedulers",
    "torchtune.utils.quantization": "torchtune.training.quantization",
    "torchtune.utils.padded_collate": "torchtune.data.padded_collate_sft",
    "torchtune.utils.padded_collate_dpo": "torchtune.data.padded_collate_dpo",
    "torchtune.utils.collate": "torchtune.data",
    "torchtune.modules.loss.DPOLoss": "torchtune.rlhf.loss.DPOLoss",
    "torchtune.modules.rlhf.loss": "torchtune.rlhf.loss",
    "torchtune.modules.tokenizers": "torchtune.modules.transforms.tokenizers",
}


def current(path: str) -> str:
    """The path under which a component lies today."""
    for old in sorted(MOVED, key=len, reverse=True):
        if path == old or path.startswith(old + "."):
            return MOVED[old] + path[len(old) :]
    return path


@dataclass(frozen=True)
class Role:
    """What a config key stands for.

    Args:
        modules: where short names are looked up.
        handed: arguments that a recipe passes by position.
        words: arguments that a recipe passes by name, where the component takes them.
        suffix: what a short name may leave out at its end.
        of_entry: keys of a component in a list that the recipe itself reads.
    """

    modules: tuple[str, ...] = ()
    handed: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    suffix: str = ""
    of_entry: tuple[str, ...] = ()


_FAMILIES = ("torchtune.models",)
_MODEL = Role(_FAMILIES)
_DATASET = Role(("torchtune.datasets", "torchtune.datasets.multimodal"), handed=("tokenizer",), suffix="_dataset",
                of_entry=("weight",))  # fmt: skip
_CHECKPOINTER = Role(
    ("torchtune.training",),
    words=("resume_from_checkpoint", "should_load_recipe_state", "process_group"),
    suffix="Checkpointer",
)

ROLES: dict[str, Role] = {
    "model": _MODEL,
    "teacher_model": _MODEL,
    "tokenizer": Role(_FAMILIES, suffix="_tokenizer"),
    "dataset": _DATASET,
    "dataset_val": _DATASET,
    "optimizer": Role(("torch.optim", "bitsandbytes.optim", "torchao.optim"), handed=("params",)),
    "loss": Role(("torchtune.modules.loss", "torch.nn", "torchtune.rlhf.loss"), suffix="Loss"),
    "kd_loss": Role(("torchtune.modules.loss",), suffix="Loss"),
    "lr_scheduler": Role(("torchtune.training.lr_schedulers", "torch.optim.lr_scheduler"), handed=("optimizer",),
                         words=("num_training_steps", "last_epoch")),
    "metric_logger": Role(("torchtune.training.metric_logging",), suffix="Logger"),
    "checkpointer": _CHECKPOINTER,
    "ref_checkpointer": _CHECKPOINTER,
    "teacher_checkpointer": _CHECKPOINTER,
    "profiler": Role(("torchtune.training",)),
    "quantizer": Role(("torchtune.training.quantization",), suffix="Quantizer"),
    "collate_fn": Role(("torchtune.data",)),
}  # fmt: skip


def expand(role: str, short: str) -> str:
    """The dotted path that a short name means under a key, as ``SGD`` under ``optimizer``.

    Raises:
        ConfigError: no module of that role has the name; says the nearest one.
    """
    rule = ROLES[role]
    known: list[str] = []
    likeliest: list[str] = []
    for module in _modules(rule, short):
        for name in dict.fromkeys((short + rule.suffix, short)):  # `llama3` is a model as well
            try:
                found = _static.define(f"{module}.{name}")
            except _static.Absent as e:
                known += [n for n in e.names if not n.startswith("_")]
                likeliest = likeliest or list(known)
                continue
            if found is not None and found.kind != "module":
                return f"{module}.{name}"
    stems = [n.removesuffix(rule.suffix) for n in known]
    hint = near(short, likeliest if rule.modules == _FAMILIES else []) or near(short, [*stems, *known])
    raise ConfigError(f"{role}: nothing named {short!r} in {' or '.join(rule.modules)}.{hint}")


def _modules(rule: Role, short: str) -> Iterator[str]:
    """Where to look, the likeliest first; the models' package has one module per family, so names choose among them."""
    if rule.modules != _FAMILIES:
        yield from rule.modules
        return
    stem = short.removeprefix("qlora_").removeprefix("lora_")
    families = _source.sub_modules("torchtune.models")
    yield from (f"torchtune.models.{f}" for f in sorted(families, key=lambda f: (not stem.startswith(f), -len(f))))
    yield "torchtune.models"  # what is of no one family: auto
