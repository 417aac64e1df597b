"""FSDP2's own reduce-scatter and all-gather, coded."""

import logging
from collections.abc import Sequence

import torch
import torch.distributed as dist

from thinwire import _core
from thinwire import _torch_private as private
from thinwire._start import init
from thinwire._tensors import dtype_name
from thinwire.communicator import Communicator
from thinwire.errors import InvalidArgument, Unsupported
from thinwire.torch._fsdp import refuse_groups

logger = logging.getLogger("thinwire")

_WITHOUT_RESIDUAL = ("bf16", "fp16", "int8", "int4")
_OF_PARAMETERS = ("bf16", "fp16", "int8")


def shard_comms(
    model: torch.nn.Module,
    reduce_scatter: str | None = "int8",
    all_gather: str | None = None,
    *,
    residual: bool = False,
) -> "ShardComms":
    """Collective: codes what fully_shard exchanges among its shards. Once, before training.

    For shards that lie on a slow link; inside a node leave them alone and use :func:`replicate`.

    ``reduce_scatter`` codes gradients: bf16, fp16, int8 or int4, and what is left out is lost;
    None leaves torch's. With ``residual`` it is remembered, for sign and topk too, and that takes
    4 bytes for each element of the whole model on every rank, which one line of the log says.

    ``all_gather`` codes parameters: bf16, fp16 or int8. What is left out is left out of forward and
    backward; the optimizer's own shards stay exact.

    Parameters of at most one dimension travel plain beside it. Buffers that cannot be coded (fp64,
    float8 parameters, a parameter without gradient) are torch's own.
    """
    module = private.uncompiled(model)
    groups = private.fsdp_groups(module)
    coded = {"set_custom_reduce_scatter": reduce_scatter, "set_custom_all_gather": all_gather}
    for setter, codec in coded.items():
        refuse_groups(module, groups, "shard_comms()", setter if codec else "")
    if reduce_scatter:
        name = _core.parse_codec(reduce_scatter).split("+")[0]
        if not residual and name not in _WITHOUT_RESIDUAL:
            raise InvalidArgument(
                f"a reduce-scatter in '{reduce_scatter}' needs residual=True, else it loses most "
                f"of the gradient; without: {', '.join(_WITHOUT_RESIDUAL)}"
            )
    if all_gather and _core.parse_codec(all_gather).split("+")[0] not in _OF_PARAMETERS:
        raise InvalidArgument(
            f"parameters cannot be gathered in '{all_gather}'; use {', '.join(_OF_PARAMETERS)}"
        )
    return ShardComms(groups, reduce_scatter, all_gather, residual)


class ShardComms:
    """What :func:`shard_comms` returns. Keep it or not: the model does."""

    def __init__(
        self,
        groups: list[private.FsdpGroup],
        reduce_scatter: str | None,
        all_gather: str | None,
        residual: bool,
    ) -> None:
        self._communicators: dict[str, Communicator] = {}
        self.reduce_scatter = reduce_scatter
        self.all_gather = all_gather
        self.residual_bytes = 0
        """Of this rank, once every gradient has been reduced."""
        for group in groups:
            shard_group = group.shard_group
            if shard_group is None or (ranks := dist.get_world_size(shard_group)) == 1:
                continue
            if shard_group.group_name not in self._communicators:
                transport = "nccl" if group.device.type == "cuda" else "auto"
                self._communicators[shard_group.group_name] = init(shard_group, transport=transport)
            communicator = self._communicators[shard_group.group_name]
            if reduce_scatter:
                comm = CodedReduceScatter(group, communicator, reduce_scatter, residual)
                group.module.set_custom_reduce_scatter(comm)
                shapes = [shape for _, shape in group.shards(trainable=True)]
                if residual:
                    self.residual_bytes += 4 * ranks * sum(shape.numel() for shape in shapes)
            if all_gather:
                group.module.set_custom_all_gather(CodedAllGather(group, communicator, all_gather))
        if residual and dist.get_rank() == 0:
            logger.warning(
                "residuals of the reduce-scatter take %d bytes on every rank: the whole model in "
                "fp32",
                self.residual_bytes,
            )

    def close(self) -> None:
        """Ends its threads. Done at exit by itself."""
        for communicator in self._communicators.values():
            communicator.close()


