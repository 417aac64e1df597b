"""Buckets of DDP on the library's engine."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from thinwire import _core
from thinwire._tensors import dtype_name
from thinwire.errors import MismatchError
from thinwire.torch._rules import CodecRules

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


class BucketReducer:
    """The engine, and which of its buckets is which of DDP's.

    DDP's bucket numbers mean nothing here: the first step has one bucket of everything, later ones
    are rebuilt. A bucket is known by its parameters and their codecs; when parameters turn up in
    another bucket or with another codec, the engine moves their residuals there.
    """

    def __init__(
        self, communicator: "_core.Communicator", commit: str, non_finite: str, chunks: int
    ) -> None:
        self._rank: int = communicator.rank
        self._ranks: int = communicator.size
        self._engine = _core.Engine(communicator, commit, non_finite, chunks, 0)
        self._buckets: dict[tuple[object, ...], Bucket] = {}
        self._step_open = False
        self._submitted: list[int] = []

    def submit(
        self,
        named: list[tuple[str, torch.Tensor]],
        buffer: torch.Tensor,
        rules: CodecRules,
        scale: float,
        done: Callable[[], None],
    ) -> None:
        """Starts the exchange of a bucket; ``done`` is called on the engine's thread."""
        codecs = tuple(rules.codec_of(name, parameter) for name, parameter in named)
        key = (tuple(name for name, _ in named), codecs, buffer.dtype)
        bucket = self._buckets.get(key) or self._add(key, named, codecs, buffer)
        self._engine.submit(
            bucket.index, buffer.data_ptr(), buffer.numel(), bucket.dtype, 1.0 / scale, scale, done
        )
        self._step_open = True
        self._submitted.append(bucket.index)

    def end_step(self, found_inf: bool = False) -> tuple[bool, bool]:
        """Ends the step that is open, if any. Returns (committed, finite)."""
        if not self._step_open:
            return True, True
        self._step_open = False
        return self._engine.end_step(found_inf)

    @property
    def step_open(self) -> bool:
        return self._step_open

    def check(self) -> None:
        """Raises what went wrong with the exchanges of this backward; all of them are over."""
        submitted, self._submitted = self._submitted, []
        try:
            for index in submitted:
                self._engine.wait(index)
        except Exception:
            self._step_open = False  # the engine is over, and has ended its step
            raise

    def buckets(self) -> list[Bucket]:
        return list(self._buckets.values())

    def metrics(self) -> dict[str, float]:
        return dict(self._engine.metrics())

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

    def abort(self, reason: str) -> None:
        self._engine.abort(reason)

    def close(self) -> None:
        self._engine.close()

    def _add(
        self,
        key: tuple[object, ...],
        named: list[tuple[str, torch.Tensor]],
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
