"""torch's default group is destroyed and made again, of other ranks: init() follows."""

import socket
import subprocess
import sys

PROGRAM = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import thinwire.torch

rank, port = map(int, sys.argv[1:])
store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)


def start(name, rank, size):
    own = dist.PrefixStore(name, store)
    dist.init_process_group("gloo", store=own, rank=rank, world_size=size)


def train():
    model = DistributedDataParallel(torch.nn.Linear(64, 64))
    thinwire.torch.compress(model, "int8")
    model(torch.randn(4, 64)).sum().backward()
    return model


start("first", rank, 2)
before, model = thinwire.init(), train()
assert thinwire.init() is before
dist.destroy_process_group()
assert thinwire.init() is before  # the ranks are still there

start("swapped", 1 - rank, 2)
swapped = thinwire.init()
assert (swapped.rank, swapped.size) == (1 - rank, 2), swapped
train()
values = torch.tensor([float(rank)])
part = torch.empty(2)
swapped.all_gather(part, values)
assert part.tolist() == [1.0, 0.0], part
dist.destroy_process_group()

start(f"alone {rank}", 0, 1)
assert (thinwire.init().rank, thinwire.init().size) == (0, 1)
dist.destroy_process_group()
print("followed")
"""


def test_the_default_follows_torchs_default_group():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=60)
        assert rank.returncode == 0, output
        assert "followed" in output
