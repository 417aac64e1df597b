"""What thinwire does not run under: refused by name, before it can go wrong quietly."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from thinwire import _core
from thinwire import _torch_private as private
from thinwire._tensors import other_device_hint
from thinwire.errors import Unsupported, UnsupportedTensor


def refuse_model(model: object) -> DistributedDataParallel:
    """The DDP model behind ``model``, which torch.compile may have wrapped; raises if unfit."""
    ddp = private.uncompiled(model)
    if not isinstance(ddp, DistributedDataParallel):
        raise UnsupportedTensor(
            f"compress() takes a DistributedDataParallel model, not a {type(ddp).__name__}; for a "
            "trainer that wraps the model itself, use ddp_hook()"
        )
    if ddp.mixed_precision is not None:
        raise Unsupported(
            "DDP's mixed_precision= casts parameters and gradients beside the hook; use "
            "torch.autocast, or a model in bfloat16"
        )
    if private.uses_python_reducer(ddp):
        raise Unsupported(
            "torch._dynamo.config.optimize_ddp = 'python_reducer' gives hooks single gradients "
            "instead of buckets; use the default, 'ddp_optimizer'"
        )
    refuse_second_hook(ddp)
    refuse_parameters(dict(ddp.module.named_parameters()))
    return ddp


def refuse_second_hook(ddp: DistributedDataParallel) -> None:
    for name, state in private.hooks(ddp):
        if not getattr(state, "replaceable", False):
            raise Unsupported(
                f"this DDP model has a communication hook already ({name}), and DDP takes one"
            )


def refuse_parameters(parameters: dict[str, torch.nn.Parameter]) -> None:
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        raise Unsupported(
            f"the parameters stand on several devices ({', '.join(sorted(map(str, devices)))}); "
            "thinwire reduces those of one"
        )
    for name, parameter in parameters.items():
        if parameter.device.type not in _devices():
            raise UnsupportedTensor(
                f"parameter '{name}' is on {parameter.device}"
                + other_device_hint(parameter.device.type)
            )
        if private.has_optimizer_in_backward(parameter):
            raise Unsupported(
                f"parameter '{name}' has an optimizer in backward, which would step before its "
                "gradient has been averaged; call optimizer.step() after backward()"
            )


def _devices() -> tuple[str, ...]:
    return ("cpu", "cuda") if _core.build_info()["nccl"] else ("cpu",)


def refuse_join(module: Any, _: object) -> None:
    """A forward pre-hook of the DDP model."""
    if private.is_joining(module):
        raise Unsupported(
            "torch's Join answers for ranks that have run out of inputs with DDP's own buckets; "
            "under thinwire give all ranks as many batches (drop_last=True)"
        )
