"""Loss curves of the methods, and the time to a loss."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from gpt2.link import slowest
from gpt2.methods import NotHere, attach_to_train, wrap
from gpt2.model import GPT2, Size
from gpt2.speed import autocast
from gpt2.text import Text
from torch.nn.parallel import DistributedDataParallel

_EVALUATIONS = 20
_VALIDATION_BATCHES = 8


@dataclass
class Runs:
    """Curves by method and seed; the uncompressed first."""

    methods: list[str]
    seeds: int
    done: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[tuple[str, int]]:
        """In the order in which to run them: all of the uncompressed, then seed by seed."""
        plain, others = self.methods[:1], self.methods[1:]
        order = [(m, s) for m in plain for s in range(self.seeds)]
        order += [(m, s) for s in range(self.seeds) for m in others]
        return [
            (method, seed)
            for method, seed in order
            if method not in self.not_here and seed not in self.done.get(method, {})
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each method that has run."""
        rows: list[dict[str, Any]] = []
        for method in self.methods:
            if method in self.not_here:
                rows.append({"method": method, "not_here": self.not_here[method]})
            elif runs := [run for _, run in sorted(self.done.get(method, {}).items())]:
                finals = [run["loss"][-1] for run in runs]
                mean = statistics.mean(finals)
                rows.append(
                    {
                        "method": method,
                        "runs": runs,
                        "final_loss": mean,
                        "spread": (max(finals) - min(finals)) / mean,
                    }
                )
        return rows

    def take(self, rows: Iterable[dict[str, Any]]) -> None:
        """Those of an earlier report."""
        for row in rows:
            if row["method"] in self.methods:
                for run in row.get("runs", []):
                    self.done.setdefault(row["method"], {})[run["seed"]] = run


def train(
    runs: Runs,
    size: Size,
    text: Text,
    device: torch.device,
    steps: int,
    budget: float,
    after_run: Callable[[str, dict[str, Any]], None],
) -> bool:
    """Collective. Does what is missing of ``runs``, as far as ``budget`` seconds reach.

    All have the same hyper-parameters and, by seed, the same data and start. Seconds of a curve
    count from its first step on, warm-up included, evaluation not. Returns whether all are done.
    """
    begin, longest = time.perf_counter(), 0.0
    for method, seed in runs.missing():
        if method in runs.not_here:
            continue
        started = time.perf_counter()
        if slowest(started + longest - begin, device) > budget:
            return False
        try:
            run = _run(method, seed, size, text, device, steps)
        except NotHere as reason:
            runs.not_here[method] = str(reason)
            continue
        runs.done.setdefault(method, {})[seed] = run
        longest = max(longest, time.perf_counter() - started)
        after_run(method, run)
    return True


def compare(rows: list[dict[str, Any]], target: float | None) -> float:
    """Adds the gap to the uncompressed and the time to ``target`` to each row.

    The default target is 1 % above the uncompressed final loss. Returns the target.
    """
    plain = rows[0]["final_loss"]
    target = 1.01 * plain if target is None else target
    for row in rows:
        if "runs" in row:
            row["gap"] = row["final_loss"] / plain - 1
            times = [_seconds_to(target, run) for run in row["runs"]]
            reached = [seconds for seconds in times if seconds is not None]
            row["seconds_to_target"] = statistics.mean(reached) if reached else None
            row["reached_target"] = f"{len(reached)}/{len(times)}"
    return target


def plot(rows: list[dict[str, Any]], path: str) -> str:
    """Mean loss over steps and over seconds into a picture; returns what became of it."""
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not there (the curves are in the JSON)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for row in rows:
        if "runs" not in row:
            continue
        loss, seconds = (_means(row["runs"], key) for key in ("loss", "seconds"))
        axes[0].plot(row["runs"][0]["step"], loss, label=row["method"])
        axes[1].plot(seconds, loss, label=row["method"])
    axes[0].set(xlabel="step", ylabel="validation loss, mean of the seeds")
    axes[1].set(xlabel="seconds, warm-up included")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return f"plot: {path}"


def _means(runs: list[dict[str, Any]], key: str) -> list[float]:
    return [statistics.mean(values) for values in zip(*(run[key] for run in runs), strict=True)]


def _run(
    method: str, seed: int, size: Size, text: Text, device: torch.device, steps: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    ddp = wrap(GPT2(size).to(device), method)
    attached, optimizer = attach_to_train(method, ddp, size.learning_rate, steps)
    warm_up = max(1, steps // 20)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm_up, total_iters=warm_up),
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, max(1, steps - warm_up), 0.1 * size.learning_rate
            ),
        ],
        [warm_up],
    )
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    curve: dict[str, Any] = {"seed": seed, "step": [], "seconds": [], "loss": []}
    seconds = 0.0
    every = max(1, steps // _EVALUATIONS)
    begin = _now(device)
    for number in range(1, steps + 1):
        tokens, targets = text.batch("train", generator, size.batch, size.context)
        optimizer.zero_grad()
        with autocast(device):
            loss = ddp(tokens, targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if number % every == 0 or number == steps:
            seconds += _now(device) - begin
            curve["step"].append(number)
            curve["seconds"].append(seconds)
            curve["loss"].append(_validation_loss(ddp, size, text, device))
            begin = _now(device)
    curve["sent_bytes"] = attached.sent_bytes(steps)
    attached.close()
    return curve


@torch.no_grad()
def _validation_loss(
    ddp: DistributedDataParallel, size: Size, text: Text, device: torch.device
) -> float:
    """Of the same batches each time; every rank finds the same number."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for _ in range(_VALIDATION_BATCHES):
        batch = text.batch("valid", generator, size.batch, size.context)
        with autocast(device):
            total = total + ddp.module(*batch).detach().double()
    return float(total) / _VALIDATION_BATCHES


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds_to(target: float, run: dict[str, Any]) -> float | None:
    pairs = zip(run["seconds"], run["loss"], strict=True)
    return next((seconds for seconds, loss in pairs if loss <= target), None)
