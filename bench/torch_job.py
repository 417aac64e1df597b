"""What the benchmarks under DDP share: their options, their process group and their report."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """With --device and -J."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("-J", "--json", metavar="FILE", help="writes everything there")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun or launch/netlab")
    return arguments


def start(kind: str) -> tuple[torch.device, Callable[..., None]]:
    """Collective. This rank's device, and a ``print`` that only rank 0 heeds."""
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        timeout=timedelta(minutes=5),
        device_id=device if kind == "cuda" else None,
    )
    return device, print if dist.get_rank() == 0 else lambda *_, **__: None


def setting(device: torch.device) -> dict[str, Any]:
    """What a report says of the run beside its rows."""
    return {
        "command": sys.argv,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": dist.get_world_size(),
    }


def write_report(report: dict[str, Any], path: str | None) -> None:
    """On rank 0, where a path is given."""
    if path and dist.get_rank() == 0:
        Path(path).write_text(json.dumps(report, indent=1), encoding="utf-8")


def finish() -> None:
    """Collective."""
    dist.barrier()
    dist.destroy_process_group()
