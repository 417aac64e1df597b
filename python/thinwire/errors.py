"""The exceptions of thinwire: one for each error type of the C++ library, and two of Python's side.

All derive from :class:`Error`, and from the built-in exception that a caller would expect.
Messages name the rank and, where there is one, the parameter.
"""

import builtins


class Error(Exception):
    """Base of everything that thinwire raises on purpose."""


class InvalidArgument(Error, ValueError):
    """A value that can never work: an unknown codec, a density of 2, a negative timeout."""


class UnsupportedTensor(Error, TypeError):
    """A tensor of the wrong kind: dtype, device or layout."""


class Unsupported(Error, RuntimeError):
    """A feature of torch that thinwire refuses to run under; the message says which, and why."""


class OutOfMemory(Error, MemoryError):
    """A request went over THINWIRE_MEMORY_LIMIT, or the system had none left. Nothing was lost."""


class FormatError(Error, ValueError):
    """Bytes from a peer or a saved state are not what the format says."""


class IoError(Error, OSError):
    """A file is missing or cannot be read or written."""


class MismatchError(Error, ValueError):
    """Ranks disagree on something that must be equal. Raised on every rank."""

    field: str = ""
    mine: str = ""
    theirs: str = ""
    peer: int = -1


class NonFiniteError(Error, ArithmeticError):
    """A NaN or Inf was found, and the policy is ``raise``."""


class TransportError(Error, ConnectionError):
    """A transport failed. ``peer`` is the culprit where it is known, else -1."""

    peer: int = -1


class TimeoutError(TransportError, builtins.TimeoutError):
    """A wait ran out of time. ``peer`` is the rank waited for where it is known, else -1."""


class AbortedError(TransportError):
    """The communicator was aborted, here or on a peer. ``peer`` is the rank that failed first."""
