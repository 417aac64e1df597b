"""Every attribute of torch that is not public, or that its type stubs do not know, in one place.

The tests of tests/python/ranks exercise each with the torch at hand.
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


def uncompiled(model: Any) -> Any:
    """The module that torch.compile wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def hook_names(ddp: DistributedDataParallel) -> list[str]:
    """Names of the communication hooks that the model has."""
    return [getattr(hook, "__qualname__", repr(hook)) for hook, _ in ddp._comm_hooks]


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
    queued after the first hook has run; what a queued callback queues comes after that.
    """
    queue = torch.autograd.Variable._execution_engine.queue_callback
    queue(lambda: queue(callback))
