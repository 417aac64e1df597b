"""Every attribute of torch that is not public, or that its type stubs do not know, in one place.

The tests of tests/python/ranks exercise each with the torch at hand; those of FSDP2 one by one in
test_torch_private.py.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket, PrefixStore, Store, TCPStore
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

__all__ = ["GradBucket", "GradScaler", "Store", "TCPStore"]


def private_gloo_group(store: Store, rank: int, size: int, name: str, timeout: timedelta) -> Any:
    """A gloo group that torch's list of groups does not know."""
    gloo: Any = dist.ProcessGroupGloo
    return gloo(PrefixStore(name, store), rank, size, timeout)


def environment_rendezvous() -> tuple[Store, int, int]:
    """(store, rank, number of ranks) by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    rendezvous: Any = getattr(dist, "rendezvous")  # noqa: B009 (the stubs do not know it)
    store, rank, size = next(iter(rendezvous("env://")))
    return store, rank, size


def timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def loss_scale(scaler: GradScaler | None) -> torch.Tensor | None:
    """The scaler's scale where it keeps it, without waiting for the device; None without one."""
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler._get_scale_async()


_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and checkpoint_wrapper put into the names of the modules that they wrap."""


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers have added: a state fits with and without them."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def uncompiled(model: Any) -> Any:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def hooks(ddp: DistributedDataParallel) -> list[tuple[str, Any]]:
    """Names and states of the communication hooks that the model has."""
    return [(getattr(hook, "__qualname__", repr(hook)), state) for hook, state in ddp._comm_hooks]


def forget_hooks(ddp: DistributedDataParallel) -> None:
    """For a copy of a model: hooks are copied as notes of Python, not to DDP's reducer."""
    ddp._comm_hooks.clear()


def uses_python_reducer(ddp: DistributedDataParallel) -> bool:
    return bool(ddp._use_python_reducer)


def is_joining(ddp: Any) -> bool:
    """Whether the model runs inside torch's Join."""
    return bool(ddp._join_config.enable)


def has_optimizer_in_backward(parameter: torch.Tensor) -> bool:
    return hasattr(parameter, "_in_backward_optimizers")


def after_backward(callback: Callable[[], None]) -> None:
    """From within backward: calls back when it is over and DDP has finished with it too.

    An exception of the callback surfaces from backward() with its type. DDP's own finalizer is
    queued after the last hook has run; what a queued callback queues comes after that.
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback
    queue(lambda: queue(callback))


class FsdpGroup:
    """Parameters that fully_shard gathers as one buffer, and whose gradients it reduces as one.

    ``module`` has FSDPModule's setters, which are public; all else that thinwire asks is not.
    """

    def __init__(self, fqn: str, module: Any, group: Any, alone: bool, names: list[str]) -> None:
        self.fqn = fqn
        self.module = module
        self.alone = alone
        """False where torch (2.12) keeps several groups for the module: it has one setter."""
        self._group = group
        self._names = names

    def shards(self, *, trainable: bool) -> list[tuple[str, torch.Size]]:
        """Name and shape of each parameter's shard on this rank, padded, in a buffer's order.

        ``trainable``: only those that get gradients, as far as this can be known beforehand.
        """
        pairs = zip(self._names, self._group.fsdp_params, strict=True)
        return [
            (name, p.padded_sharded_param_size)
            for name, p in pairs
            if p.sharded_param.requires_grad or not trainable
        ]

    @property
    def shard_group(self) -> dist.ProcessGroup | None:
        return getattr(self._group.mesh_info, "shard_process_group", None)

    @property
    def device(self) -> torch.device:
        """Where gradients are reduced."""
        device: torch.device = self._group.device
        return device

    @property
    def reduces_over_replicas(self) -> bool:
        return self._group.mesh_info.replicate_mesh_dim is not None

    @property
    def divide_factor(self) -> float | None:
        """What set_gradient_divide_factor was given."""
        factor: float | None = self._group.gradient_divide_factor
        return factor

    @property
    def offloads(self) -> bool:
        """Whether gradients are reduced on another device than the parameters stand on."""
        return any(p.offload_to_cpu for p in self._group.fsdp_params)

    @property
    def custom(self) -> dict[str, str]:
        """What is not torch's own here, by the name of its setter."""
        comms = {
            "set_custom_reduce_scatter": type(self._group._reduce_scatter_comm).__name__,
            "set_custom_all_gather": type(self._group._all_gather_comm).__name__,
        }
        custom = {k: name for k, name in comms.items() if not name.startswith("Default")}
        if (hook := self._group._all_reduce_hook) is not None:
            custom["set_all_reduce_hook"] = getattr(hook, "__qualname__", repr(hook))
        return custom


def fsdp_groups(model: Any) -> list[FsdpGroup]:
    """Those of all modules of ``model`` that fully_shard was called on."""
    from torch.distributed.fsdp import FSDPModule  # half a second, and few need it

    modules = dict(model.named_modules())
    prefixes = {id(module): f"{name}." if name else "" for name, module in modules.items()}
    found: dict[int, FsdpGroup] = {}
    for fqn, module in modules.items():
        if not isinstance(module, FSDPModule):
            continue
        state: Any = module._get_fsdp_state()
        if hasattr(state, "_fsdp_param_groups"):
            groups = list(state._fsdp_param_groups)
        else:
            groups = [] if state._fsdp_param_group is None else [state._fsdp_param_group]
        for group in groups:
            infos = [p._module_info for p in group.fsdp_params]
            names = [plain_name(prefixes[id(i.module)] + i.param_name) for i in infos]
            found.setdefault(id(group), FsdpGroup(fqn, module, group, len(groups) == 1, names))
    return list(found.values())


def premultiplier(op: Any) -> float | None:
    """The factor of NCCL's PREMUL_SUM; None for another operation."""
    if op != dist.ReduceOp.PREMUL_SUM:
        return None
    _, factor = op.__getstate__()
    return float(factor)
