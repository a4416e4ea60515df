"""A trained model with smaller weights: quantized with torchao, in a folder of its own.

    tune run quantize --config quantization
    tune run quantize --config quantization quantizer=Int8WeightOnlyQuantizer device=cpu

Weights are read, quantized and written one at a time, so that no more than one is in memory.
"""

import logging
import time
from importlib.metadata import version
from pathlib import Path

from torchtune import config, training
from torchtune.config.schema import QuantizeConfig
from torchtune.errors import ConfigError
from torchtune.training.check_model import check_model
from torchtune.training.checkpointing import commit_folder
from torchtune.training.checkpointing.quantised import QuantisedWriter
from torchtune.training.model import meta_init
from torchtune.training.quantization import make_quantizer, quantisable
from torchtune.training.setup import start
from torchtune.utils import get_device, get_logger
from torchtune.utils.exit_codes import exits_cleanly

logger = logging.getLogger("torchtune.recipes.quantize")


class QuantizeRecipe:
    """Quantizes a model: ``setup``, then ``quantize``."""

    def __init__(self, cfg: QuantizeConfig) -> None:
        self.cfg = cfg

    def setup(self) -> None:
        """Make everything that is needed but the weights, and refuse what cannot work."""
        cfg = self.cfg
        training.set_seed(cfg.seed, cfg.cudnn_deterministic_mode)
        self.device = get_device(cfg.device)
        self.checkpointer = config.instantiate(cfg.checkpointer)
        self._check_format()
        self.quantizer = make_quantizer(cfg.quantizer)
        with meta_init(training.get_dtype(cfg.dtype, self.device)):
            self.model = config.instantiate(cfg.model)
        check_model(self.model, self.checkpointer)
        self.quantizer.check(self.model, self.device)

    def _check_format(self) -> None:
        folder = self.checkpointer.checkpoint_dir
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} has no config.json, and a quantized model's folder, in Hugging Face's layout, has one. "
                f"Bring the model into that layout first: tune export {folder} --to hf"
            )

    def quantize(self) -> Path:
        """Write the folder; gives its path."""
        started = time.perf_counter()
        names, made = quantisable(self.model), self.quantizer.torchao_config()
        writer = QuantisedWriter(self.checkpointer, made, names, self.device)
        state = self.model.state_dict()
        shapes = {name: (tuple(state[name].shape), state[name].dtype) for name in self.checkpointer.saved_as(state)}
        folder = Path(self.cfg.output_dir).expanduser() / self.quantizer.name
        facts = {"quantizer": self.quantizer.name, "torchao": version("torchao")}
        commit_folder(
            folder, lambda hidden: writer.write(hidden, self.checkpointer.weights(state), shapes), facts=facts
        )
        before = sum(tensor.nbytes for tensor in state.values())
        after = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        logger.info("%d of %d weights are quantized with %s.", len(names), len(state), type(made).__name__)
        if any(tensor.dim() == 3 for tensor in state.values()):
            logger.warning("Experts of a mixture are not quantized: torchao has no form for their stacks here.")
        seconds = time.perf_counter() - started
        logger.info("%s has %.1f MB instead of %.1f MB (%.1f s).", folder, after / 1e6, before / 1e6, seconds)
        return folder


@config.parse
@exits_cleanly
def main(cfg: QuantizeConfig) -> None:
    """Quantize a model."""
    start(cfg)
    config.log_config("QuantizeRecipe", config.source_of(cfg))
    recipe = QuantizeRecipe(cfg)
    recipe.setup()
    recipe.quantize()


if __name__ == "__main__":
    get_logger("INFO")  # for what reading the config has to say, before its log_level is known
    exits_cleanly(main)()
