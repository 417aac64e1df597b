"""Buckets on a GPU: everything is enqueued by the hook, and the host waits for nothing."""

import torch
import torch.distributed as dist

from thinwire import _core
from thinwire import _torch_private as private
from thinwire.errors import NonFiniteError
from thinwire.torch._gpu_marks import GpuMarks
from thinwire.torch._reducer import BucketReducer, Future, Named, Span, plain_future
from thinwire.torch._rules import CodecRules


class GpuReducer(BucketReducer):
    """Small buckets wait in the engine for the next ones, so Futures are completed when the last
    bucket of the backward has come: DDP looks at them only then.
    """

    def __init__(
        self,
        communicator: "_core.Communicator",
        commit: str,
        non_finite: str,
        chunks: int,
        scaler: private.GradScaler | None,
    ) -> None:
        engine = _core.CudaEngine(communicator, commit, non_finite, chunks)
        super().__init__(communicator, engine, scaler)
        self._device = torch.device("cuda", communicator.device)
        self._means = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        """Waits for the means, so that each Future can say when its own is there."""
        self._pending: list[tuple[int, torch.Tensor, Future]] = []
        self._error: Exception | None = None
        self._over = False
        """The engine has failed for good and was heard: plain backwards go on without it."""
        self._scales: tuple[torch.Tensor, torch.Tensor] | None = None  # inverse and out
        self._discard = torch.ones(1, device=self._device)
        self._marks: GpuMarks | None = None  # of a trace

    def submit(self, named: Named, buffer: torch.Tensor, rules: CodecRules) -> Future:
        bucket = self._bucket(named, buffer, rules)
        inverse, out = self._scale_addresses()
        if self._marks is not None:
            self._marks.begin(bucket.index)
        self._engine.submit(
            bucket.index,
            buffer.data_ptr(),
            buffer.numel(),
            bucket.dtype,
            self._current_stream(),
            inverse,
            out,
        )
        self._step_open = True
        future: Future = torch.futures.Future(devices=[self._device])
        self._pending.append((bucket.index, buffer, future))
        return future

    def submit_plain(self, buffer: torch.Tensor, group: dist.ProcessGroup) -> Future:
        # NCCL multiplies on its way: the same bits where 1/N is a power of two.
        operation = dist.ReduceOp.AVG
        if self._ranks & (self._ranks - 1) or dist.get_backend(group) != "nccl":
            buffer.mul_(1.0 / self._ranks)
            operation = dist.ReduceOp.SUM
        if not self._buckets:
            work = dist.all_reduce(buffer, operation, group=group, async_op=True)
            return plain_future(work, buffer)
        # Two communicators on one GPU: their kernels must start in one order on all ranks, so this
        # one takes its place among the engine's exchanges.
        lane = self._engine.exchange_stream()
        wire = torch.cuda.ExternalStream(lane, self._device)  # type: ignore[no-untyped-call]
        wire.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(wire):
            work = dist.all_reduce(buffer, operation, group=group, async_op=True)
            assert work is not None
            work.wait()
        return plain_future(work, buffer)

    def begin_backward(self) -> None:
        self._pending.clear()

    def finish_backward(self) -> None:
        pending, self._pending = self._pending, []
        # A question to the engine's thread costs two changes of threads: one for all but the last
        # bucket, so that what follows on their Futures does not wait for that, and one for it.
        groups = [pending[:-1], pending[-1:]] if self._marks is None else [[p] for p in pending]
        for group in [group for group in groups if group] or [[]]:
            try:
                if group or not self._over:
                    self._engine.wait([index for index, _, _ in group], self._means.cuda_stream)
            except Exception as error:  # raised by check(): DDP has to finish first
                self._error = self._error or error
            with torch.cuda.stream(self._means):
                for index, buffer, future in group:
                    if self._marks is not None:
                        self._marks.end(index, self._means)
                    future.set_result(buffer)

    def check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._over = not isinstance(error, NonFiniteError)
            self._step_open = False
            raise error

    def end_step(self, found_inf: bool = False) -> None:
        if self._step_open:
            self._step_open = False
            discard = self._discard.data_ptr() if found_inf else 0
            self.skipped_steps += self._engine.end_step(self._current_stream(), discard)
            self._scales = None

    def settle(self) -> None:
        self.skipped_steps += self._engine.synchronize()

    def start_trace(self) -> None:
        self._marks = GpuMarks(self._device)

    def stop_trace(self) -> list[Span]:
        marks, self._marks = self._marks, None
        return [] if marks is None else marks.spans()

    def residuals(self) -> tuple[list[tuple[str, int, torch.Tensor]], ...]:
        torch.cuda.current_stream(self._device).synchronize()
        return super().residuals()

    def _scale_addresses(self) -> tuple[int, int]:
        """Of this step's inverse and out scale on the GPU; 0 without a GradScaler."""
        if self._scales is None:
            scale = private.loss_scale(self._scaler)
            if scale is None:
                return 0, 0
            out = scale.to(self._device, torch.float32)
            self._scales = (out.reciprocal(), out)
        return self._scales[0].data_ptr(), self._scales[1].data_ptr()

    def _current_stream(self) -> int:
        return int(torch.cuda.current_stream(self._device).cuda_stream)
