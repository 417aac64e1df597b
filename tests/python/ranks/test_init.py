"""Which ranks and which transport init() gives, and what it refuses."""

import os

import pytest
import thinwire
import thinwire.torch
import torch
import torch.distributed as dist
from conftest import RANK, SIZE
from training import gathered, make_model, train

UNDER_MPIRUN = "OMPI_COMM_WORLD_RANK" in os.environ or "PMI_RANK" in os.environ
GLOO = "callback"  # the library's name for what carries its bytes


@pytest.fixture
def mpi():
    """Skips where MPI does not know the job's ranks."""
    if not UNDER_MPIRUN or thinwire.init(transport="auto").transport != "mpi":
        pytest.skip("needs mpirun, and an MPI that loads")


def test_mpi_that_knows_other_ranks_is_refused_on_every_rank(only_cpu, needs):
    needs(2)
    if UNDER_MPIRUN or not thinwire._core.mpi_available()[0]:
        pytest.skip("of a job that mpirun has not started, where MPI loads")
    for group in (None, dist.group.WORLD):
        with pytest.raises(thinwire.InvalidArgument, match="rank 0 of 1") as raised:
            thinwire.init(group, transport="mpi")
        assert f"rank {RANK} of {SIZE}" in str(raised.value)
        assert "mpirun" in str(raised.value)


def test_gloo_when_asked_for_though_the_default_is_another(only_cpu):
    default = thinwire.init()
    gloo = thinwire.init(transport="gloo")
    assert (gloo.transport, gloo.rank, gloo.size) == (GLOO, RANK, SIZE)
    assert thinwire.init(transport="gloo") is gloo
    assert thinwire.init() is default
    assert (gloo is default) == (default.transport == GLOO)


def test_mpi_when_asked_for_is_the_default_or_of_the_whole_group(mpi):
    assert thinwire.init(transport="mpi") is thinwire.init()
    own = thinwire.init(dist.group.WORLD, transport="mpi")
    assert (own.transport, own.rank, own.size) == ("mpi", RANK, SIZE)
    own.close()


def test_mpi_refuses_a_group_of_some_ranks(mpi, needs):
    needs(2)
    halves = [dist.new_group(range(SIZE // 2)), dist.new_group(range(SIZE // 2, SIZE))]
    mine = halves[RANK >= SIZE // 2]
    with pytest.raises(thinwire.InvalidArgument, match="split") as raised:
        thinwire.init(mine, transport="mpi")
    assert f"rank {RANK} of {SIZE}" in str(raised.value)
    half = thinwire.init(mine)
    tensor = torch.ones(3)
    half.allreduce(tensor, op="sum")
    assert (half.transport, half.size) == (GLOO, dist.get_world_size(mine))
    assert (tensor == half.size).all()
    half.close()


def test_a_model_trains_on_when_the_default_communicator_is_closed():
    model = make_model()
    thinwire.torch.compress(model, "int8")
    default = thinwire.init(transport="auto")
    default.close()
    train(model, range(2))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()
    assert all(torch.equal(weights, other) for other in gathered(weights))
    assert thinwire.init(transport="auto") is not default
