"""Training over thin wires: compressed gradient exchange.

``import thinwire`` needs no torch; ``import thinwire.torch`` is for DistributedDataParallel.
"""

from typing import Any

from thinwire import _core
from thinwire._start import init
from thinwire.communicator import Communicator, Work
from thinwire.errors import (
    AbortedError,
    Error,
    FormatError,
    InvalidArgument,
    IoError,
    MismatchError,
    NonFiniteError,
    OutOfMemory,
    TimeoutError,
    TransportError,
    Unsupported,
    UnsupportedTensor,
)

__all__ = [
    "AbortedError",
    "Communicator",
    "Error",
    "FormatError",
    "InvalidArgument",
    "IoError",
    "MismatchError",
    "NonFiniteError",
    "OutOfMemory",
    "TimeoutError",
    "TransportError",
    "Unsupported",
    "UnsupportedTensor",
    "Work",
    "build_info",
    "init",
]


def build_info() -> dict[str, Any]:
    """What this build of thinwire has: version, cuda, nccl, mpi, simd targets, compiler."""
    return dict(_core.build_info())


__version__: str = _core.__version__
