"""A handle's metrics as curves, in TensorBoard or whatever has its ``add_scalar``."""

from collections.abc import Mapping
from typing import Any, Protocol

from thinwire.torch._handle import Handle


class ScalarWriter(Protocol):
    """``torch.utils.tensorboard.SummaryWriter`` is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


class MetricsLogger:
    """Writes what the exchange has done since the last time.

        logger = MetricsLogger(SummaryWriter(), handle)
        for step ...:
            ...
            if step % 100 == 0:
                logger.log(step)

    For the model and for each bucket: bytes that a rank sends in a step and how much less than
    uncompressed that is, milliseconds a step in the codec and waiting for the wire (in between,
    this rank's), residual norm ratio and contraction (of the step after the last ``log``). Tags are
    ``thinwire/NAME`` and ``thinwire/bucketN/NAME``. Any one rank may log; the others need not.
    """

    def __init__(self, writer: ScalarWriter, handle: Handle, prefix: str = "thinwire") -> None:
        self._writer = writer
        self._handle = handle
        self._prefix = prefix
        self._before: Mapping[str, Any] = {}
        handle.sample_residuals()

    def log(self, step: int) -> None:
        now = self._handle.metrics()
        steps = now["steps"] - self._before.get("steps", 0)
        buckets = now["buckets"]
        scalars = {name: now[name] for name in ("skipped_steps", "state_bytes")}
        scalars |= _scalars(now, self._before, steps)
        for name in ("wire_bytes", "plain_wire_bytes"):  # of a step; the handle has all so far
            scalars[name] = sum(bucket[name] for bucket in buckets)
        scalars["ratio"] = _ratio(scalars)
        self._write(step, self._prefix, scalars)
        before = self._before.get("buckets", [])
        for number, bucket in enumerate(buckets):
            old: Mapping[str, Any] = before[number] if number < len(before) else {}
            if old.get("elements") != bucket["elements"] or old["calls"] > bucket["calls"]:
                old = {}  # another bucket: DDP has rebuilt them
            calls = bucket["calls"] - old.get("calls", 0)
            scalars = {name: bucket[name] for name in ("wire_bytes", "plain_wire_bytes")}
            scalars |= {"ratio": _ratio(bucket), **_scalars(bucket, old, calls)}
            self._write(step, f"{self._prefix}/bucket{number}", scalars)
        self._before = now
        self._handle.sample_residuals()

    def _write(self, step: int, prefix: str, scalars: Mapping[str, float | None]) -> None:
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(f"{prefix}/{name}", value, step)


def _scalars(
    now: Mapping[str, Any], before: Mapping[str, Any], steps: int
) -> dict[str, float | None]:
    def of_a_step(*names: str) -> float | None:
        if steps < 1:
            return None
        return float(sum(now.get(name, 0) - before.get(name, 0) for name in names) / steps)

    return {
        "codec_ms": of_a_step("encode_ms", "decode_ms"),
        "exchange_ms": of_a_step("exchange_ms"),
        "residual_ratio": now["residual_ratio"],
        "contraction": now["contraction"],
    }


def _ratio(scalars: Mapping[str, Any]) -> float | None:
    sent = scalars["wire_bytes"]
    return scalars["plain_wire_bytes"] / sent if sent else None
