"""The functions that torchtune's recipes call to join, shard, fill and gather; thin, over torch and ``distributed.py``.

New code uses :mod:`torchtune.training.distributed`, where one path serves one process and many.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.nn.modules.module import _IncompatibleKeys
from torch.optim import Optimizer

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.distributed import _backend, local_part, whole

# What torchrun sets: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
_GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

FullState = dict[str, Any]


# Joining.


def is_distributed() -> bool:
    """True when the environment describes a process group, as torchrun's does; also one of a single process."""
    return dist.is_available() and all(name in os.environ for name in _GROUP_VARIABLES)


def init_distributed(**kwargs: Any) -> bool:
    """Join the process group that the environment describes; False when it describes none.

    Args:
        kwargs: for :func:`torch.distributed.init_process_group`.
    """
    if not is_distributed():
        return False
    dist.init_process_group(**kwargs)
    return True


def get_distributed_backend(device_type: str, offload_ops_to_cpu: bool = False) -> str:
    """What joins processes on this kind of device: "nccl" for "cuda", "gloo" for "cpu".

    Args:
        offload_ops_to_cpu: also join tensors on the CPU, as in "cuda:nccl,cpu:gloo".
    """
    return _backend(torch.device(device_type), offload_ops_to_cpu)


# Sharding.


def get_shard_conditions(
    name: str, module: nn.Module, names_to_match: list[str] | None = None, *args: Any, **kwargs: Any
) -> bool:
    """True for a layer, whose name ends in ``layers.N``, and for a module with one of the names.

    Args:
        names_to_match: whole names, such as "tok_embeddings".
        args: not read, as ``kwargs``: they let a recipe ask all its conditions alike.
    """
    *_, parent, last = ("", *name.split("."))
    return (parent == "layers" and last.isdecimal()) or name in (names_to_match or ())


