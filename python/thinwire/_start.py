"""How the ranks of a job find each other: from a torch process group or a launcher's variables."""

import json
import os
import secrets
import socket
import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from thinwire import _core
from thinwire.communicator import Communicator
from thinwire.errors import InvalidArgument, TransportError, Unsupported

if TYPE_CHECKING:
    import torch.distributed as dist

_MPI_VARIABLES = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
_TORCH_VARIABLES = ("RANK", "WORLD_SIZE")
_SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS")
_meetings = 0  # of launcher's variables; equal on all ranks


class _Default(NamedTuple):
    communicator: Communicator
    world: "weakref.ref[dist.ProcessGroup] | None"
    """torch's default group that it was made of."""

    def is_of(self, world: "dist.ProcessGroup | None") -> bool:
        """Open, and of these ranks: without a default group, of the last one's."""
        if self.communicator.closed:
            return False
        return world is None or (self.world is not None and self.world() is world)

    def is_over(self, transport: str) -> bool:
        own = self.communicator.transport
        if transport == "auto":
            return own != "nccl"
        return own == ("callback" if transport == "gloo" else transport)


_defaults: list[_Default] = []  # the oldest first


def init(group: "dist.ProcessGroup | None" = None, *, transport: str = "auto") -> Communicator:
    """Collective: makes the job's communicator, which later calls without ``group`` return again:
    those that ask for its transport or for none, as long as torch's default group stays the same.

    ``group`` is a torch process group, of any backend. Without one, it is torch's default group if
    there is one, else what mpirun, torchrun or Slurm say in the environment.

    ``transport`` is ``"nccl"`` (tensors on torch's current GPU), ``"mpi"``, ``"gloo"`` (a private
    gloo group beside ``group``), or ``"auto"``: NCCL for a group whose only backend that is, else
    MPI where mpirun started the job and the MPI module loads on every rank, else gloo. NCCL is the
    copy that torch has loaded, and meets over one of the others. MPI has all ranks that mpirun
    started or none: some of them are ``thinwire.init().split(color)``.

    Raises :class:`InvalidArgument` when nothing says which ranks there are, or MPI knows others
    than those asked for, and :class:`TransportError` or :class:`TimeoutError` when ranks do not
    come.
    """
    if transport not in ("auto", "mpi", "gloo", "nccl"):
        raise InvalidArgument(f"unknown transport '{transport}'; use auto, mpi, gloo or nccl")
    on_gpu = transport == "nccl" or (transport == "auto" and _is_nccl(group))
    if not on_gpu:
        return host_ranks(group, transport)
    if group is not None:
        return Communicator(over_nccl(host_ranks(group)))
    return _known_default("nccl") or _keep(Communicator(over_nccl(host_ranks())))


def host_ranks(group: "dist.ProcessGroup | None" = None, transport: str = "auto") -> Communicator:
    """Collective: as :func:`init`, over a transport of the host. The default group's is kept."""
    if group is not None:
        return _make(group, transport)
    if known := _known_default(transport):
        return known
    made = _keep(_make(_torch_default_group(), transport))
    _core.set_log_rank(made.rank)
    return made


def _known_default(transport: str) -> Communicator | None:
    """The oldest that fits; forgets those of a default group that torch has replaced."""
    world = _torch_default_group()
    _defaults[:] = [default for default in _defaults if default.is_of(world)]
    return next((d.communicator for d in _defaults if d.is_over(transport)), None)


def _keep(made: Communicator) -> Communicator:
    world = _torch_default_group()
    _defaults.append(_Default(made, None if world is None else weakref.ref(world)))
    return made


def over_nccl(host: Communicator, device: int | None = None) -> "_core.Communicator":
    """Collective: the same ranks over NCCL, on a GPU (torch's current one)."""
    if not _core.build_info()["nccl"]:
        raise Unsupported(
            "this thinwire has no GPU part, so it has no transport 'nccl': install it again where "
            "nvcc and nccl.h are (NCCL_HOME: the folder of NCCL; 'pip install -v' and "
            "thinwire.build_info() say what was found; docs/pytorch.md)"
        )
    import torch

    index = torch.cuda.current_device() if device is None else device
    _warn_of_two_nccls()
    return _core.nccl_communicator(apart(host), index)


def apart(host: Communicator) -> "_core.Communicator":
    """Collective: the same ranks in a communicator of their own."""
    core = host._split(0, host.rank)
    assert core is not None
    return core


def _is_nccl(group: "dist.ProcessGroup | None") -> bool:
    group = _torch_default_group() if group is None else group
    if group is None:
        return False
    import torch.distributed as dist

    return bool(dist.get_backend(group) == "nccl")


