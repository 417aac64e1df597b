#!/usr/bin/env python3
"""A small CNN on Fashion-MNIST under DDP and SGD with momentum: accuracy by codec and seed.

    torchrun --nproc-per-node 2 bench/ddp_cnn.py --device cpu --epochs 1 --samples 8000
    torchrun --nproc-per-node 4 bench/ddp_cnn.py -J cnn.json

Sign and top-k code the momentum; "thinwire:sign@gradient" codes the gradient, for comparison.
All methods have the same hyper-parameters and, by seed, the same data and start. Prints the
uncompressed first with the spread of its seeds, and how many points of test accuracy each method
is away from it. The data set is Debian's package dataset-fashion-mnist; nothing is downloaded.
"""

import argparse
import gzip
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch_job
from gpt2.methods import NotHere, attach, wrap
from torch import Tensor, nn

METHODS = ["ddp", "thinwire:int8", "thinwire:int4", "thinwire:sign", "thinwire:topk:0.01"]


@dataclass(frozen=True)
class Part:
    images: Tensor
    """(samples, 1, 28, 28), from 0 to 1."""
    labels: Tensor


def read(folder: Path, name: str, samples: int, device: torch.device) -> Part:
    images = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8).view(-1, 1, 28, 28)
    classes = torch.frombuffer(bytearray(labels), dtype=torch.uint8)
    return Part(pixels[:samples].to(device).float() / 255, classes[:samples].to(device).long())


def make_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def train(
    method: str, seed: int, data: Part, test: Part, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Collective. One run of a method."""
    device = data.images.device
    torch.manual_seed(seed)
    ddp = wrap(make_cnn().to(device), method)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=arguments.lr, momentum=arguments.momentum)
    method, _, variant = method.partition("@")
    attached = attach(method, ddp, None if variant == "gradient" else optimizer)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    steps_an_epoch = len(data.labels) // (arguments.batch * ranks)
    steps = arguments.epochs * steps_an_epoch
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    shuffle = torch.Generator().manual_seed(seed)
    begin = time.perf_counter()
    for _ in range(arguments.epochs):
        order = torch.randperm(len(data.labels), generator=shuffle).to(device)
        for mine in order[rank::ranks].split(arguments.batch)[:steps_an_epoch]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(ddp(data.images[mine]), data.labels[mine]).backward()
            optimizer.step()
            scheduler.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        found = torch.cat([ddp.module(images).argmax(1) for images in test.images.split(2000)])
    right = 100 * (found == test.labels).float().mean().item()
    sent = attached.sent_bytes(steps)
    attached.close()
    return {"seed": seed, "accuracy": right, "seconds": seconds, "sent_bytes": sent}


def parse_arguments() -> argparse.Namespace:
    parser = torch_job.make_parser(__doc__)
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="of a rank")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--samples", type=int, default=60000, help="of training")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    return torch_job.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    device, say = torch_job.start(arguments.device)
    data = read(arguments.data, "train", arguments.samples, device)
    test = read(arguments.data, "t10k", 10000, device)
    others = (name for name in arguments.methods.split(",") if name != "ddp")
    rows: list[dict[str, Any]] = []
    say(f"{'method':<20} {'accuracy':>8} {'points':>7} {'spread':>7} {'sent MB':>9} {'s':>6}")
    for method in ["ddp", *others]:
        try:
            runs = [train(method, seed, data, test, arguments) for seed in range(arguments.seeds)]
        except NotHere as reason:
            rows.append({"method": method, "not_here": str(reason)})
            say(f"{method:<20} not here: {reason}")
            continue
        found = [run["accuracy"] for run in runs]
        row = {
            "method": method,
            "runs": runs,
            "accuracy": statistics.mean(found),
            "spread": max(found) - min(found),
        }
        rows.append(row)
        row["points"] = row["accuracy"] - rows[0]["accuracy"]
        say(
            f"{method:<20} {row['accuracy']:>8.2f} {row['points']:>+7.2f} {row['spread']:>7.2f} "
            f"{runs[0]['sent_bytes'] / 1e6:>9.1f} "
            f"{statistics.mean(run['seconds'] for run in runs):>6.1f}",
            flush=True,
        )
    torch_job.write_report({**torch_job.setting(device), "rows": rows}, arguments.json)
    torch_job.finish()


if __name__ == "__main__":
    main()
