"""Supervised fine-tuning on one device or many.

    tune run full_finetune_single_device --config llama3_2/1B_full_single_device
    tune run --nproc_per_node 2 full_finetune_distributed --config llama3_2/1B_full

One process is a world of size one: there is no second recipe for many. A step is a list of micro-batches; their losses
are summed over target tokens and divided by the count of the whole step over all processes, so that accumulation and
data parallelism give the numbers of one large batch.
"""

import logging
import math
import signal
import time
from contextlib import nullcontext
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from torchtune import config, training
from torchtune.config.schema import FinetuneConfig
from torchtune.data import validation_batches
from torchtune.errors import NonFiniteError
from torchtune.modules import resize_token_embeddings
from torchtune.modules.low_precision.nf4 import is_quantised
from torchtune.modules.peft import adapter_names
from torchtune.training.adapters import BaseWeights, describe_adapters, load_adapters, start_adapters
from torchtune.training.check_model import check_model
from torchtune.training.checkpointing import Checkpointer, check_vocabulary
from torchtune.training.contents import contents_of
from torchtune.training.data import is_stream, make_dataset, make_loader
from torchtune.training.distributed import World, join, sync_gradients
from torchtune.training.loss import Batch, count_targets, summed_loss
from torchtune.training.metric_logging import JsonlLogger, MetricLoggers
from torchtune.training.model import load_model
from torchtune.training.optim import InBackward, LossScaler, gradient_norm, scale_gradients
from torchtune.training.progress import ProgressDisplay
from torchtune.training.run_folder import ResumePoint, RunFolder, saved_facts
from torchtune.training.setup import (
    adapter_checkpoint,
    check_data,
    check_ids,
    check_lengths,
    check_max_seq_len,
    check_same_data,
    check_same_method,
    collate_for,
    compiles,
    give_hints,
    kept_checkpoints,
    make_scheduler,
    say_what_has_no_effect,
    setup_profiler,
    start,
    text_vocab_size,
)
from torchtune.training.signals import StopSignal
from torchtune.utils import batch_to_device, get_device, get_logger
from torchtune.utils.exit_codes import exits_cleanly

logger = logging.getLogger("torchtune.recipes.finetune")