def _warn_of_two_nccls() -> None:
    """Each copy of NCCL has its own idea of what the process has in flight."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            copies = {line.split()[-1] for line in file if "libnccl.so" in line}
    except OSError:
        return
    if len(copies) > 1:
        warnings.warn(
            f"{len(copies)} copies of NCCL are loaded: {', '.join(sorted(copies))}; "
            "remove one from LD_LIBRARY_PATH or LD_PRELOAD, or name torch's by THINWIRE_NCCL",
            stacklevel=3,
        )


def _make(group: "dist.ProcessGroup | None", transport: str) -> Communicator:
    if _use_mpi(group, transport):
        return _over_mpi(group)
    return _over_environment() if group is None else _over_group(group)


def _torch_default_group() -> "dist.ProcessGroup | None":
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _use_mpi(group: "dist.ProcessGroup | None", transport: str) -> bool:
    if transport != "auto":
        return transport == "mpi"
    place = _place_by(*_MPI_VARIABLES)
    loads = place is not None and _core.mpi_available()[0]
    if group is None:
        # Not for torchrun's workers on a node, where mpirun has started one torchrun for each.
        launched = _launched()
        return loads and place is not None and launched is not None and place[1] == launched[1]
    return _all_say(loads and place == _place_in(group), group)


def _over_mpi(group: "dist.ProcessGroup | None") -> Communicator:
    asked = _launched() if group is None else _place_in(group)
    place = _place_by(*_MPI_VARIABLES, _SLURM_VARIABLES)
    # Before MPI is asked, which waits for all its ranks.
    if group is not None and not _all_say(place in (None, asked), group):
        raise _other_ranks(asked, place)
    made = Communicator(_core.mpi_communicator())
    found = (made.rank, made.size)
    if "no" in made._core.gather_texts("yes" if asked in (None, found) else "no"):
        made.close()
        raise _other_ranks(asked, found)
    return made


def _other_ranks(asked: tuple[int, int] | None, found: tuple[int, int] | None) -> InvalidArgument:
    def name(place: tuple[int, int] | None) -> str:
        return "unknown" if place is None else f"rank {place[0]} of {place[1]}"

    differ = "" if asked != found else ", and the places of other ranks differ"
    return InvalidArgument(
        f"this process shall be {name(asked)}, and to MPI it is {name(found)}{differ}: MPI has all "
        "ranks that mpirun started, in its order. Start the job with mpirun; for some of its ranks "
        "call split(color) on what thinwire.init() returns, or take transport='gloo'"
    )


def _place_in(group: "dist.ProcessGroup") -> tuple[int, int]:
    import torch.distributed as dist

    return dist.get_rank(group), dist.get_world_size(group)


def _place_by(*variables: tuple[str, str]) -> tuple[int, int] | None:
    """(rank, number of ranks) by the first pair of environment variables that is set."""
    environment = os.environ
    for rank, size in variables:
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size])
    return None


def _launched() -> tuple[int, int] | None:
    """(rank, number of ranks) by the launcher, the inner one of two; None: by one unknown here."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun
        return _place_by(_TORCH_VARIABLES)
    return _place_by(*_MPI_VARIABLES, _TORCH_VARIABLES, _SLURM_VARIABLES)


def _all_say(mine: bool, group: "dist.ProcessGroup") -> bool:
    import torch.distributed as dist

    votes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(votes, mine, group=group)
    return all(votes)


def _over_group(group: "dist.ProcessGroup") -> Communicator:
    import torch.distributed as dist

    rank, size = dist.get_rank(group), dist.get_world_size(group)
    place: list[Any] = [None]
    store: Any = None
    if rank == 0:
        store, place[0] = _open_place(size)
    dist.broadcast_object_list(place, src=dist.get_global_rank(group, 0), group=group)
    return _join(store, place[0], rank, size)


def _over_environment() -> Communicator:
    global _meetings
    from thinwire import _torch_private as private

    _set_torch_variables()
    store, rank, size = private.environment_rendezvous()
    key = f"thinwire/{_meetings}"
    _meetings += 1
    if rank == 0:
        own_store, place = _open_place(size)
        store.set(key, json.dumps(place))
        return _join(own_store, place, rank, size)
    return _join(None, json.loads(store.get(key)), rank, size)


def _open_place(size: int) -> tuple[Any, tuple[str, int, int, str]]:
    """On rank 0: a store of our own, and where the others find it and the control plane."""
    from thinwire import _torch_private as private

    host = _own_address()
    store = private.TCPStore(host, 0, size, is_master=True, wait_for_workers=False)
    return store, (host, store.port, _free_port(), secrets.token_hex(16))


def _free_port() -> int:
    """A port that stays free until it is used: below those that systems give to who names none."""
    for _ in range(100):
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise TransportError("found no free port between 20000 and 32000 for rank 0 to listen on")


def _join(store: Any, place: tuple[str, int, int, str], rank: int, size: int) -> Communicator:
    from thinwire import _torch_private as private
    from thinwire._gloo import GlooExchange

    host, store_port, port, secret = place
    if store is None:
        store = private.TCPStore(host, store_port, size, is_master=False, wait_for_workers=False)
    exchange = GlooExchange(store, rank, size, "thinwire")
    return Communicator(_core.group_communicator(exchange, host, port, secret))


def _own_address() -> str:
    """This host's address as the others see it: the one that leads to MASTER_ADDR."""
    if address := os.environ.get("THINWIRE_MASTER_ADDR"):
        return address
    master = os.environ.get("MASTER_ADDR", "")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master or socket.gethostname(), 1))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise TransportError(
            f"no way to '{master}': {error}; set THINWIRE_MASTER_ADDR to an address of rank 0"
        ) from error


def _set_torch_variables() -> None:
    """RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, from the launcher's own where they miss."""
    environment = os.environ
    for rank, size in (*_MPI_VARIABLES, _SLURM_VARIABLES):
        if rank in environment and size in environment:
            environment.setdefault("RANK", environment[rank])
            environment.setdefault("WORLD_SIZE", environment[size])
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        raise InvalidArgument(
            "thinwire.init() found no ranks: start the job with torchrun, mpirun or srun, or call "
            "torch.distributed.init_process_group first"
        )
    if "MASTER_ADDR" not in environment and "SLURM_LAUNCH_NODE_IPADDR" in environment:
        environment["MASTER_ADDR"] = environment["SLURM_LAUNCH_NODE_IPADDR"]
    environment.setdefault("MASTER_ADDR", "127.0.0.1")
    environment.setdefault("MASTER_PORT", "29500")
