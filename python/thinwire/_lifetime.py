"""Closes what is still open when the interpreter ends: threads of the library may need it."""

import atexit
import itertools
import os
import weakref
from typing import Protocol


class Closeable(Protocol):
    def close(self) -> None: ...


_open: "weakref.WeakValueDictionary[int, Closeable]" = weakref.WeakValueDictionary()
_numbers = itertools.count()
_process = os.getpid()


def close_at_exit(thing: Closeable) -> None:
    """Things are closed in the reverse order of these calls: the newest stand on older ones."""
    _open[next(_numbers)] = thing


@atexit.register
def _close_all() -> None:
    if os.getpid() != _process:  # a fork has none of the threads that closing would end
        return
    for _, thing in sorted(_open.items(), reverse=True):
        thing.close()