class FinetuneRecipe:
    """Trains a model on a dataset: ``setup``, then ``train``, then ``cleanup``."""

    def __init__(self, cfg: FinetuneConfig, world: World) -> None:
        self.cfg, self.world = cfg, world
        self.folder = RunFolder(cfg.output_dir, world, kept_checkpoints(cfg))
        self.metrics = MetricLoggers([])
        self.global_step = self.epoch = self.step_in_epoch = 0
        self.validated: tuple[int, float] = (0, math.nan)  # the last step with a validation, and its loss

    def setup(self) -> bool:
        """Make everything that training needs; False when an earlier run in this folder has already finished."""
        cfg = self.cfg
        self.point = self.folder.resume_point() if cfg.resume_from_checkpoint else None
        if self.point is not None and self._is_finished(self.point):
            return False
        self._setup_logging()
        begun_with = self.point.facts["seed"] if self.point else cfg.seed
        say_what_has_no_effect(cfg, begun_with)
        give_hints(cfg, self.world.device)
        self.seed = training.set_seed(begun_with, cfg.cudnn_deterministic_mode) - self.world.rank
        self.tokenizer = config.instantiate(cfg.tokenizer)
        logger.info("Tokenizer is initialized from file.")
        self._setup_data()
        self._setup_model()
        self._setup_optimizer()
        self.profiler, _ = setup_profiler(cfg.profiler)
        if self.point is not None:
            self._resume(self.point)
        return True

    def _is_finished(self, point: ResumePoint) -> bool:
        facts = point.facts
        if not self._is_over(facts["epoch"], facts["step"], facts["step_in_epoch"] == facts["steps_per_epoch"]):
            return False
        if self.folder.status().get("status") != "completed":  # killed after its last save
            self.folder.note("completed")
        logger.info("Already complete: %s has %d epoch(s), %d steps.", point.path, facts["epoch"], facts["step"])
        return True

    def _is_over(self, epochs: int, steps: int, epoch_unsaved: bool) -> bool:
        """Whether a run that has done so many epochs and steps is at its end.

        Args:
            epoch_unsaved: all steps of an epoch are done, and it was not saved as one: the run was interrupted there.
        """
        if self.cfg.max_steps is None:
            return epochs >= self.cfg.epochs
        return steps > self.cfg.max_steps or (steps == self.cfg.max_steps and not epoch_unsaved)

    def _setup_logging(self) -> None:
        cfg = self.cfg
        nodes = cfg.metric_logger if isinstance(cfg.metric_logger, list) else [cfg.metric_logger]
        loggers = [JsonlLogger(cfg.output_dir), *map(config.instantiate, nodes)]
        if self.world.is_main:
            self.metrics = MetricLoggers(loggers)
        self.metrics.log_config(config.source_of(cfg))

    def _setup_data(self) -> None:
        cfg, world = self.cfg, self.world
        self.dataset = make_dataset(cfg.dataset, self.tokenizer, cfg, world)
        self.dataset_val = cfg.dataset_val and make_dataset(cfg.dataset_val, self.tokenizer, cfg, world)
        self.looked_at = check_data(self.dataset, self.dataset_val, self.tokenizer, cfg, world)
        collate = collate_for(self.dataset, cfg, self.tokenizer)
        self.loader = make_loader(self.dataset, collate, self.seed, cfg, world)
        known = [steps for steps in (self.loader.steps_per_epoch, cfg.max_steps_per_epoch) if steps is not None]
        self.steps_per_epoch = min(known, default=None)  # None: as many as a stream happens to have
        self.total_steps = cfg.max_steps or self.steps_per_epoch * cfg.epochs
        logger.info("Dataset and Sampler are initialized.")

    def _setup_model(self) -> None:
        cfg, world = self.cfg, self.world
        self.checkpointer = config.instantiate(cfg.checkpointer)
        self.base = BaseWeights(self.checkpointer if self.point is None else self._weights_of(self.point))
        self.model = load_model(
            self._build_model,
            self.base.weights,
            world,
            dtype=torch.float32 if cfg.dtype == "fp16" else training.get_dtype(cfg.dtype, world.device),
            prepare=self._prepare_model,
            cpu_offload=cfg.fsdp_cpu_offload,
            reshard_after_forward=cfg.fsdp_reshard_after_forward,
            prefetch_layers=cfg.fsdp_prefetch_layers,
        )
        self._setup_adapters()
        self.summed_loss = summed_loss(config.instantiate(cfg.loss), self.model)
        self.autocast = torch.autocast(world.device.type, torch.float16) if cfg.dtype == "fp16" else nullcontext()
        self.offloading = training.get_act_offloading_ctx_manager(
            self.model, cfg.enable_activation_offloading, cfg.activation_offloading_use_streams
        )
        wrapped = ["FSDP"] * (world.size > 1) + ["Activation Checkpointing"] * cfg.enable_activation_checkpointing
        enabled = f" {' and '.join(wrapped)} {'is' if len(wrapped) == 1 else 'are'} enabled." if wrapped else ""
        logger.info("Model is initialized with precision %s.%s", training.get_dtype(cfg.dtype, world.device), enabled)
        if adapter_names(self.model):
            logger.info(describe_adapters(self.model))
        if world.is_main:
            training.log_memory_stats(training.get_memory_stats(world.device))

    def _weights_of(self, point: ResumePoint) -> Checkpointer:
        """What the model is filled with on resume: what was trained, but below adapters the base that they are for."""
        return self.checkpointer if point.facts.get("adapters") else self.checkpointer.reading(point.path)

    def _setup_adapters(self) -> None:
        """Fill adapters: with those of the run that goes on, of the file that the config names, or with new ones."""
        if not adapter_names(self.model):
            return
        source = adapter_checkpoint(self.cfg) if self.point is None else self.point.path
        if source is None:
            start_adapters(self.model, self.seed)
        else:
            load_adapters(self.model, self.checkpointer, source, self.base)

    @staticmethod
    def _method(model: torch.nn.Module) -> dict[str, bool]:
        """What of the model must not change between a run and its resumption, besides what its files tell."""
        return {"adapters": bool(adapter_names(model)), "quantize_base": any(map(is_quantised, model.modules()))}

    def _build_model(self) -> torch.nn.Module:
        """The model whose shapes the weights have; those of a run that resized its vocabulary have the new size."""
        model = config.instantiate(self.cfg.model)
        if self.world.is_main:
            check_model(model, self.checkpointer)
        if self.point is not None and not self.point.facts.get("adapters"):
            self._resize_vocabulary(model)
        return model

    def _resize_vocabulary(self, model: torch.nn.Module) -> None:
        rows, wanted = model.tok_embeddings.num_embeddings, text_vocab_size(self.tokenizer)
        if self.cfg.resize_token_embeddings and wanted > rows:
            resize_token_embeddings(model, wanted)
            logger.info("The vocabulary grows from %d to %d; new rows start as the mean of the old ones.", rows, wanted)

    def _prepare_model(self, model: torch.nn.Module) -> None:
        """Vocabulary, recomputation and compilation, while the model has shapes but no storage."""
        cfg = self.cfg
        if self.point is not None:
            check_same_method(self.point.facts, self._method(model))
        self._resize_vocabulary(model)
        check_max_seq_len(model, self.tokenizer)
        check_lengths(model, self.looked_at)
        check_vocabulary(model.tok_embeddings.num_embeddings, text_vocab_size(self.tokenizer))
        check_ids(model, self.looked_at, self.tokenizer, cfg, self.world)
        if cfg.enable_activation_checkpointing or cfg.ac_mode:
            training.apply_selective_activation_checkpointing(model, cfg.ac_mode or "full", cfg.ac_option)
        if compiles(cfg.compile, "model"):
            training.compile_model(model)

    def _setup_optimizer(self) -> None:
        cfg = self.cfg
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        make = partial(config.instantiate, cfg.optimizer)
        self.optimizer = InBackward(make, self.trained) if cfg.optimizer_in_bwd else make(self.trained)
        logger.info("Optimizer and loss are initialized.")
        logger.info("Loss is initialized.")
        self.scheduler = make_scheduler(cfg.lr_scheduler, self.optimizer, self.total_steps)
        self.scaler = LossScaler(enabled=cfg.dtype == "fp16")

    def _resume(self, point: ResumePoint) -> None:
        facts = point.facts
        check_same_data(facts, self._fingerprint)
        self.folder.load_state(point, self.model, self.optimizer)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(facts["scheduler"])
        self.scaler.load_state_dict(facts["scaler"])
        self.loader.load_state_dict(facts["loader"])
        self.global_step, self.epoch, self.step_in_epoch = facts["step"], facts["epoch"], facts["step_in_epoch"]
        logger.info(
            "Going on after step %d: epoch %d, step %d.", self.global_step, self.epoch + 1, self.step_in_epoch + 1
        )

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """What must not change between a run and its resumption, or the position in the data means something else."""
        cfg = self.cfg
        return {
            "samples_per_step": self.loader.samples_per_step,
            "num_samples": None if is_stream(self.dataset) else len(self.dataset),
            "data": getattr(self.dataset, "fingerprint", str)(),
            "shuffle": cfg.shuffle,
            "group_by_length": cfg.group_by_length,
            "steps_per_epoch": self.steps_per_epoch,
        }

    # What the method is ----------------------------------------------------------------------------------------------

    def weight(self, batch: Batch) -> Tensor:
        """How much a micro-batch counts in the mean: its target tokens."""
        return count_targets(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy summed over target tokens."""
        with self.autocast, self.offloading:
            return self.summed_loss(self.model, batch)

    # The loop --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Run all epochs, with a checkpoint at the end of each, and more often if the config says so."""
        cfg, world = self.cfg, self.world
        self.folder.begin(self.point)
        self.model.train()
        first = self.global_step + 1  # it alone waits for compilation and the like
        with StopSignal() as stop, self.profiler as profiler:
            while not self._is_over(self.epoch, self.global_step, self.step_in_epoch == self.steps_per_epoch):
                left = self.steps_left()
                display = ProgressDisplay(self.step_in_epoch + left, self.step_in_epoch, visible=world.is_main)
                steps = self.loader.epoch(self.epoch, self.step_in_epoch)
                started = time.perf_counter()
                for micro_batches in islice(steps, left):
                    mean, norm, tokens = self.step(micro_batches)
                    self.global_step += 1
                    self.step_in_epoch += 1
                    display.step(self.epoch + 1, self.global_step, mean)
                    if tokens:
                        self.report(mean, norm, tokens / (time.perf_counter() - started))
                    profiler.step()
                    if self.global_step == first:
                        world.set_timeout(cfg.train_timeout_seconds)
                    if cfg.run_val_every_n_steps and self.global_step % cfg.run_val_every_n_steps == 0:
                        self.validate()
                    if number := world.max(stop.received or 0):
                        self.interrupt(number)
                    if cfg.save_every_n_steps and self.global_step % cfg.save_every_n_steps == 0 and self.steps_left():
                        self.save_checkpoint(f"step_{self.global_step}")
                    started = time.perf_counter()
                display.close()
                self.end_epoch()
        self.folder.note("completed")

    def steps_left(self) -> int:
        """Optimizer steps until this epoch or the run ends, unless a stream ends before."""
        in_run = self.total_steps - self.global_step
        return in_run if self.steps_per_epoch is None else min(in_run, self.steps_per_epoch - self.step_in_epoch)

    def end_epoch(self) -> None:
        """Save what an epoch has come to, or the run where that ends within one."""
        name = f"step_{self.global_step}"
        if self.steps_left():
            logger.warning("Epoch %d ends after %d steps, as its stream does.", self.epoch + 1, self.step_in_epoch)
        if self.global_step != self.cfg.max_steps or self.step_in_epoch == self.steps_per_epoch:
            name, self.step_in_epoch = f"epoch_{self.epoch}", 0
            self.epoch += 1
        self.save_checkpoint(name)

    def step(self, micro_batches: list[Batch]) -> tuple[float, float, int]:
        """One optimizer step; gives the mean loss, the gradient norm and the count of target tokens of all processes.

        Raises:
            NonFiniteError: the loss or the norm is NaN or infinite; no process takes the step.
        """
        cfg, world = self.cfg, self.world
        total = world.sum(torch.stack([self.weight(batch) for batch in micro_batches]).sum().to(world.device))
        if total == 0:  # the same on all processes: nothing to learn from, and 0 / 0 otherwise
            logger.warning("Step %d has no target token; skipped.", self.global_step + 1)
            return 0.0, 0.0, 0
        running = torch.zeros((), device=world.device)
        for i, batch in enumerate(micro_batches):
            sync_gradients(self.model, now=i == len(micro_batches) - 1 or not cfg.fsdp_accumulate_unsharded)
            batch_to_device(batch, world.device)
            loss = self.loss(batch)
            running += loss.detach()
            if cfg.optimizer_in_bwd:  # backward takes the step, so this is the last moment to stop it
                self.check_finite(world.sum(loss.detach().clone()).item())
            (loss * (world.size * self.scaler.scale / total)).backward()  # FSDP averages over processes; undo it
        norm = gradient_norm(self.trained).item() / self.scaler.scale
        mean = (world.sum(running) / total).item()
        if self.scaler.enabled and not math.isfinite(norm):
            self.scaler.update(finite=False)
            self.check_finite(mean, float("inf") if self.scaler.exhausted else 0.0)
        else:
            self.check_finite(mean, norm)
            self.scaler.update(finite=True)
            factor = min(1.0, cfg.clip_grad_norm / (norm + 1e-6)) if cfg.clip_grad_norm else 1.0
            if factor / self.scaler.scale != 1.0:
                scale_gradients(self.trained, factor / self.scaler.scale)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        return mean, norm, int(total)

    def check_finite(self, *values: float) -> None:
        """Raises NonFiniteError, on all processes alike, unless every value is finite."""
        if not all(map(math.isfinite, values)):
            raise NonFiniteError(
                f"step {self.global_step + 1}: loss or gradient norm is {values}. The step was not taken. Lower the "
                "learning rate, set clip_grad_norm, or look at the samples of this step; earlier checkpoints are safe."
            )

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss over the validation set, logged as ``val_loss``."""
        cfg, world = self.cfg, self.world
        collate = collate_for(self.dataset_val, cfg, self.tokenizer)
        self.model.eval()
        summed, count = torch.zeros((), device=world.device), torch.zeros((), device=world.device)
        size = cfg.batch_size_val or cfg.batch_size
        for batch in validation_batches(self.dataset_val, size, world.rank, world.size, collate):
            batch_to_device(batch, world.device)
            count += self.weight(batch)
            summed += self.loss(batch)
        self.model.train()
        mean = (world.sum(summed) / world.sum(count).clamp(min=1)).item()
        self.metrics.log_dict({"val_loss": mean}, step=self.global_step)
        self.validated = (self.global_step, mean)
        logger.info("Validation loss after step %d: %.4f", self.global_step, mean)
        return mean

    def report(self, loss: float, norm: float, tokens_per_second: float) -> None:
        """Give the metric loggers what this step measured."""
        cfg = self.cfg
        if not self.world.is_main or self.global_step % (cfg.log_every_n_steps or 1):
            return
        values = {"loss": loss, "lr": training.get_lr(self.optimizer)}
        if not cfg.optimizer_in_bwd:  # no gradient is left to be measured
            values["grad_norm"] = norm
        values["tokens_per_second_per_gpu"] = tokens_per_second / self.world.size
        if cfg.log_peak_memory_stats:
            values |= training.get_memory_stats(self.world.device)
        self.metrics.log_dict(values, step=self.global_step)

    def interrupt(self, number: int) -> None:
        """Save, and end the run as the signal of this number asks."""
        name = f"step_{self.global_step}"
        self.save_checkpoint(name)
        self.folder.note("interrupted")
        told = signal.Signals(number).name
        logger.warning("Stopped by %s after saving %s; resume_from_checkpoint=True goes on from it.", told, name)
        raise SystemExit(128 + number)

    def save_checkpoint(self, name: str) -> None:
        """Write a checkpoint that this run can be resumed from; every process calls this."""
        facts = saved_facts(
            self.optimizer,
            **self._fingerprint,
            step=self.global_step,
            val_loss=self.validated[1] if self.validated[0] == self.global_step else None,
            epoch=self.epoch,
            step_in_epoch=self.step_in_epoch,
            loader=self.loader.state_dict(),
            epochs=self.cfg.epochs,
            max_steps_per_epoch=self.cfg.max_steps_per_epoch,
            seed=self.seed,
            scheduler=None if self.scheduler is None else self.scheduler.state_dict(),
            scaler=self.scaler.state_dict(),
            **self._method(self.model),
        )
        started = time.perf_counter()
        only = self.cfg.save_adapter_weights_only
        files = getattr(self.tokenizer, "files", {})  # what of it did not come from the folder of the base
        contents = contents_of(self.model, self.checkpointer, self.base, self.world, adapters_only=only, files=files)
        base = [self.checkpointer.checkpoint_dir]
        path = self.folder.save(name, contents, self.model, self.optimizer, facts, protect=base)
        logger.info("Checkpoint %s is complete (%.1f s).", path, time.perf_counter() - started)

    def cleanup(self) -> None:
        """Close what was opened."""
        self.metrics.close()
        self.folder.close()


@config.parse
@exits_cleanly
def main(cfg: FinetuneConfig) -> None:
    """Fine-tune a model."""
    start(cfg)
    with join(
        get_device(cfg.device), cpu_offload=cfg.fsdp_cpu_offload, timeout_seconds=cfg.init_timeout_seconds
    ) as world:
        config.log_config("FinetuneRecipe", config.source_of(cfg))
        recipe = FinetuneRecipe(cfg, world)
        try:
            if recipe.setup():
                recipe.train()
        finally:
            recipe.cleanup()


if __name__ == "__main__":
    get_logger("INFO")  # for what reading the config has to say, before its log_level is known
    exits_cleanly(main)()
