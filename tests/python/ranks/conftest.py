"""Tests of this folder run on all ranks of a job at once: tests/python/run starts them.

RANKS_TEST_DEVICE=cuda: on GPUs, one for each rank. With more ranks than GPUs, NCCL_HOSTID must tell
ranks of one GPU apart.
"""

import gc
import os
from datetime import timedelta

import pytest
import thinwire
import torch
import torch.distributed as dist

RANK = int(os.environ["RANK"])
SIZE = int(os.environ["WORLD_SIZE"])
ON_GPU = os.environ.get("RANKS_TEST_DEVICE", "cpu") == "cuda"
DEVICE = torch.device("cpu")
if ON_GPU:
    DEVICE = torch.device("cuda", RANK % torch.cuda.device_count())
TRANSPORT = "nccl" if ON_GPU else "auto"


@pytest.fixture(scope="session", autouse=True)
def process_group():
    torch.set_num_threads(1)
    if ON_GPU:
        torch.cuda.set_device(DEVICE)
    backend = "cpu:gloo,cuda:nccl" if ON_GPU else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=30))
    gc.freeze()  # what torch has made is searched by no collection
    yield
    dist.destroy_process_group()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.failed and RANK != 0:  # at once: another rank's crash may end this one
        print(f"rank {RANK}: {report.nodeid} failed:\n{report.longreprtext}", flush=True)


@pytest.fixture
def may_abort():
    """Skips under mpirun: an aborted MPI is not finalised, and mpirun calls that a failure."""
    if thinwire.init(transport="auto").transport == "mpi":
        pytest.skip("tests/comm/check_faults has MPI's aborts")


@pytest.fixture
def only_cpu():
    if ON_GPU:
        pytest.skip("of CPU tensors")


@pytest.fixture
def needs(request):
    """``needs(4)``: skips where there are not as many ranks."""

    def skip_below(ranks: int) -> None:
        if ranks > SIZE:
            pytest.skip(f"needs {ranks} ranks")

    return skip_below