def shard_model(
    model: nn.Module,
    shard_conditions: list[Callable[[str, nn.Module], bool]],
    *,
    cpu_offload: bool,
    reshard_after_forward: bool = True,
    dp_mesh: DeviceMesh | None = None,
) -> None:
    """Split the parameters of every chosen module over the processes (FSDP2), in place; the rest is one more unit.

    The rest stays whole between forward and backward, because a loss may read the output projection.

    Args:
        shard_conditions: ``condition(name, module)``; a module is chosen when one is true.
        cpu_offload: parameters, gradients and optimizer state rest on the CPU.
        reshard_after_forward: give a module's whole parameters up after forward.
        dp_mesh: the processes; None is all of them.

    Raises:
        ConfigError: no module is chosen, so that the whole model would be gathered at once.
    """
    # FSDP wants a module's inner units to be made before it.
    chosen = [m for name, m in reversed(list(model.named_modules())) if any(c(name, m) for c in shard_conditions)]
    if not chosen:
        raise ConfigError(
            "shard_conditions choose no module of the model; name some, as get_shard_conditions does with `layers.N`"
        )
    policy: dict[str, Any] = {"mesh": dp_mesh, "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy()}
    for module in chosen:
        fully_shard(module, reshard_after_forward=reshard_after_forward, **policy)
    fully_shard(model, reshard_after_forward=False, **policy)


def recursive_reshard(module: nn.Module) -> None:
    """Give up whole parameters in ``module`` and all its FSDP parts, as after ``reshard_after_forward=False``."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


# Whole states <-> this process's pieces.


def load_from_full_model_state_dict(
    model: nn.Module,
    full_sd: FullState,
    device: torch.device,
    strict: bool = False,
    cpu_offload: bool = False,
    use_distributed_state_dict: bool = False,
    release_sd: bool = True,
) -> _IncompatibleKeys:
    """Fill a model, also a sharded one on the meta device, from whole tensors; gives the keys that did not fit.

    Args:
        full_sd: on every process; tensors get the dtype that the model has.
        strict: a key that does not fit is an error.
        cpu_offload: leave the pieces on the CPU.
        use_distributed_state_dict: only the first process's ``full_sd`` is read, and sent to the others.
        release_sd: let ``full_sd`` keep its names only, so that no second copy of the model is held.
    """
    if use_distributed_state_dict:
        return _load_from_rank_zero(model, full_sd, strict, cpu_offload, release_sd)
    wanted, pieces = model.state_dict(), {}
    for name in list(full_sd):
        full = full_sd[name]
        if release_sd:
            full_sd[name] = None
        pieces[name] = _piece(full, wanted[name], device, cpu_offload) if name in wanted else full
    return model.load_state_dict(pieces, strict=strict, assign=True)


def _load_from_rank_zero(
    model: nn.Module, full_sd: FullState, strict: bool, cpu_offload: bool, release_sd: bool
) -> _IncompatibleKeys:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict  # slow to import

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict, cpu_offload=cpu_offload)
    fitted = set_model_state_dict(model, full_sd, options=options)
    if release_sd:
        full_sd.update(dict.fromkeys(full_sd))
    return fitted


def _piece(full: Tensor, like: Tensor, device: torch.device, cpu_offload: bool) -> Tensor:
    """This process's rows, in the dtype of ``like``. The collective's device cuts; the CPU may keep."""
    piece = local_part(full.to(device, like.dtype), like)
    return piece.cpu() if cpu_offload else piece


def gather_cpu_state_dict(
    model: nn.Module,
    is_rank_zero: bool,
    device: torch.device | None = None,
    adapter_weights_only: bool = False,
) -> FullState:
    """The model's whole tensors on the CPU in the first process, and nothing in the others; all must call this.

    As with ``state_dict()``, what is whole and on the CPU already is not copied.

    Args:
        device: where pieces that rest on the CPU are gathered; None is where they are.
        adapter_weights_only: only parameters of modules with ``adapter_params()``.
    """
    state = model.state_dict()
    if adapter_weights_only:
        names = _adapter_names(model)
        state = {name: tensor for name, tensor in state.items() if name in names}
    return _gathered(state, is_rank_zero, device)


def _adapter_names(model: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if hasattr(module, "adapter_params")
        for name in module.adapter_params()
    }


def _gathered(state: Mapping[str, Any], is_rank_zero: bool, device: torch.device | None) -> FullState:
    """Whole CPU tensors, one gathered at a time; other values as they are. Empty but in the first process."""
    result = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            value = whole(value.detach() if device is None else value.detach().to(device))
        if is_rank_zero:
            result[name] = value.cpu() if isinstance(value, Tensor) else value
    return result


def get_full_optimizer_state_dict(
    model: nn.Module, opt: Optimizer, is_rank_zero: bool, device: torch.device | None = None
) -> FullState:
    """The optimizer's ``state`` and ``param_groups`` with whole CPU tensors, by the names of the parameters.

    In the first process; nothing in the others, but all must call this.

    Args:
        device: where pieces that rest on the CPU are gathered; None is where they are.
    """
    names = {param: name for name, param in model.named_parameters()}
    state = {names[param]: _gathered(slots, is_rank_zero, device) for param, slots in opt.state.items()}
    groups = [{**group, "params": [names[param] for param in group["params"]]} for group in opt.param_groups]
    return {"state": state, "param_groups": groups} if is_rank_zero else {}


def load_from_full_optimizer_state_dict(
    model: nn.Module, opt: Optimizer, full_sd: FullState, device: torch.device
) -> None:
    """Put back what :func:`get_full_optimizer_state_dict` gave, cut to this process's pieces.

    Args:
        full_sd: on every process.
        device: where the pieces are made; each ends beside its parameter.

    Raises:
        CheckpointError: the state is for other parameters, or for another number of groups.
    """
    names = {param: name for name, param in model.named_parameters()}
    trained = {names[param]: param for group in opt.param_groups for param in group["params"]}
    saved = [name for group in full_sd["param_groups"] for name in group["params"]]
    if set(saved) != set(trained) or len(full_sd["param_groups"]) != len(opt.param_groups):
        raise CheckpointError(
            f"the optimizer state is for {len(saved)} parameters in {len(full_sd['param_groups'])} groups, the "
            f"optimizer has {len(trained)} in {len(opt.param_groups)}; not in both: "
            f"{sorted(map(str, set(saved) ^ set(trained)))[:5]}. Resume with the model and optimizer that wrote it."
        )
    for group, state in zip(opt.param_groups, full_sd["param_groups"], strict=True):
        group.update({key: value for key, value in state.items() if key != "params"})
    for name, slots in full_sd["state"].items():
        opt.state[trained[name]] = {key: _slot(value, trained[name], device) for key, value in slots.items()}


def _slot(value: Any, param: Tensor, device: torch.device) -> Any:
    """A moment is split as its parameter is; a count of steps stays whole and where torch's optimizers keep it."""
    if not isinstance(value, Tensor) or value.shape != param.shape:
        return value
    return local_part(value.to(device), param).to(param.device)


# The context of a step.


def get_train_context(
    enable_loss_parallel: bool,
) -> Callable[[AbstractContextManager | None], AbstractContextManager[None]]:
    """A function that opens the contexts of a forward and backward: torch's ``loss_parallel``, and one it is given."""

    @contextmanager
    def context(context_parallel: AbstractContextManager | None = None) -> Iterator[None]:
        with ExitStack() as stack:
            if enable_loss_parallel:
                from torch.distributed.tensor.parallel import loss_parallel  # slow to import

                stack.enter_context(loss_parallel())
            if context_parallel is not None:
                stack.enter_context(context_parallel)
            yield

    return context
