"""Ways to average gradients under DDP: torch's own and thinwire's."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

ALL = [
    "ddp",
    "bf16",
    "powersgd:1",
    "powersgd:4",
    "thinwire:none",
    "thinwire:auto",
    "thinwire:bf16",
    "thinwire:int8",
    "thinwire:int4",
    "thinwire:sign",
    "thinwire:topk:0.01",
    "thinwire:topk:0.001",
]
TRAINED = [
    "ddp",
    "thinwire:int8",
    "thinwire:int4",
    "thinwire:sign",
    "thinwire:topk:0.01",
    "thinwire:sign@adam",
    "thinwire:topk:0.01@adam",
]
"""By default with --train: those with a bar for the loss, and sign and top-k without their rule."""
WARM_UP = 0.15
"""The part of training after which sign and top-k take over from bf16 (--train)."""


class NotHere(Exception):
    """A method that this machine cannot run; says why."""


@dataclass
class Attached:
    """A method at work on a DDP model."""

    sent_bytes: Callable[[int], int]
    """What this rank has sent to others, given the steps that were taken."""
    close: Callable[[], None] = lambda: None
    codec: str = ""
    """What thinwire uses; says what auto has picked."""


def wrap(model: nn.Module, method: str) -> DistributedDataParallel:
    """The model under DDP as ``method`` needs it."""
    device = next(model.parameters()).device
    # Gradients stand in the buckets: without it DDP copies each there and back.
    options: dict[str, Any] = {
        "device_ids": [device] if device.type == "cuda" else None,
        "gradient_as_bucket_view": True,
    }
    if method.startswith("powersgd") and device.type == "cpu":
        # torch chains PowerSGD's collectives from gloo's threads: those of two buckets mix.
        options["bucket_cap_mb"] = 1 << 20
    return DistributedDataParallel(model, **options)


def attach(
    method: str, ddp: DistributedDataParallel, optimizer: torch.optim.Optimizer | None = None
) -> Attached:
    """Puts ``method`` on the model; collective. Sign and top-k begin at once (for speed).

    ``optimizer``: for thinwire's, whose momentum they then code.
    """
    kind, _, argument = method.partition(":")
    if kind == "ddp":
        return _counted(ring_bytes(ddp))
    if kind == "bf16":
        ddp.register_comm_hook(None, default_hooks.bf16_compress_hook)
        return _counted(ring_bytes(ddp) // 2)
    if kind == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return _counted(ring_bytes(ddp) // 2)
    if kind == "powersgd":
        rank = int(argument)
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=rank, start_powerSGD_iter=2
        )
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        return _counted(_ring(4 * sum(_low_rank_elements(p, rank) for p in ddp.parameters())))
    if kind == "thinwire":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*optimizer rule")
            return _attach_thinwire(ddp, argument, optimizer=optimizer)
    raise SystemExit(f"unknown method '{method}'; there are {', '.join(ALL)}, fp16, and powersgd:R")


def attach_to_train(
    method: str, ddp: DistributedDataParallel, learning_rate: float, steps: int
) -> tuple[Attached, torch.optim.Optimizer]:
    """``method`` with the optimizer that it needs.

    Two more for comparison: ``thinwire:sign@adam`` is without its rule, ``ddp@frozen`` is the rule
    (the second moment frozen after the warm-up) without its codec.
    """
    method, _, variant = method.partition("@")
    options = {"lr": learning_rate, "fused": next(ddp.parameters()).is_cuda}
    needs_rule = method.startswith(("thinwire:sign", "thinwire:topk"))
    switch_at = max(1, round(WARM_UP * steps))
    if variant == "frozen":
        frozen = _library().AdamW(ddp.parameters(), freeze=switch_at, **options)
        return attach(method, ddp), frozen
    if not needs_rule or variant == "adam":
        return attach(method, ddp), torch.optim.AdamW(ddp.parameters(), **options)
    optimizer = _library().AdamW(ddp.parameters(), **options)
    codec = method.partition(":")[2]
    return _attach_thinwire(ddp, codec, optimizer=optimizer, switch_at=switch_at), optimizer


def ring_bytes(ddp: nn.Module) -> int:
    """What a rank sends for fp32 gradients in a ring allreduce."""
    return _ring(4 * sum(parameter.numel() for parameter in ddp.parameters()))


def _ring(payload: int) -> int:
    ranks = dist.get_world_size()
    return 2 * (ranks - 1) * payload // ranks


def _counted(bytes_a_step: int) -> Attached:
    return Attached(lambda steps: steps * bytes_a_step)


def _low_rank_elements(parameter: nn.Parameter, rank: int) -> int:
    """torch's PowerSGD leaves vectors, and matrices where it gains less than 2, as they are."""
    if parameter.dim() < 2:
        return parameter.numel()
    rows = parameter.shape[0]
    columns = parameter.numel() // rows
    factors = (rows + columns) * min(rank, rows, columns)
    return factors if 2 * factors < parameter.numel() else parameter.numel()


def _library() -> Any:
    try:
        import thinwire.torch
    except ImportError as error:
        raise NotHere(f"thinwire.torch cannot be imported ({error}); pip install .") from None
    return thinwire.torch


def _attach_thinwire(ddp: DistributedDataParallel, codec: str, **options: Any) -> Attached:
    handle = _library().compress(ddp, codec, **options)
    if handle.codec == "none":  # DDP's own collective, which the handle does not count
        plain = _counted(ring_bytes(ddp))
        return Attached(plain.sent_bytes, handle.close, "none")
    return Attached(
        lambda _: int(handle.metrics().get("wire_bytes", 0)), handle.close, handle.codec
    )
