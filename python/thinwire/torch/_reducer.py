"""Buckets of DDP on the library's engines."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from thinwire import _core
from thinwire import _torch_private as private
from thinwire._tensors import dtype_name
from thinwire.errors import MismatchError
from thinwire.torch._rules import CodecRules

Future = torch.futures.Future[torch.Tensor]
Named = list[tuple[str, torch.Tensor]]
"""The parameters of a bucket, in its order."""

Span = tuple[int, int, str, float, float]
"""Bucket; chunk, or -1 for all of it; name; begin and end in us of the host's monotonic clock."""

Place = tuple[str, int, int, int, int, int, int]


@dataclass(frozen=True)
class Bucket:
    """What the engine knows of one of DDP's buckets."""

    index: int
    names: tuple[str, ...]
    codecs: tuple[str, ...]
    """By parameter."""
    elements: int
    dtype: str
    wire_bytes: int
    """Sent by this rank in a step."""
    plain_wire_bytes: int
    """What a ring allreduce of the same bucket sends."""
    state_bytes: int


class BucketReducer(ABC):
    """An engine, and which of its buckets is which of DDP's. One subclass a device.

    DDP's bucket numbers mean nothing here: the first step has one bucket of everything, later ones
    are rebuilt. A bucket is known by its parameters and their codecs; when parameters turn up in
    another bucket or with another codec, the engine moves their residuals there.
    """

    def __init__(
        self, communicator: "_core.Communicator", engine: Any, scaler: private.GradScaler | None
    ) -> None:
        self._rank: int = communicator.rank
        self._ranks: int = communicator.size
        self._engine = engine
        self._scaler = scaler
        self._buckets: dict[tuple[object, ...], Bucket] = {}
        self._step_open = False
        self.skipped_steps = 0
        """Those that were not committed, as far as this rank knows yet."""

    @abstractmethod
    def submit(self, named: Named, buffer: torch.Tensor, rules: CodecRules) -> Future:
        """Starts the exchange of a bucket; the Future's tensor is ``buffer`` with the mean."""

    @abstractmethod
    def submit_plain(self, buffer: torch.Tensor, group: dist.ProcessGroup) -> Future:
        """The same without coding, by torch's own collective: what DDP does without a hook."""

    @property
    def step_open(self) -> bool:
        """Whether something has been submitted since the last end_step."""
        return self._step_open

    @abstractmethod
    def begin_backward(self) -> None:
        """Forgets what an earlier backward, broken off, has left."""

    @abstractmethod
    def finish_backward(self) -> None:
        """Every bucket of this backward has been submitted."""

    @abstractmethod
    def check(self) -> None:
        """After finish_backward: raises what went wrong with the exchanges."""

    @abstractmethod
    def end_step(self, found_inf: bool = False) -> None:
        """Ends the step that is open, if any: residuals are committed, or not (found_inf)."""

    @abstractmethod
    def settle(self) -> None:
        """Raises NonFiniteError of the step that has ended, if that is the policy. May block."""

    def abort(self, reason: str) -> None:
        self._engine.abort(reason)

    def close(self) -> None:
        self._buckets.clear()
        self._engine.close()

    def buckets(self) -> list[Bucket]:
        return list(self._buckets.values())

    def metrics(self) -> dict[str, float]:
        return dict(self._engine.metrics())

    def metrics_of(self, bucket: Bucket) -> dict[str, float]:
        return dict(self._engine.bucket_metrics(bucket.index))

    @abstractmethod
    def start_trace(self) -> None:
        """Notes from now on what the buckets do."""

    @abstractmethod
    def stop_trace(self) -> list[Span]:
        """What has been noted since start_trace. May block."""

    def residuals(self) -> tuple[list[tuple[str, int, torch.Tensor]], ...]:
        """(worker, server): name, offset in the parameter, values."""
        self.end_step()
        exported = self._engine.export_worker(), self._engine.export_server()
        return tuple(
            [
                (name, offset, torch.frombuffer(values, dtype=torch.float32))
                for name, offset, values in residuals
                if memoryview(values).nbytes
            ]
            for residuals in exported
        )

    def restore(
        self,
        worker: list[tuple[str, int, torch.Tensor]],
        server: list[tuple[str, int, torch.Tensor]],
    ) -> None:
        """Forgets all buckets and residuals and keeps these for the buckets to come."""
        self.end_step()
        self._engine.restore(
            [(name, offset, v.data_ptr(), v.numel()) for name, offset, v in worker],
            [(name, offset, v.data_ptr(), v.numel()) for name, offset, v in server],
        )
        self._buckets.clear()

    def _bucket(self, named: Named, buffer: torch.Tensor, rules: CodecRules) -> Bucket:
        codecs = tuple(rules.codec_of(name, parameter) for name, parameter in named)
        key = (tuple(name for name, _ in named), codecs, buffer.dtype)
        return self._buckets.get(key) or self._add(key, named, codecs, buffer)

    def _add(
        self,
        key: tuple[object, ...],
        named: Named,
        codecs: tuple[str, ...],
        buffer: torch.Tensor,
    ) -> Bucket:
        sections = sorted(set(codecs))
        spans: list[Place] = []
        source = 0  # DDP packs without gaps
        for (name, parameter), codec in zip(named, codecs, strict=True):
            numel = parameter.numel()
            rows = parameter.shape[0] if parameter.dim() > 1 else 0
            cols = numel // rows if rows else 0
            spans.append((name, 0, source, numel, rows, cols, sections.index(codec)))
            source += numel
        dtype = dtype_name(buffer)
        names = tuple(name for name, _ in named)
        try:
            index = self._engine.add_bucket(dtype, buffer.numel(), sections, spans)
        except MismatchError as error:
            error.args = (f"rank {self._rank}: bucket of '{names[0]}' to '{names[-1]}': {error}",)
            raise
        plan = self._engine.plan(index)
        bucket = Bucket(
            index=index,
            names=names,
            codecs=codecs,
            elements=buffer.numel(),
            dtype=dtype,
            wire_bytes=plan["wire_bytes"],
            plain_wire_bytes=2
            * (self._ranks - 1)
            * buffer.numel()
            * buffer.element_size()
            // self._ranks,
            state_bytes=plan["state_bytes"],
        )
        # The engine has ended the buckets that held one of these parameters.
        moved = set(names)
        self._buckets = {k: b for k, b in self._buckets.items() if moved.isdisjoint(b.names)}
        self._buckets[key] = bucket
        return bucket


def plain_future(work: Any, buffer: torch.Tensor) -> Future:
    """The Future of torch's own work on ``buffer``."""

    def in_place(done: Any) -> torch.Tensor:
        done.value()  # raises
        return buffer

    future: Future = work.get_future().then(in_place)
    return future
