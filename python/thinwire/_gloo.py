"""Serves the library's one call, an all-to-all of bytes, on a private gloo group of torch."""

import ctypes
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta

import torch

from thinwire import _core
from thinwire import _torch_private as private
from thinwire._lifetime import close_at_exit

_longest_goodbye = 5.0  # seconds


class _Ending:
    """Threads that end groups. gloo's own call Python when a call ends, which kills a process
    whose interpreter is gone: so it waits for them, if not for long.
    """

    def __init__(self) -> None:
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        close_at_exit(self)

    def start(self, last: list[object]) -> None:
        """Lets go of what ``last`` holds."""
        thread = threading.Thread(target=last.clear, name="thinwire gloo", daemon=True)
        self._threads.add(thread)
        thread.start()

    def close(self) -> None:
        for thread in list(self._threads):
            thread.join(_longest_goodbye)


_ending = _Ending()  # before any communicator, so that it is closed after them


def _bytes_at(address: int, size: int) -> torch.Tensor:
    if size == 0:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=torch.uint8)


class GlooExchange:
    """A gloo group that nobody else uses, made without torch's list of groups.

    The library's thread calls :meth:`all_to_all`, which returns at once; gloo's own threads call
    ``done``. Calls match by their order.
    """

    def __init__(self, store: private.Store, rank: int, size: int, name: str) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._name = name
        # The library's own time-out comes first and names the culprit.
        timeout = timedelta(seconds=2 * _core.timeout_seconds() + 10)
        self._under_way: set[object] = set()
        self._group = private.private_gloo_group(store, rank, size, name, timeout)

    def all_to_all(
        self,
        source: int,
        source_bytes: list[int],
        out: int,
        out_bytes: list[int],
        done: Callable[[str], None],
    ) -> None:
        # `done` keeps the memory behind both addresses.
        send = _bytes_at(source, sum(source_bytes))
        receive = _bytes_at(out, sum(out_bytes))
        work = self._group.alltoall_base(receive, send, out_bytes, source_bytes)
        under_way, call = self._under_way, object()  # not self: gloo's thread would end the group
        under_way.add(call)

        def finish(future: torch.futures.Future[object]) -> None:
            under_way.discard(call)
            try:
                future.value()
            except Exception as error:  # whatever gloo says becomes a TransportError
                done(f"gloo: {error}")
            else:
                done("")

        work.get_future().add_done_callback(finish)

    def __del__(self) -> None:
        # gloo's group ends only after its calls, and those of an aborted communicator end only when
        # peers leave too: nobody shall wait for that.
        if self._under_way:
            last = [self._group]
            del self._group
            _ending.start(last)

    def split(self, members: list[int], name: str) -> "GlooExchange":
        return GlooExchange(
            self._store, members.index(self.rank), len(members), f"{self._name}/{name}"
        )
