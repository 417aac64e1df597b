"""FSDP2: gradients that fully_shard has reduced inside a node are averaged across the replicas."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from thinwire import _torch_private as private
from thinwire.errors import InvalidArgument, Unsupported, UnsupportedTensor
from thinwire.torch import _phases, _state
from thinwire.torch._handle import Handle
from thinwire.torch.adamw import AdamW

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

logger = logging.getLogger("thinwire")


def replicate(
    model: torch.nn.Module,
    mesh: "DeviceMesh | dist.ProcessGroup",
    codec: str = "auto",
    *,
    codecs: Mapping[str, str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    switch_at: int | None = None,
    scaler: private.GradScaler | None = None,
    non_finite: str = "propagate",
    commit: str = "auto",
    chunks: int = 1,
) -> "ReplicaHandle":
    """Collective: averages a 1-D fully_shard model across replicas. Once, before training.

    ``mesh`` is the dimension of the mesh that crosses the nodes, or its process group:

        mesh = init_device_mesh("cuda", (nodes, 8), mesh_dim_names=("replica", "shard"))
        fully_shard(model, mesh=mesh["shard"])         # its submodules before it, as ever
        handle = thinwire.torch.replicate(model, mesh["replica"], "int4")

    Gradients are what fully_shard on the 2-D mesh gives, up to what the codec leaves out; with
    set_gradient_divide_factor too. The other arguments are those of :func:`thinwire.torch.compress`
    and :func:`thinwire.torch.ddp_hook`; with ``optimizer`` goes ``switch_at``. Parameters are
    materialised (not on meta) by now.

    Raises :class:`Unsupported` for what it does not run under, :class:`MismatchError` when ranks of
    ``mesh`` hold different shards.
    """
    module = private.uncompiled(model)
    optimizer = _phases.unwrapped(optimizer)
    groups = private.fsdp_groups(module)
    refuse_groups(module, groups, "replicate()", "set_all_reduce_hook")
    for group in groups:
        if group.reduces_over_replicas:
            raise Unsupported(
                "fully_shard on a 2-D mesh averages over its replicas by itself, before any hook; "
                "give it the inner dimension, fully_shard(module, mesh=mesh['shard']), and the "
                "other one to replicate(model, mesh['replica'], codec)"
            )
        if group.offloads:
            raise Unsupported("CPUOffloadPolicy takes gradients off the device they are reduced on")
    if (
        isinstance(optimizer, AdamW)
        and not (optimizer.frozen or isinstance(optimizer.freeze, int))
        and switch_at is None
    ):
        raise InvalidArgument(
            "the second moments of the shards settle at different steps: give switch_at="
        )
    process_group = _group_of(mesh)
    shards = groups[0].shard_group
    assert shards is not None
    if any(group.shard_group is not shards for group in groups):
        raise Unsupported("modules are sharded over different meshes; replicate() takes one")
    common = {*dist.get_process_group_ranks(shards)} & {
        *dist.get_process_group_ranks(process_group)
    }
    if common != {dist.get_rank()}:
        raise InvalidArgument(
            f"rank {dist.get_rank()}: ranks {sorted(common)} are in both the group that shards the "
            "model and the one that replicates it; the two dimensions of a mesh share one rank"
        )
    handle = ReplicaHandle(
        module,
        groups,
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
    for group in groups:
        group.module.set_all_reduce_hook(handle._hook_of(group))
    return handle


def refuse_groups(
    module: torch.nn.Module, groups: list[private.FsdpGroup], caller: str, setter: str
) -> None:
    if not groups:
        raise UnsupportedTensor(
            f"{caller} takes a model that fully_shard was called on, not a {type(module).__name__}"
        )
    for group in groups:
        where = f"module '{group.fqn}'"
        if not group.alone:
            raise Unsupported(f"{where} shards its parameters over several meshes; use one")
        if setter in group.custom:
            raise Unsupported(f"{where} has been given {setter}({group.custom[setter]}) already")


def _group_of(mesh: "DeviceMesh | dist.ProcessGroup") -> dist.ProcessGroup:
    if isinstance(mesh, dist.ProcessGroup):
        return mesh
    if mesh.ndim != 1:
        raise InvalidArgument(
            f"replicate() takes one dimension of the mesh, mesh['replica'], not {mesh.ndim}"
        )
    return mesh.get_group()


class ReplicaHandle(Handle):
    """What :func:`replicate` returns: :class:`Handle` for the shards of a fully_shard model.

    Ranks are the replicas, all of which hold the same shard; residuals are as large as it. A
    group in which a parameter got no gradient is exchanged plain: nobody says which one it was.
    :meth:`load_state_dict` with another number of shards takes ``drop``; after :meth:`close`
    replicas average plain.
    """

    _maker = "replicate()"

    def __init__(
        self,
        module: torch.nn.Module,
        groups: list[private.FsdpGroup],
        codec: str,
        *,
        process_group: dist.ProcessGroup,
        **options: Any,
    ) -> None:
        self._groups = groups
        shards = groups[0].shard_group
        assert shards is not None
        self._shard, self._shards = dist.get_rank(shards), dist.get_world_size(shards)
        self._in_backward = False
        self._submitted: set[str] = set()
        self._warned: set[str] = set()
        super().__init__(module, codec, process_group=process_group, **options)
        if self._reducer is not None:
            fields = [("shard", f"{self._shard} of {self._shards}")]
            self._communicator.require_equal(f"rank {self._rank}: {self._maker}", fields)

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Handle.state_dict`, of this rank's shard; keys hold the shard too."""
        return {"shards": self._shards, f"shard{self._shard}": super().state_dict()}

    def _own_state(self, state: Any, residuals: str) -> Any:
        where = f"rank {self._rank}: thinwire state"
        return _state.of_shard(state, self._shard, self._shards, residuals, where)

    def _sizes(self) -> dict[str, int]:
        return {
            name: shape.numel()
            for group in self._groups
            for name, shape in group.shards(trainable=False)
        }

    def _hook_of(self, group: private.FsdpGroup) -> Any:
        def thinwire_hook(reduce_output: torch.Tensor) -> None:
            self._reduce_shard(group, reduce_output)

        return thinwire_hook

    def _reduce_shard(self, group: private.FsdpGroup, buffer: torch.Tensor) -> None:
        """On return, what is enqueued on the current stream sees the replicas' mean."""
        if self._reducer is None:
            return
        if buffer.is_cuda:  # of the reduce-scatter's stream, and freed once it has been cast
            buffer.record_stream(torch.cuda.current_stream(buffer.device))
        # As on a 2-D mesh: who sets a divisor divides the sum over all ranks by it.
        summed = group.divide_factor is not None
        op = dist.ReduceOp.SUM if summed else dist.ReduceOp.AVG
        if self._closed:
            dist.all_reduce(buffer, op=op, group=self._group)
            return
        if not self._in_backward or group.fqn in self._submitted:
            self._begin_backward()
        self._in_backward = True
        private.after_backward(self._finish_backward)
        named = self._named_shards(group, buffer)
        if named is None or self._travels_plain(named, buffer):
            dist.all_reduce(buffer, op=op, group=self._group)
            return
        self._submitted.add(group.fqn)
        subtract = None
        if self._momentum is not None and not summed:  # else the buffer is in another unit
            parameters = [(name, self._parameters[name]) for name, _ in named]
            pieces = [piece for _, piece in named]
            subtract = self._momentum.add(parameters, pieces, self._rules)
        self._probe.add(named, buffer)
        future = self._reducer.submit(named, buffer, self._rules)
        self._reducer.finish_backward()  # the hook is over when it returns: nothing is held back
        future.wait()
        self._reducer.check()
        if subtract is not None:
            subtract()
        if summed:
            buffer.mul_(self._size)

    def _named_shards(
        self, group: private.FsdpGroup, buffer: torch.Tensor
    ) -> list[tuple[str, torch.Tensor]] | None:
        """The parameters' places in the buffer; None when there are not all of them in it."""
        shards = group.shards(trainable=True)
        lengths = [shape.numel() for _, shape in shards]
        if sum(lengths) != buffer.numel():
            if group.fqn not in self._warned:
                self._warned.add(group.fqn)
                logger.warning(
                    "module '%s': %d of %d elements have a gradient; exchanged plain. Parameters "
                    "that are never used can be frozen: requires_grad_(False)",
                    group.fqn,
                    buffer.numel(),
                    sum(lengths),
                )
            return None
        pieces = torch.split(buffer, lengths)
        return [(n, piece.view(shape)) for (n, shape), piece in zip(shards, pieces, strict=True)]

    def _finish_backward(self) -> None:
        if self._in_backward:  # queued by each group's hook
            self._in_backward = False
            super()._finish_backward()

    def _end_step(self, found_inf: bool = False) -> None:
        self._submitted.clear()
        super()._end_step(found_inf)
