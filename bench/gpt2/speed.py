"""Step times of the methods."""

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from gpt2.link import Link, slowest
from gpt2.methods import NotHere, attach, ring_bytes, wrap
from gpt2.model import GPT2, Size, embedding_share
from gpt2.text import Text
from torch.nn.parallel import DistributedDataParallel

_BEFORE = 4  # steps that do not count: DDP rebuilds its buckets, PowerSGD begins at the third


def autocast(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def measure(
    methods: Iterable[str], size: Size, text: Text, device: torch.device, link: Link, steps: int
) -> Iterable[dict[str, Any]]:
    """Collective. A row for each method, as it is done; rows with "not_here" say why.

    The compute alone is measured beside each method, on the same model in no_sync().
    """
    torch.manual_seed(0)
    origin = GPT2(size)
    generator = torch.Generator().manual_seed(dist.get_rank())
    batches = [text.batch("train", generator, size.batch, size.context) for _ in range(4)]
    for method in methods:
        ddp = wrap(copy.deepcopy(origin).to(device), method)
        yield _row(method, ddp, batches, size, link, steps)
        del ddp
        gc.collect()  # a model and its hook hold each other


def _row(
    method: str,
    ddp: DistributedDataParallel,
    batches: list[Any],
    size: Size,
    link: Link,
    steps: int,
) -> dict[str, Any]:
    device = next(ddp.parameters()).device
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=1e-4, fused=device.type == "cuda")

    def step(number: int) -> None:
        optimizer.zero_grad()
        with autocast(device):
            loss = ddp(*batches[number % len(batches)])
        loss.backward()
        optimizer.step()

    attached, reason = _try(lambda: attach(method, ddp), step, device)
    if attached is None:
        return {"method": method, "not_here": reason}
    before = attached.sent_bytes(_BEFORE)
    step_ms = _milliseconds(step, steps, device)
    sent = (attached.sent_bytes(_BEFORE + steps) - before) // steps
    with ddp.no_sync():
        step(0)
        compute_ms = _milliseconds(step, steps, device)
    attached.close()
    return {
        "method": method,
        "codec": attached.codec,
        "step_ms": step_ms,
        "compute_ms": compute_ms,
        "exposed": max(0.0, 1 - compute_ms / step_ms),
        "sent_bytes": sent,
        "ratio": ring_bytes(ddp) / max(1, sent),
        "predicted_ms": link.predicted_ms(compute_ms, sent, embedding_share(ddp.module)),
        "tokens_per_second": 1e3 * dist.get_world_size() * size.batch * size.context / step_ms,
    }


def _try(
    start: Callable[[], Any], step: Callable[[int], None], device: torch.device
) -> tuple[Any, str]:
    """Attaches and takes the first steps; what fails on any rank is left out on all."""
    attached, reason = None, ""
    try:
        attached = start()
        for number in range(_BEFORE):
            step(number)
    except NotHere as error:
        reason = str(error)
    except Exception as error:  # whatever a backend or a hook says that it cannot do
        attached, reason = None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if slowest(float(attached is None), device) > 0:
        return None, reason or "failed on another rank"
    return attached, ""


def _milliseconds(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """The median step; the slowest rank's. The host runs ahead of the GPU as in training."""
    dist.barrier()
    if device.type == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for number in range(steps):
            step(number)
            marks[number + 1].record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in pairwise(marks)]
    else:
        times = []
        for number in range(steps):
            begin = time.perf_counter()
            step(number)
            times.append(1e3 * (time.perf_counter() - begin))
    return slowest(statistics.median(times), device)
