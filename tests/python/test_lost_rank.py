"""A rank that dies in the middle of training: the survivor raises, and names it."""

import os
import socket
import subprocess
import sys

PROGRAM = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import thinwire.torch

dist.init_process_group("gloo")
net = torch.nn.Linear(2000, 200)
model = DistributedDataParallel(net)
thinwire.torch.compress(model, "int8")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(100):
    if step == 5 and dist.get_rank() == 1:
        os._exit(3)
    before = net.weight.detach().clone()
    optimizer.zero_grad()
    try:
        model(torch.randn(4, 2000)).sum().backward()
    except thinwire.Error as error:
        assert torch.equal(before, net.weight), "parameters changed"
        print(f"step {step}: {type(error).__name__} peer {error.peer}: {error}", flush=True)
        os._exit(0)
    optimizer.step()
"""


def test_the_survivor_raises_and_names_it():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "THINWIRE_TIMEOUT": "10",
        }
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    output, _ = ranks[0].communicate(timeout=60)
    assert ranks[1].wait(timeout=60) == 3
    assert ranks[0].returncode == 0, output
    assert "step 5: " in output, output
    assert "peer 1" in output, output
