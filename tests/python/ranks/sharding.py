"""The model of training.py under fully_shard, on meshes of 2 x N/2 ranks."""

import gc
from functools import cache

import pytest
import torch
import torch.distributed as dist
from conftest import DEVICE, SIZE
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from training import Net

REPLICAS, SHARDS = 2, SIZE // 2


@pytest.fixture(autouse=True)
def freed_together():
    """fully_shard's models are cycles: what holds communicators is collected here on all ranks.

    Their ends wait for one another; a rank that collects alone waits in vain for a while.
    """
    with DEVICE:  # where modules and tensors are made
        yield
    gc.collect()


@cache
def grid() -> DeviceMesh:
    """Replicas across two "nodes", shards inside each."""
    return init_device_mesh(DEVICE.type, (REPLICAS, SHARDS), mesh_dim_names=("replica", "shard"))


@cache
def line() -> DeviceMesh:
    """All ranks are shards."""
    return init_device_mesh(DEVICE.type, (SIZE,), mesh_dim_names=("shard",))


def sharded(mesh: DeviceMesh, net: nn.Module | None = None, **options) -> nn.Module:
    """fully_shard of each child that is a Linear, then of the rest."""
    if net is None:
        torch.manual_seed(0)
        net = Net().to(DEVICE)
    for child in net.children():
        if isinstance(child, nn.Linear):
            fully_shard(child, mesh=mesh, **options)
    return fully_shard(net, mesh=mesh, **options)


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to_local().clone()


def parameters_of(model: nn.Module) -> torch.Tensor:
    """This rank's shards, one after the other."""
    return torch.cat([local(p).flatten().float() for p in model.parameters()])


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: local(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def across_replicas(value):
    """The value of each replica's rank of this shard; tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        value = value.cpu()
    values = [None] * REPLICAS
    dist.all_gather_object(values, value, group=grid()["replica"].get_group())
    return values
