"""Serves the library's one call, an all-to-all of bytes, on a private gloo group of torch."""

import ctypes
from collections.abc import Callable
from datetime import timedelta

import torch

from thinwire import _core
from thinwire import _torch_private as private


def _bytes_at(address: int, size: int) -> torch.Tensor:
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
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

        def finish(future: torch.futures.Future[object]) -> None:
            try:
                future.value()
            except Exception as error:  # whatever gloo says becomes a TransportError
                done(f"gloo: {error}")
            else:
                done("")

        work.get_future().add_done_callback(finish)

    def split(self, members: list[int], name: str) -> "GlooExchange":
        return GlooExchange(
            self._store, members.index(self.rank), len(members), f"{self._name}/{name}"
        )
