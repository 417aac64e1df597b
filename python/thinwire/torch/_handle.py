"""The state of the hook, and what the user holds."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist

from thinwire import _torch_private as private
from thinwire._lifetime import close_at_exit
from thinwire._start import apart, host_ranks, over_nccl
from thinwire._tensors import dtype_name
from thinwire.errors import InvalidArgument, MismatchError, NonFiniteError, Unsupported
from thinwire.torch import _auto, _phases, _state
from thinwire.torch._detached import DetachedHandle
from thinwire.torch._gpu_reducer import GpuReducer
from thinwire.torch._host_reducer import HostReducer
from thinwire.torch._momentum import CodedMomentum
from thinwire.torch._probe import ResidualProbe
from thinwire.torch._reducer import Bucket, BucketReducer, Future
from thinwire.torch._refusals import refuse_parameters
from thinwire.torch._rules import CodecRules
from thinwire.torch._trace import write_trace
from thinwire.torch.adamw import AdamW

logger = logging.getLogger("thinwire")

_TIMES = ("calls", "encode_ms", "exchange_ms", "decode_ms")


def _completed(tensor: torch.Tensor) -> Future:
    devices = [tensor.device] if tensor.is_cuda else None
    future: Future = torch.futures.Future(devices=devices)  # type: ignore[arg-type]
    future.set_result(tensor)
    return future


class Handle:
    """What :func:`compress` returns: a DDP model's compressed exchange, to steer and to watch.

    Methods are called between steps and, where they say so, on all ranks alike. Not thread-safe.
    A deep or pickled copy of the model does not exchange: its handle refuses every call.
    """

    _maker = "compress()"

    def __init__(
        self,
        module: torch.nn.Module,
        codec: str,
        *,
        codecs: Mapping[str, str] | None,
        optimizer: torch.optim.Optimizer | None,
        switch_at: int | None,
        scaler: private.GradScaler | None,
        non_finite: str,
        commit: str,
        chunks: int,
        process_group: dist.ProcessGroup | None,
    ) -> None:
        parameters = {private.plain_name(n): p for n, p in module.named_parameters()}
        refuse_parameters(parameters)
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._parameters = parameters
        group = process_group if process_group is not None else dist.group.WORLD
        assert group is not None
        self._group: dist.ProcessGroup = group
        self._rank = dist.get_rank(group)
        self._size = dist.get_world_size(group)
        self._non_finite = non_finite
        if commit == "auto":
            commit = "double" if scaler is not None or non_finite == "raise" else "in_place"
        self._commit = commit
        self._plain_depth = 0
        self._steps = 0
        self._error: BaseException | None = None
        self._closed = False
        self._successor: Handle | None = None
        """Who has taken this closed handle's place: DDP takes one hook in its life."""
        self._step_ended = False
        """Whether the last backward's step has been ended, before anybody could discard it."""
        self._choice: _auto.Choice | None = None
        self._probe = ResidualProbe(scaler)
        self._momentum: CodedMomentum | None = None
        optimizer = _phases.unwrapped(optimizer)
        if isinstance(optimizer, AdamW | torch.optim.SGD):
            self._momentum = CodedMomentum(optimizer, scaler)
        self._warm_up = _phases.WarmUp(
            optimizer if self._size > 1 else None,
            switch_at if self._size > 1 else None,
            warn=self._rank == 0 and self._size > 1,
        )

        # Raises before anything is made.
        rules = CodecRules("none" if codec == "auto" else codec, codecs)
        rules.refuse_idle_patterns(self._sizes())
        self._reducer: BucketReducer | None = None
        if self._size > 1:
            # Its own, so that two models never share one; and made here, never inside a hook.
            device = next((p.device for p in parameters.values()), torch.device("cpu"))
            parent = host_ranks(None if group is dist.group.WORLD else group)
            if device.type == "cuda":
                self._communicator = over_nccl(parent, device.index)
                make: type[GpuReducer | HostReducer] = GpuReducer
            else:
                self._communicator = apart(parent)
                make = HostReducer
            self._reducer = make(self._communicator, commit, non_finite, chunks, scaler)
            settings = [("commit", commit), ("non_finite", non_finite), ("chunks", str(chunks))]
            self._require_equal_rules(codec, rules, settings)
        if codec == "auto":
            rules = rules.with_codec(self._choose())
        self._warm_up.refuse_idle_switch(rules)
        self._warm_up.begin(rules)
        self._target = rules
        self._rules = self._warm_up.current(rules)
        """Those in force; asked for anew with each backward."""
        self._said = self._rules.codec
        self._register: Callable[[], None] | None = None
        self._say(f"{self._size} ranks, codec {self._said}, {commit} residuals")
        close_at_exit(self)

    @property
    def codec(self) -> str:
        """The codec of parameters that no pattern names."""
        return self._warm_up.current(self._target).codec

    def set_codec(self, codec: str) -> None:
        """Collective: another codec, from the next backward on. Residuals stay.

        What a parameter's new codec does not use of its residual (``none``) is kept for later.
        Raises :class:`MismatchError` on every rank when ranks give different ones.
        """
        with self._on_all_ranks():
            rules = self._target.with_codec(codec)
        self._require_equal_rules(rules.codec, rules)
        self._adopt(rules)
        self._say_codec()

    @contextmanager
    def plain(self) -> Iterator[None]:
        """On all ranks: backwards inside it exchange as DDP without a hook does.

        Nothing compares the ranks here: if one leaves it out, all wait for the others in vain.
        """
        self._plain_depth += 1
        try:
            yield
        finally:
            self._plain_depth -= 1

    def discard_step(self) -> None:
        """On all ranks, after a backward whose gradients are not used: residuals go back.

        Needs ``commit="double"``. A step in which any rank had NaN or Inf needs no call. Raises
        InvalidArgument when the step has ended: ``non_finite="raise"`` ends it in the backward,
        :meth:`state_dict` does too.
        """
        if self._commit != "double":
            raise Unsupported("discard_step() needs residuals in two versions: commit='double'")
        if self._step_ended:
            raise InvalidArgument(
                f"rank {self._rank}: discard_step() comes too late, this step's residuals count "
                "already: non_finite='raise', state_dict() or another discard_step() has ended it"
            )
        self._end_step(found_inf=True)

    def metrics(self) -> dict[str, Any]:
        """Sums since the start, on this rank: bytes sent to others, milliseconds of the codec.

        Not counted: what DDP exchanges by itself, as long as no parameter has been coded.

        Each bucket's wire_bytes and plain_wire_bytes are those of one step; its times are sums of
        its calls. residual_ratio and contraction are those of the last :meth:`sample_residuals`.
        """
        totals = self._reducer.metrics() if self._reducer else {}
        buckets = [] if self._reducer is None else self._reducer.buckets()
        return {
            "steps": self._steps,
            "skipped_steps": 0 if self._reducer is None else self._reducer.skipped_steps,
            "codec": self.codec,
            **totals,
            **self._probe.of(self._sizes()),
            "state_bytes": sum(bucket.state_bytes for bucket in buckets),
            "buckets": [
                {
                    "elements": bucket.elements,
                    "dtype": bucket.dtype,
                    "codecs": sorted(set(bucket.codecs)),
                    "wire_bytes": bucket.wire_bytes,
                    "plain_wire_bytes": bucket.plain_wire_bytes,
                    **self._times(bucket),
                    **self._probe.of(bucket.names),
                }
                for bucket in buckets
            ],
        }

    def sample_residuals(self) -> None:
        """On any rank: the next step also measures what the codec leaves out, for metrics().

        Known when that step has ended, at the latest in the backward after it: residual_ratio,
        |e'| / |g|, the residual after the step to this rank's gradient; and contraction,
        |e'|^2 / |g + e|^2. Costs a copy of the residuals and reads the gradients twice.
        """
        self._probe.ask()

    @contextmanager
    def trace(self, path: "str | PathLike[str]") -> Iterator[None]:
        """On any rank: writes a timeline of the steps inside, for ui.perfetto.dev.

        From submission until the mean is in place for each bucket, and the stages of its chunks;
        on the host's monotonic clock, so that the files of ranks on one host fit together. Give
        each rank a path of its own, and a few steps only.
        """
        if self._reducer is not None:
            self._reducer.start_trace()
        try:
            yield
        finally:
            spans = [] if self._reducer is None else self._reducer.stop_trace()
            buckets = [] if self._reducer is None else self._reducer.buckets()
            write_trace(path, spans, buckets, self._rank)

    def explain(self) -> str:
        """For people: which codec and why, and each bucket's bytes before and after."""
        lines = [f"thinwire: {self._size} ranks, codec {self.codec}, after {self._steps} steps"]
        if self._register is not None:
            lines.append("DDP exchanges by itself, without a hook: no parameter is coded")
        if self._size == 1:
            lines.append("one rank: nothing is exchanged")
        if self._choice is not None:
            lines.append(str(self._choice))
        if self._target is not self._warm_up.current(self._target):
            lines.append(f"{self._target.codec} when the optimizer freezes its second moment")
        metrics = self.metrics()
        for number, bucket in enumerate(metrics["buckets"]):
            ratio = bucket["plain_wire_bytes"] / max(1, bucket["wire_bytes"])
            lines.append(
                f"bucket {number}: {bucket['elements']} {bucket['dtype']}, "
                f"{'+'.join(bucket['codecs'])}: {bucket['plain_wire_bytes']} -> "
                f"{bucket['wire_bytes']} bytes sent by a rank ({ratio:.1f} times less)"
            )
        lines.append(f"residuals: {metrics['state_bytes']} bytes a rank")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """What this rank remembers, by parameter; CPU tensors. For torch.save or a checkpoint.

        Keys hold the rank, so that torch.distributed.checkpoint keeps every rank's.
        """
        worker: _state.Residuals = []
        server: _state.Residuals = []
        if self._reducer is not None:
            self._end_step()
            worker, server = self._reducer.residuals()
        own = _state.PackedResiduals(_state.pack(worker), _state.pack(server))
        return {
            "version": _state.VERSION,
            "ranks": self._size,
            "codec": self._target.codec,
            "residuals": {f"rank{self._rank}": own},
        }

    def load_state_dict(self, state: Mapping[str, Any], *, residuals: str = "per_rank") -> None:
        """Collective: goes on from a saved state, also in the codec that it was saved under.

        ``residuals``: ``per_rank`` (each its own; as many ranks as saved: training then goes on
        bitwise), ``mean`` (any number of ranks, from all ranks' states, see
        :func:`merge_states`: nothing that was left out is lost), or ``drop``.

        Raises FormatError or InvalidArgument, on other ranks MismatchError, and then changes
        nothing.
        """
        with self._on_all_ranks():
            own = self._own_state(state, residuals)
            worker, server = _state.read(own, residuals, self._rank, self._size, self._sizes())
            rules = self._target.with_codec(str(own.get("codec")))
        self._require_equal_rules(rules.codec, rules)
        self._adopt(rules)
        if self._reducer is not None:
            self._end_step()
            self._reducer.restore(worker, server)

    @property
    def replaceable(self) -> bool:
        """Whether another handle may take this one's place as the model's hook."""
        return self._closed

    def close(self) -> None:
        """Ends the engine's thread; done at exit by itself.

        The model then trains as plain DDP, and :func:`compress` may be called on it again.
        """
        self._closed = True
        if self._reducer is not None:
            self._reducer.close()
            self._communicator.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "DetachedHandle":
        return DetachedHandle()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (DetachedHandle, ())

    def _register_when_coded(self, register: Callable[[], None]) -> None:
        """Calls ``register``, which gives DDP the hook, as soon as a parameter is coded.

        Until then DDP exchanges as it does by itself: a hook costs it Python for each bucket.
        """
        self._register = register
        self._register_if_needed(self._target)

    def _register_if_needed(self, rules: CodecRules) -> None:
        if self._register is None or rules.leave_plain(self._parameters):
            return
        self._register()
        self._register = None

    def _adopt(self, rules: CodecRules) -> None:
        """All or nothing."""
        self._register_if_needed(rules)
        self._warm_up.begin(rules)
        self._target = rules
        self._rules = self._warm_up.current(rules)

    def _require_equal_rules(
        self, codec: str, rules: CodecRules, more: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._require_equal([("codec", codec), ("codecs", str(rules.patterns)), *more])

    def _require_equal(self, fields: list[tuple[str, str]]) -> None:
        if self._reducer is not None:
            self._communicator.require_equal(f"rank {self._rank}: {self._maker}", fields)

    @contextmanager
    def _on_all_ranks(self) -> Iterator[None]:
        """Of a collective call: what a rank's own input raises, the others hear of at once."""
        try:
            yield
        except Exception as error:
            with suppress(MismatchError):
                self._require_equal([("input", f"refused: {error}")])
            raise

    def _own_state(self, state: Any, residuals: str) -> Any:
        """What of a saved state is for this rank."""
        return state

    def _reduce(self, bucket: private.GradBucket) -> Future:
        """The hook: runs on autograd's thread as a bucket's gradients become ready."""
        buffer = bucket.buffer()
        if self._reducer is None:
            return _completed(buffer)
        if self._successor is not None:
            return self._successor._reduce(bucket)
        if self._closed:
            return self._reducer.submit_plain(buffer, self._group)
        try:
            if bucket.is_last():
                # Not with the first: under reentrant checkpointing that comes in a backward of its
                # own, which ends before the others have come.
                private.after_backward(self._finish_backward)
            if bucket.index() == 0:
                self._begin_backward()
            named = self._named(bucket)
            if self._travels_plain(named, buffer):
                future = self._reducer.submit_plain(buffer, self._group)
            else:
                future = self._submit(named, bucket)
        except Exception as error:  # raised when backward is over: DDP has to finish first
            self._error = self._error or error
            future = _completed(buffer)
        if bucket.is_last():
            self._reducer.finish_backward()
        return future

    def _submit(self, named: list[tuple[str, torch.Tensor]], bucket: private.GradBucket) -> Future:
        assert self._reducer is not None
        buffer = bucket.buffer()
        subtract = None
        if self._momentum is not None:
            subtract = self._momentum.add(named, bucket.gradients(), self._rules)
        self._probe.add(named, buffer)
        future = self._reducer.submit(named, buffer, self._rules)
        if subtract is None:
            return future

        def without_momentum(done: Future) -> torch.Tensor:
            mean = done.value()
            subtract()
            return mean

        return future.then(without_momentum)

    def _sizes(self) -> dict[str, int]:
        """Elements by parameter, as far as this rank exchanges them."""
        return {name: parameter.numel() for name, parameter in self._parameters.items()}

    def _named(self, bucket: private.GradBucket) -> list[tuple[str, torch.Tensor]]:
        named = []
        for parameter in bucket.parameters():
            name = self._names.get(id(parameter))
            if name is None:
                raise InvalidArgument(
                    f"rank {self._rank}: a parameter of shape {tuple(parameter.shape)} is not of "
                    "the module that was given to thinwire"
                )
            named.append((name, parameter))
        return named

    def _travels_plain(self, named: list[tuple[str, torch.Tensor]], buffer: torch.Tensor) -> bool:
        return (
            self._plain_depth > 0
            or buffer.is_sparse
            or not dtype_name(named[0][1])  # of the parameter: complex buckets look real
            or all(self._rules.codec_of(name, p) == "none" for name, p in named)
        )

    def _begin_backward(self) -> None:
        assert self._reducer is not None
        self._error = None  # of a backward that was broken off
        self._end_step()
        self._step_ended = False
        self._reducer.begin_backward()
        self._rules = self._warm_up.current(self._target)
        self._say_codec()
        self._probe.begin(self._worker_residuals)

    def _finish_backward(self) -> None:
        """After DDP's own finalizer: raises what went wrong."""
        assert self._reducer is not None
        error, self._error = self._error, None
        try:
            self._reducer.check()
            if error is not None:  # of a bucket that was never submitted
                self._end_step(found_inf=True)
        except Exception as failure:
            error = error or failure
        if error is not None:
            raise error
        self._steps += 1
        if self._non_finite == "raise":
            try:
                self._end_step()
                self._reducer.settle()
            except NonFiniteError:
                self._step_ended = False  # it counts for nothing: whoever discards it may
                raise

    def _end_step(self, found_inf: bool = False) -> None:
        if self._reducer is not None:
            self._step_ended = self._step_ended or self._reducer.step_open
            self._reducer.end_step(found_inf)
            self._probe.end(self._worker_residuals, kept=not found_inf)

    def _worker_residuals(self) -> _state.Residuals:
        assert self._reducer is not None
        return self._reducer.residuals()[0]

    def _times(self, bucket: Bucket) -> dict[str, float]:
        assert self._reducer is not None
        of_bucket = self._reducer.metrics_of(bucket)
        return {name: of_bucket[name] for name in _TIMES}

    def _choose(self) -> str:
        if self._reducer is None:
            return "none"
        elements = sum(self._sizes().values())
        self._choice = _auto.choose(self._communicator, self._group, elements)
        self._say(str(self._choice))
        return self._choice.codec

    def _say_codec(self) -> None:
        if self._rules.codec != self._said:
            self._said = self._rules.codec
            self._say(f"step {self._steps}: codec {self._said}")

    def _say(self, text: str) -> None:
        if self._rank == 0:
            logger.info("%s", text)
