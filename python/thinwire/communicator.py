"""A group of ranks that exchange tensors, compressed where asked."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from thinwire import _core
from thinwire._lifetime import close_at_exit
from thinwire._tensors import check_tensor, dtype_name
from thinwire.errors import AbortedError, InvalidArgument

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Work:
    """An operation under way. Its tensors belong to the library until it is complete."""

    def wait(self) -> None:
        """CPU: blocks until complete; raises what went wrong, here or on a peer, with its type.
        GPU: what the current stream gets from now on comes after it; does not block.
        """
        raise NotImplementedError

    def is_completed(self) -> bool:
        """True once complete, also if it failed."""
        raise NotImplementedError


class _ThreadWork(Work):
    """On the communicator's thread."""

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def wait(self) -> None:
        self._future.result()

    def is_completed(self) -> bool:
        return self._future.done()


class _StreamWork(Work):
    """On the communicator's stream."""

    def __init__(self, end: "torch.cuda.Event") -> None:
        self._end = end

    def wait(self) -> None:
        self._end.wait()

    def is_completed(self) -> bool:
        return bool(self._end.query())  # type: ignore[no-untyped-call]


class Communicator:
    """A group of ranks. :func:`thinwire.init` makes one; :meth:`split` makes smaller ones.

    All ranks make the same calls in the same order. Operations run one after the other;
    ``async_op=True`` returns a :class:`Work` instead of waiting. Tensors are contiguous, of
    float32, float16 or bfloat16, and of equal size and dtype on all ranks. Results are the same
    bits on every rank.

    Over MPI and gloo tensors are on the CPU, and operations run on a thread of the communicator.
    Over NCCL they are on :attr:`device`, and operations are enqueued by the caller as torch's are:
    they come after what the current stream holds, later work on it sees the result, and the host
    does not wait. What goes wrong is raised by the next call then.

    ``codec`` is one of ``none, bf16, fp16, int8, int4, sign, topk:DENSITY`` (docs/tuning.md).
    ``residual`` is a name under which this rank remembers what the codec left out and adds it the
    next time (error feedback); without one, what is left out is lost.

    An error of a peer or of the network ends the communicator on every rank and is raised on each.
    Use it from one thread at a time.
    """

    def __init__(self, core: "_core.Communicator") -> None:
        self._core = core
        self.rank: int = core.rank
        self.size: int = core.size
        self.local_rank: int = core.local_rank
        self.local_size: int = core.local_size
        self.transport: str = core.transport
        self.device: str = f"cuda:{core.device}" if core.device >= 0 else "cpu"
        self._stream: torch.cuda.Stream | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thinwire")
        self._operations: dict[tuple[object, ...], Any] = {}
        self._closed = False
        close_at_exit(self)

    def __repr__(self) -> str:
        return f"<thinwire.Communicator rank {self.rank} of {self.size} over {self.transport}>"

    @property
    def closed(self) -> bool:
        return self._closed

    def allreduce(
        self,
        tensor: "torch.Tensor",
        *,
        op: str = "avg",
        codec: str = "none",
        residual: str | None = None,
        async_op: bool = False,
    ) -> Work | None:
        """Replaces ``tensor`` by its mean over ranks; without codec also ``sum`` or ``max``."""
        dtype = self._check(tensor, "tensor")
        address, numel = tensor.data_ptr(), tensor.numel()
        if codec == "none":
            self._check_op(op)

            def run(stream: int) -> None:
                self._agree("allreduce", numel, dtype, op)
                self._core.allreduce(address, numel, dtype, op, stream)
        else:
            self._check_mean(op, codec)
            name, spec = self._feedback(residual, codec)

            def run(stream: int) -> None:
                self._run("Allreduce", (name, numel, dtype, spec), (address, numel, dtype), stream)

        return self._start(run, async_op, tensor)

    def reduce_scatter(
        self,
        output: "torch.Tensor",
        input: "torch.Tensor",
        *,
        op: str = "avg",
        codec: str = "none",
        residual: str | None = None,
        async_op: bool = False,
    ) -> Work | None:
        """``output``: this rank's part of the mean of ``input``, of :attr:`size` equal parts.

        A residual is as large as ``input`` on every rank.
        """
        dtype = self._check(input, "input")
        part = self._check_parts(input, "input", output, "output", dtype)
        source, out, numel = input.data_ptr(), output.data_ptr(), input.numel()
        if codec == "none":
            self._check_op(op)

            def run(stream: int) -> None:
                self._agree("reduce_scatter", numel, dtype, op)
                self._core.reduce_scatter(source, out, part, dtype, op, stream)
        else:
            self._check_mean(op, codec)
            name, spec = self._feedback(residual, codec)
            boundaries = tuple(part * i for i in range(self.size + 1))

            def run(stream: int) -> None:
                tensors = (source, numel, out, part, dtype)
                self._run("ReduceScatter", (name, boundaries, dtype, spec), tensors, stream)

        return self._start(run, async_op, input, output)

    def all_gather(
        self,
        output: "torch.Tensor",
        input: "torch.Tensor",
        *,
        codec: str = "none",
        async_op: bool = False,
    ) -> Work | None:
        """``output``: every rank's ``input``, in rank order. Codecs keep no residual here."""
        dtype = self._check(output, "output")
        part = self._check_parts(output, "output", input, "input", dtype)
        source, out, numel = input.data_ptr(), output.data_ptr(), output.numel()
        if codec == "none":
            part_bytes = part * input.element_size()

            def run(stream: int) -> None:
                self._agree("all_gather", numel, dtype, "")
                self._core.all_gather(source, part_bytes, out, stream)
        else:
            _, spec = self._feedback(None, codec)
            boundaries = tuple(part * i for i in range(self.size + 1))

            def run(stream: int) -> None:
                tensors = (source, part, out, numel, dtype)
                self._run("AllGather", (boundaries, dtype, spec), tensors, stream)

        return self._start(run, async_op, input, output)

    def barrier(self) -> None:
        """Returns when every rank has come."""
        self._call(self._core.barrier)

    def split(self, color: int, key: int | None = None) -> "Communicator | None":
        """Collective: ranks of equal ``color`` form a communicator, ordered by ``key`` (the rank).

        A negative color gives None. The child can be used after the parent has been closed; what
        the parent holds of the transport goes when the last of its children is closed.
        """
        child = self._split(color, self.rank if key is None else key)
        return None if child is None else Communicator(child)

    def _split(self, color: int, key: int) -> "_core.Communicator | None":
        """As :meth:`split`, without a thread of its own: for the library's other parts."""
        return self._call(lambda: self._core.split(color, key))

    def abort(self, reason: str) -> None:
        """Ends the communicator on every rank: what is pending there raises AbortedError."""
        self._core.abort(reason)

    def close(self) -> None:
        """Waits for what is under way and lets go of the transport, unless children are open."""
        if self._closed:
            return
        self._closed = True
        self._thread.shutdown(wait=True)
        self._operations.clear()
        self._core.close()

    def _call(self, call: Callable[[], T]) -> T:
        """After the operations under way, on their thread: all count rounds on one control plane,
        in an order that must be every rank's.
        """
        self._check_open()
        return self._thread.submit(call).result()

    def _check_open(self) -> None:
        if self._closed:
            raise AbortedError(f"rank {self.rank}: this communicator has been closed")

    def _start(
        self, run: Callable[[int], None], async_op: bool, *tensors: "torch.Tensor"
    ) -> Work | None:
        """``run`` takes the address of the stream to run on."""
        self._check_open()
        work = (
            self._start_on_gpu(run, tensors)
            if self._core.device >= 0
            else self._start_on_host(run, tensors)
        )
        if async_op:
            return work
        work.wait()
        return None

    def _start_on_host(
        self, run: Callable[[int], None], tensors: tuple["torch.Tensor", ...]
    ) -> Work:
        def keep_and_run(_: object = tensors) -> None:
            run(0)

        return _ThreadWork(self._thread.submit(keep_and_run))

    def _start_on_gpu(
        self, run: Callable[[int], None], tensors: tuple["torch.Tensor", ...]
    ) -> Work:
        import torch

        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        run(self._stream.cuda_stream)
        for tensor in tensors:
            tensor.record_stream(self._stream)
        return _StreamWork(self._stream.record_event())

    def _run(
        self, kind: str, plan: tuple[object, ...], tensors: tuple[object, ...], stream: int
    ) -> None:
        """By the library's object for these sizes: it compares plans at its first use."""
        on_gpu = self._core.device >= 0
        key = (kind, *plan)
        if key not in self._operations:
            make = getattr(_core, "Cuda" + kind if on_gpu else kind)
            self._operations[key] = make(self._core, *plan)
        self._operations[key].run(*tensors, *((stream,) if on_gpu else ()))

    def _agree(self, operation: str, numel: int, dtype: str, op: str) -> None:
        """At the first use of these sizes: raises MismatchError everywhere if ranks differ."""
        key = (operation, numel, dtype, op)
        if key not in self._operations:
            fields = [("elements", str(numel)), ("dtype", dtype), ("op", op)]
            self._core.require_equal(f"rank {self.rank}: {operation}", fields)
            self._operations[key] = True

    def _check(self, tensor: "torch.Tensor", what: str) -> str:
        check_tensor(tensor, what, self.rank, self._core.device)
        return dtype_name(tensor)

    def _check_parts(
        self, whole: "torch.Tensor", whole_name: str, part: "torch.Tensor", name: str, dtype: str
    ) -> int:
        if self._check(part, name) != dtype or part.numel() * self.size != whole.numel():
            raise InvalidArgument(
                f"rank {self.rank}: '{whole_name}' has {whole.numel()} elements of {whole.dtype}; "
                f"'{name}' needs 1/{self.size} of them, but has {part.numel()} of {part.dtype}"
            )
        return int(part.numel())

    def _check_op(self, op: str) -> None:
        if op not in ("sum", "avg", "max"):
            raise InvalidArgument(f"unknown reduction '{op}'; use sum, avg or max")

    def _check_mean(self, op: str, codec: str) -> None:
        if op != "avg":
            raise InvalidArgument(f"codec '{codec}' gives means: op must be avg, not '{op}'")

    def _feedback(self, residual: str | None, codec: str) -> tuple[str, str]:
        _core.parse_codec(codec)  # raises
        if residual is None:
            return "tensor", codec.split("+")[0] + "+noef"
        return residual, codec if "+" in codec else codec + "+ef"
