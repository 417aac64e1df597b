"""The communication hook, and how it gets onto a DDP model."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from thinwire import _torch_private as private
from thinwire.errors import Unsupported
from thinwire.torch._handle import Handle
from thinwire.torch._refusals import refuse_join, refuse_model, refuse_second_hook

_handles: "weakref.WeakKeyDictionary[DistributedDataParallel, Handle]"
_handles = weakref.WeakKeyDictionary()

# torch looks at this signature: a plain function, annotated with real types or not at all.


def thinwire_hook(state: Handle, bucket: private.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """What DDP calls for each bucket as its gradients become ready."""
    return state._reduce(bucket)


def compress(
    model: torch.nn.Module,
    codec: str = "auto",
    *,
    codecs: Mapping[str, str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: private.GradScaler | None = None,
    **options: Any,
) -> Handle:
    """Collective: makes a DDP model exchange its gradients compressed. Once, before training.

    ``codec`` is ``auto`` (measures, and picks the fastest of none, bf16, int8 and int4), or one of
    ``none, bf16, fp16, int8, int4, sign, topk:DENSITY``. ``codecs`` gives other codecs to the
    parameters whose names fit a pattern: ``{"*embedding*": "bf16"}``; without a pattern,
    parameters of one dimension travel plain.

    ``sign`` and ``topk`` under Adam need ``optimizer``, a :class:`thinwire.torch.AdamW`: they begin
    with ``bf16`` and switch when the second moment has settled (``switch_at``: at that step). Under
    SGD with momentum they need ``optimizer`` too, torch's own: then they code the momentum.
    ``scaler``: the GradScaler in use, so that residuals stay in true units.

    The other options are those of :func:`ddp_hook`. Raises :class:`Unsupported` for what thinwire
    does not run under, naming it.
    """
    ddp: DistributedDataParallel = refuse_model(model)
    previous = _handles.get(ddp)
    if previous is not None and not previous.replaceable:
        raise Unsupported("compress() was called on this model already; its handle has set_codec()")
    handle, hook = ddp_hook(
        ddp.module,
        codec,
        codecs=codecs,
        optimizer=optimizer,
        scaler=scaler,
        process_group=ddp.process_group,
        **options,
    )

    weak = weakref.ref(ddp)  # the handle is DDP's, not the other way round

    def register() -> None:
        ddp = weak()
        assert ddp is not None
        refuse_second_hook(ddp)
        for _, state in private.hooks(ddp):
            if isinstance(state, Handle):  # closed
                state._successor = handle
                return
        private.forget_hooks(ddp)
        ddp.register_comm_hook(handle, hook)

    handle._register_when_coded(register)
    _handles[ddp] = handle
    if previous is None:
        ddp.register_forward_pre_hook(refuse_join)
    return handle


def ddp_hook(
    module: torch.nn.Module,
    codec: str = "auto",
    *,
    codecs: Mapping[str, str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    switch_at: int | None = None,
    scaler: private.GradScaler | None = None,
    non_finite: str = "propagate",
    commit: str = "auto",
    chunks: int = 1,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Handle, Any]:
    """Collective: (state, hook) for ``register_comm_hook``, for trainers that wrap the model.

    ``module`` is the model as it is before DDP wraps it: it gives the parameters their names.

    ``non_finite``: what a NaN or Inf does on any rank: ``propagate`` (its block becomes NaN
    everywhere), ``raise`` (the same, then NonFiniteError from backward()), ``zero`` (its block is
    left out). ``commit``: ``in_place`` (residuals take 4 bytes an element) or ``double`` (8 bytes;
    a step that was not finite, or :meth:`Handle.discard_step`, leaves no trace); ``auto`` is
    ``double`` with a scaler or ``raise``.
    """
    handle = Handle(
        module,
        codec,
        codecs=codecs,
        optimizer=optimizer,
        switch_at=switch_at,
        scaler=scaler,
        non_finite=non_finite,
        commit=commit,
        chunks=chunks,
        process_group=process_group,
    )
    return handle, thinwire_hook
