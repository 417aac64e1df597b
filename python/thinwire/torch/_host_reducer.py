"""Buckets on CPUs: the engine's thread codes and exchanges them beside backward."""

import torch
import torch.distributed as dist

from thinwire import _core
from thinwire import _torch_private as private
from thinwire.torch._reducer import BucketReducer, Future, Named, Span, plain_future
from thinwire.torch._rules import CodecRules


class HostReducer(BucketReducer):
    def __init__(
        self,
        communicator: "_core.Communicator",
        commit: str,
        non_finite: str,
        chunks: int,
        scaler: private.GradScaler | None,
    ) -> None:
        engine = _core.Engine(communicator, commit, non_finite, chunks, 0)
        super().__init__(communicator, engine, scaler)
        self._submitted: list[int] = []

    def submit(self, named: Named, buffer: torch.Tensor, rules: CodecRules) -> Future:
        bucket = self._bucket(named, buffer, rules)
        scale = private.loss_scale(self._scaler)
        value = 1.0 if scale is None else float(scale)
        future: Future = torch.futures.Future()
        self._engine.submit(
            bucket.index,
            buffer.data_ptr(),
            buffer.numel(),
            bucket.dtype,
            1.0 / value,
            value,
            lambda: future.set_result(buffer),
        )
        self._step_open = True
        self._submitted.append(bucket.index)
        return future

    def submit_plain(self, buffer: torch.Tensor, group: dist.ProcessGroup) -> Future:
        buffer.mul_(1.0 / self._ranks)
        return plain_future(dist.all_reduce(buffer, group=group, async_op=True), buffer)

    def begin_backward(self) -> None:
        self._submitted.clear()

    def finish_backward(self) -> None:
        """Nothing is held back here."""

    def check(self) -> None:
        submitted, self._submitted = self._submitted, []
        try:
            for index in submitted:
                self._engine.wait(index)
        except Exception:
            self._step_open = False  # the engine is over, and has ended its step
            raise

    def end_step(self, found_inf: bool = False) -> None:
        if not self._step_open:
            return
        self._step_open = False
        committed, _ = self._engine.end_step(found_inf)
        self.skipped_steps += not committed

    def settle(self) -> None:
        """end_step has waited and raised."""

    def start_trace(self) -> None:
        self._engine.start_trace()

    def stop_trace(self) -> list[Span]:
        return list(self._engine.stop_trace())
