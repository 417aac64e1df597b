"""When buckets on a GPU begin and end, by events on its streams."""

import time

import torch

from thinwire.torch._reducer import Span


class GpuMarks:
    """Events of a trace; their times are told at the end, so that nothing waits before."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)
        self._device = device
        self._origin = _now(torch.cuda.current_stream(device))
        self._origin_us = time.monotonic_ns() / 1e3
        self._begun: dict[int, torch.cuda.Event] = {}
        self._pairs: list[tuple[int, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self, bucket: int) -> None:
        """The bucket's gradients are complete after what the current stream holds."""
        self._begun[bucket] = _now(torch.cuda.current_stream(self._device))

    def end(self, bucket: int, stream: torch.cuda.Stream) -> None:
        """Its mean is in place after what ``stream`` holds."""
        if begun := self._begun.pop(bucket, None):
            self._pairs.append((bucket, begun, _now(stream)))

    def spans(self) -> list[Span]:
        """Blocks until the GPU is past them all."""
        torch.cuda.synchronize(self._device)
        return [(b, -1, "bucket", self._us(begin), self._us(end)) for b, begin, end in self._pairs]

    def _us(self, event: torch.cuda.Event) -> float:
        return self._origin_us + 1e3 * float(self._origin.elapsed_time(event))


def _now(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
