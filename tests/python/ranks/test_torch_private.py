"""What thinwire takes of FSDP2 beside its public names: fails where a torch has it otherwise."""

import thinwire._torch_private as private
import torch
import torch.distributed as dist
from conftest import DEVICE, SIZE
from sharding import grid, line, sharded
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from training import Net


def test_setters_are_there():
    for setter in ("set_all_reduce_hook", "set_custom_reduce_scatter", "set_custom_all_gather"):
        assert callable(getattr(FSDPModule, setter))


def test_groups_know_their_parameters():
    groups = private.fsdp_groups(sharded(line()))
    assert [group.fqn for group in groups] == ["", "embed", "hidden", "twice", "head"]
    assert all(group.alone and not group.custom for group in groups)
    for group in groups:
        assert group.shard_group is line().get_group()
        assert group.device.type == DEVICE.type
        assert not group.reduces_over_replicas
        assert not group.offloads
        assert group.divide_factor is None
    root, head = groups[0], groups[-1]
    assert [name for name, _ in root.shards(trainable=True)] == ["norm.weight", "norm.bias"]
    rows = -(-5 // SIZE)  # padded
    assert dict(head.shards(trainable=False)) == {"head.weight": (rows, 48), "head.bias": (rows,)}


def test_groups_know_what_was_set():
    model = sharded(grid())
    model.head.weight.requires_grad_(False)
    model.head.set_gradient_divide_factor(3.0)
    model.head.set_all_reduce_hook(print)
    head = private.fsdp_groups(model)[-1]
    assert head.reduces_over_replicas
    assert head.divide_factor == 3.0
    assert head.custom == {"set_all_reduce_hook": "print"}
    assert [name for name, _ in head.shards(trainable=True)] == ["head.bias"]
    assert private.fsdp_groups(Net()) == []


def test_modules_in_one_group_are_one():
    net = Net()
    fully_shard([net.embed, net.head], mesh=line())
    _, group = private.fsdp_groups(fully_shard(net, mesh=line()))
    names = [name for name, _ in group.shards(trainable=True)]
    assert names == ["embed.weight", "embed.bias", "head.weight", "head.bias"]


def test_offloading_is_seen():
    policy = CPUOffloadPolicy(pin_memory=False)
    model = fully_shard(nn.Linear(4, 4), mesh=line(), offload_policy=policy)
    (group,) = private.fsdp_groups(model)
    assert group.offloads


def test_premultipliers_are_read():
    assert private.premultiplier(torch.distributed._make_nccl_premul_sum(0.25)) == 0.25
    assert private.premultiplier(dist.ReduceOp.AVG) is None
    assert private.premultiplier(dist.ReduceOp.SUM) is None
