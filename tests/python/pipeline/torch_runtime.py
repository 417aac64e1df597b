#!/usr/bin/env python3
"""Our CSV files in torch's pipeline runtime, on Gloo, against a single process.

Usage: torch_runtime.py THINWIRE_PIPELINE. Every schedule trains one step of a small model with 2 and
with 4 processes; every gradient must equal the one of a plain backward over the same micro-batches.
"""

import logging
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

WIDTH, SAMPLES = 16, 24
# name, p, m, v, flavour
CASES = [
    ("gpipe", 2, 4, 1, "compute_only"),
    ("1f1b", 2, 3, 1, "compute_comms"),
    ("interleaved", 2, 6, 2, "compute_comms"),
    ("zb1p", 2, 4, 1, "compute_only"),
    ("zbv", 2, 4, 2, "compute_comms"),
    ("dualpipev", 2, 6, 2, "compute_only"),
    ("1f1b", 4, 8, 1, "compute_only"),
    ("interleaved", 4, 6, 2, "compute_only"),
    ("zb1p", 4, 8, 1, "compute_comms"),
    ("zbv", 4, 8, 2, "compute_only"),
    ("dualpipev", 4, 8, 2, "compute_comms"),
]


def model(stages):
    """One small module per stage, the same in every process."""
    torch.manual_seed(3)
    return [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()) for _ in range(stages)]


def data():
    torch.manual_seed(4)
    return torch.randn(SAMPLES, WIDTH), torch.randn(SAMPLES, WIDTH)


def loss_of(output, target):
    return torch.nn.functional.mse_loss(output, target)


def reference(stages, m):
    """Gradients of a single process: the mean over micro-batches."""
    modules, (inputs, targets) = model(stages), data()
    for x, y in zip(inputs.chunk(m), targets.chunk(m)):
        for module in modules:
            x = module(x)
        (loss_of(x, y) / m).backward()
    return [[p.grad for p in module.parameters()] for module in modules]


def worker(rank, p, port, folder, queue):
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=p)
    for number, (name, ranks, m, v, flavour) in enumerate(CASES):
        if ranks != p:
            continue
        file = folder / f"{number}.csv"
        rows = file.read_text().splitlines()
        mine = sorted({int(cell.lstrip("(").split("F")[0]) for cell in rows[rank].split(",") if is_forward(cell)})
        modules = model(p * v)
        stages = [PipelineStage(modules[s], s, p * v, torch.device("cpu")) for s in mine]
        for stage in stages:  # opens NCCL's communicators; Gloo cannot send to its own rank, as a V would
            stage._get_init_p2p_neighbors_ops = list
        runtime = _PipelineScheduleRuntime(stages, m, loss_fn=loss_of)
        runtime._load_csv(str(file), format=flavour)
        inputs, targets = data()
        first, last = 0 in mine, p * v - 1 in mine
        runtime.step(*([inputs] if first else []), target=targets if last else None)
        expected = reference(p * v, m)
        worst = 0.0
        for s in mine:
            for parameter, wanted in zip(modules[s].parameters(), expected[s]):
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-7)
                worst = max(worst, (parameter.grad - wanted).abs().max().item())
        queue.put((number, worst))
    dist.barrier()
    dist.destroy_process_group()


def is_forward(cell):
    return cell.lstrip("(").lstrip("0123456789").startswith("F")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number, (schedule, p, m, v, flavour) in enumerate(CASES):
            command = [sys.argv[1], "generate", schedule, "-p", p, "-m", m, "-v", v, "-o", folder / f"{number}.csv"]
            lowered = ["--lower"] if flavour == "compute_comms" else []
            subprocess.run([*map(str, command), *lowered], check=True)
        for p in (2, 4):
            queue = mp.get_context("spawn").Queue()
            mp.spawn(worker, (p, free_port(), folder, queue), nprocs=p)
            worst = {}
            for _ in range(p * sum(case[1] == p for case in CASES)):
                number, difference = queue.get(timeout=10)
                worst[number] = max(worst.get(number, 0.0), difference)
            for number, difference in sorted(worst.items()):
                print(*CASES[number], f"largest gradient difference {difference:.2g}")


if __name__ == "__main__":
    main()
