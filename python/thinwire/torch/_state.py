"""Residuals as a state_dict, and back: checked, since a file may be foreign or cut short."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from thinwire.errors import FormatError, InvalidArgument

VERSION = 1
Residuals = list[tuple[str, int, torch.Tensor]]
"""Name of the parameter, offset in it, values."""
_Packed = dict[str, dict[str, torch.Tensor]]


class PackedResiduals:
    """What one rank remembers: a dict of ``worker`` and ``server``, each as :func:`pack` gives it.

    In memory it is no dict, so that torch.distributed.checkpoint takes it as one object and loads
    it into a state that holds nothing yet, as that of a new handle. In a file it is one, which
    torch.load reads with weights_only and without thinwire.
    """

    def __init__(self, worker: "_Packed", server: "_Packed") -> None:
        self._sides = OrderedDict(worker=worker, server=server)

    def __getitem__(self, side: str) -> "_Packed":
        return self._sides[side]

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedResiduals":
        return PackedResiduals(**copy.deepcopy(self._sides, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (list(self._sides.items()),)


def pack(residuals: Residuals) -> _Packed:
    """By parameter: offsets, lengths, and the values one after the other."""
    by_name: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name, offset, values in residuals:
        by_name.setdefault(name, []).append((offset, values))
    return {
        name: {
            "offsets": torch.tensor([offset for offset, _ in pieces], device="cpu"),
            "lengths": torch.tensor([values.numel() for _, values in pieces], device="cpu"),
            "values": torch.cat([values for _, values in pieces]),
        }
        for name, pieces in by_name.items()
    }


def unpack(packed: Any, sizes: Mapping[str, int], where: str) -> Residuals:
    """The inverse of :func:`pack`; ``sizes``: elements by parameter. Raises FormatError."""
    residuals: Residuals = []
    for name, fields in _mapping(packed, where).items():
        place = f"{where}, parameter '{name}'"
        if name not in sizes:
            raise FormatError(f"{place}: this model has no such parameter")
        offsets, lengths, values = (
            _tensor(fields, key, place) for key in ("offsets", "lengths", "values")
        )
        if offsets.numel() != lengths.numel() or int(lengths.sum()) != values.numel():
            raise FormatError(f"{place}: {values.numel()} values do not fit the pieces' lengths")
        position = 0
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            if offset < 0 or length < 0 or offset + length > sizes[name]:
                raise FormatError(
                    f"{place}: {length} values at {offset} leave the {sizes[name]} elements"
                )
            piece = values[position : position + length].to("cpu", torch.float32).contiguous()
            residuals.append((name, offset, piece))
            position += length
    return residuals


def read(
    state: Any, residuals: str, rank: int, ranks: int, sizes: Mapping[str, int]
) -> tuple[Residuals, Residuals]:
    """(worker, server) residuals for this rank, out of a state of one or of all ranks."""
    where = f"rank {rank}: thinwire state"
    if residuals not in ("per_rank", "mean", "drop"):
        raise InvalidArgument(f"residuals='{residuals}'; use per_rank, mean or drop")
    fields = _mapping(state, where)
    if fields.get("version") != VERSION:
        raise FormatError(f"{where}: version is {fields.get('version')!r}, not {VERSION}")
    if residuals == "drop":
        return [], []
    saved_ranks = fields.get("ranks")
    by_rank = _mapping(fields.get("residuals"), where)
    if residuals == "per_rank":
        if saved_ranks != ranks or f"rank{rank}" not in by_rank:
            raise InvalidArgument(
                f"{where}: saved by {saved_ranks} ranks and holding {', '.join(by_rank)}, loaded "
                f"by {ranks}; merge the ranks' states (merge_states) and use residuals='mean'"
            )
        return _of_rank(by_rank, rank, sizes, where)
    if not isinstance(saved_ranks, int) or any(
        f"rank{r}" not in by_rank for r in range(saved_ranks)
    ):
        raise InvalidArgument(
            f"{where}: residuals='mean' needs the states of all {saved_ranks} ranks (merge_states)"
            f", this one holds {', '.join(by_rank)}"
        )
    return _mean(by_rank, saved_ranks, rank, sizes, where)


def of_shard(state: Any, shard: int, shards: int, residuals: str, where: str) -> Any:
    """The state of one shard, in that of replicate(); of any shard when residuals are dropped."""
    fields = _mapping(state, where)
    if residuals == "drop":
        return next((own for key, own in fields.items() if key != "shards"), None)
    if fields.get("shards") != shards or f"shard{shard}" not in fields:
        raise InvalidArgument(
            f"{where}: of {fields.get('shards')} shards, holding {', '.join(fields)}; this rank "
            f"needs shard{shard} of {shards}. Residuals do not move between shards: use 'drop'"
        )
    return fields[f"shard{shard}"]


def _of_rank(
    by_rank: Mapping[str, Any], rank: int, sizes: Mapping[str, int], where: str
) -> tuple[Residuals, Residuals]:
    own = by_rank[f"rank{rank}"]
    if not isinstance(own, PackedResiduals):
        own = {side: _mapping(own, where).get(side) for side in ("worker", "server")}
    return (
        unpack(own["worker"], sizes, f"{where}, worker of rank {rank}"),
        unpack(own["server"], sizes, f"{where}, server of rank {rank}"),
    )


def _mean(
    by_rank: Mapping[str, Any], saved: int, rank: int, sizes: Mapping[str, int], where: str
) -> tuple[Residuals, Residuals]:
    """Every rank has the mean of all, and rank 0 brings all the owners': mean(e) + r stays."""
    sums: dict[str, torch.Tensor] = {}
    server: Residuals = []
    for old in range(saved):
        worker_of_old, server_of_old = _of_rank(by_rank, old, sizes, where)
        server += server_of_old
        for name, offset, values in worker_of_old:
            if name not in sums:
                sums[name] = torch.zeros(sizes[name], dtype=torch.float64, device="cpu")
            sums[name][offset : offset + values.numel()] += values
    worker = [(name, 0, (total / saved).to(torch.float32)) for name, total in sums.items()]
    return worker, server if rank == 0 else []


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """One state of the states of all ranks, for ``load_state_dict(..., residuals="mean")``."""
    if not states:
        raise InvalidArgument("merge_states: no states")
    if "shards" in states[0]:  # of replicate(): each shard's by itself
        keys = {key for state in states for key in state if key != "shards"}
        by_shard = {key: merge_states([s[key] for s in states if key in s]) for key in sorted(keys)}
        return {"shards": states[0]["shards"], **by_shard}
    merged = dict(states[0])
    merged["residuals"] = {k: v for state in states for k, v in state["residuals"].items()}
    return merged


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: a {type(value).__name__} stands where a dict should")
    return value


def _tensor(fields: Any, key: str, where: str) -> torch.Tensor:
    value = _mapping(fields, where).get(key)
    if not isinstance(value, torch.Tensor) or value.dim() != 1:
        raise FormatError(f"{where}: '{key}' is no tensor of one dimension")
    return value
