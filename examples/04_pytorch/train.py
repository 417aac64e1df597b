"""DistributedDataParallel on Fashion-MNIST with compressed gradients: README.md."""

import argparse
import gzip
import os
from pathlib import Path

import numpy
import thinwire.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def read(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as floats from 0 to 1 and their classes, out of gzipped IDX files."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = numpy.frombuffer(images, numpy.uint8).reshape(-1, 784)
    return torch.from_numpy(pixels / numpy.float32(255)), torch.tensor(list(labels))


options = argparse.ArgumentParser()
options.add_argument("--codec", default="auto")
options.add_argument("--steps", type=int, default=300)
options.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
arguments = options.parse_args()

device = torch.device("cpu")
if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):  # a GPU each
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
).to(device)
model = DistributedDataParallel(net)
handle = thinwire.torch.compress(model, arguments.codec)  # the one line
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

images, labels = (part.to(device) for part in read(arguments.data, "train"))
pick = torch.Generator().manual_seed(rank)
for _ in range(arguments.steps):
    batch = torch.randint(len(images), (64,), generator=pick).to(device)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
    loss.backward()
    optimizer.step()

if rank == 0:
    images, labels = (part.to(device) for part in read(arguments.data, "t10k"))
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).float().mean()
    print(handle.explain())
    print(f"{arguments.steps} steps on {ranks} ranks: accuracy {100 * right:.1f} %")
dist.destroy_process_group()