class _Parts:
    """A buffer of one part a rank, each holding the same shards in the same order.

    Those of at most one dimension travel plain, as in DDP: in a block with a matrix's they would
    get its scale.
    """

    def __init__(self, shards: list[tuple[str, torch.Size]]) -> None:
        self.length = sum(shape.numel() for _, shape in shards)
        self._plain: list[slice] = []
        begin = 0
        for _, shape in shards:
            if len(shape) <= 1:
                self._plain.append(slice(begin, begin + shape.numel()))
            begin += shape.numel()
        self.plain_length = sum(s.stop - s.start for s in self._plain)

    def can_be_coded(self, part: torch.Tensor, codec: str) -> bool:
        return (
            part.numel() == self.length != self.plain_length
            and bool(dtype_name(part))
            and (part.element_size() > 2 or not codec.startswith(("bf16", "fp16")))
        )

    def take(self, parts: torch.Tensor) -> torch.Tensor | None:
        """What travels plain, out of [ranks, length]; zeros stay in its place."""
        if not self._plain:
            return None
        taken = torch.cat([parts[:, s] for s in self._plain], dim=1)
        for s in self._plain:
            parts[:, s] = 0
        return taken

    def put(self, parts: torch.Tensor, values: torch.Tensor) -> None:
        lengths = [s.stop - s.start for s in self._plain]
        for s, value in zip(self._plain, torch.split(values, lengths, dim=1), strict=True):
            parts[:, s] = value


class _Comm:
    """torch's interface Comm."""

    def __init__(self, group: private.FsdpGroup, communicator: Communicator, codec: str) -> None:
        self._group = group
        self._ranks = communicator
        self._codec = codec

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class CodedReduceScatter(_Comm):
    """torch's interface ReduceScatter: on the current stream, the result is there afterwards."""

    def __init__(
        self, group: private.FsdpGroup, communicator: Communicator, codec: str, residual: bool
    ) -> None:
        super().__init__(group, communicator, codec)
        self._residual = f"reduce-scatter of '{group.fqn}'" if residual else None

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> dist.Work | None:
        parts = _Parts(self._group.shards(trainable=True))
        if not parts.can_be_coded(output_tensor, self._codec):
            work: dist.Work | None = dist.reduce_scatter_tensor(
                output_tensor, input_tensor, op=op, group=group, async_op=async_op
            )
            return work
        times_mean, plain_op, times_plain = self._factors(op)
        vectors = parts.take(input_tensor.view(self._ranks.size, -1))
        self._ranks.reduce_scatter(
            output_tensor, input_tensor, codec=self._codec, residual=self._residual
        )
        if times_mean != 1:
            output_tensor.mul_(times_mean)
        if vectors is not None:
            own = vectors.new_empty(1, parts.plain_length)
            dist.reduce_scatter_tensor(own, vectors, op=plain_op, group=group)
            parts.put(output_tensor.view(1, -1), own.mul_(times_plain))
        return None

    def _factors(self, op: dist.ReduceOp.RedOpType) -> tuple[float, dist.ReduceOp.RedOpType, float]:
        """What makes ``op`` of a mean; and an operation of every backend, and what makes it."""
        if op == dist.ReduceOp.AVG:
            return 1.0, op, 1.0
        if op == dist.ReduceOp.SUM:
            return float(self._ranks.size), op, 1.0
        if (factor := private.premultiplier(op)) is not None:
            return factor * self._ranks.size, dist.ReduceOp.SUM, factor
        raise Unsupported(f"a coded reduce-scatter has AVG, SUM and PREMUL_SUM, not {op}")


class CodedAllGather(_Comm):
    """torch's interface AllGather: on the current stream, the result is there afterwards."""

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        parts = _Parts(self._group.shards(trainable=False))
        # reshard_after_forward=N gathers over another group in backward.
        same_ranks = group.size() == self._ranks.size
        if not same_ranks or not parts.can_be_coded(input_tensor, self._codec):
            work: dist.Work | None = dist.all_gather_into_tensor(
                output_tensor, input_tensor, group=group, async_op=async_op
            )
            return work
        own = input_tensor.clone()  # it lies in the output, which a codec cannot have
        vectors = parts.take(own.view(1, -1))
        self._ranks.all_gather(output_tensor, own, codec=self._codec)
        if vectors is not None:
            gathered = vectors.new_empty(self._ranks.size, parts.plain_length)
            dist.all_gather_into_tensor(gathered, vectors, group=group)
            parts.put(output_tensor.view(self._ranks.size, -1), gathered)
        return None
