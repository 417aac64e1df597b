"""shard_comms(): fully_shard's own collectives, coded."""

import logging

import pytest
import thinwire
import thinwire.torch
import torch
from conftest import DEVICE, RANK, SIZE
from sharding import (
    freed_together,  # noqa: F401 (a fixture)
    gradients_of,
    grid,
    line,
    local,
    parameters_of,
    sharded,
)
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from training import Net, gathered, loss_of, train

BOUNDS = {"bf16": 0.01, "fp16": 0.002, "int8": 0.02, "int4": 0.2}  # of the largest gradient


def modules_of(model: nn.Module):
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def scaled(model: nn.Module, op: str) -> nn.Module:
    """Makes FSDP2 ask for another operation; the gradients stay sums over a third of the ranks."""
    for module in modules_of(model):
        module.set_gradient_divide_factor(SIZE / 3)
        module.set_force_sum_reduction_for_comms(op == "sum")
    return model


@pytest.mark.parametrize(
    ("codec", "op"),
    [*((codec, "avg") for codec in BOUNDS), ("int8", "sum"), ("int8", "premul_sum")],
)
def test_gradients_are_near_torchs_under_every_operation(codec, op):
    def make():
        torch.manual_seed(0)
        return sharded(line(), nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 5)))

    model, reference = make(), make()
    thinwire.torch.shard_comms(model, codec)
    if op != "avg":
        scaled(model, op)
    # gloo has no PREMUL_SUM; a sum that is divided afterwards is the same.
    scaled(reference, "sum")
    for net in (model, reference):
        loss_of(net, 0).backward()
    expected = gradients_of(reference)
    factor = 3 if op == "avg" else 1
    for name, gradient in gradients_of(model).items():
        biggest = max(float(e.abs().max()) for e in gathered(expected[name]) if e.numel())
        bound = BOUNDS[codec] if gradient.dim() > 1 else 1e-6
        torch.testing.assert_close(
            factor * gradient, expected[name], rtol=0, atol=bound * biggest, msg=name
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_buffers_of_two_bytes_are_coded_too(dtype):
    policy = MixedPrecisionPolicy(param_dtype=dtype)
    model, reference = (sharded(line(), mp_policy=policy) for _ in range(2))
    thinwire.torch.shard_comms(model, "int8", "int8")
    for net in (model, reference):
        train(net, range(3))
    difference = (parameters_of(model) - parameters_of(reference)).abs()
    assert 0 < difference.max() < 0.05


def test_vectors_travel_plain():
    model, reference = sharded(line()), sharded(line())
    thinwire.torch.shard_comms(model, "int4")
    for net in (model, reference):
        loss_of(net, 0).backward()
    mine, torchs = gradients_of(model), gradients_of(reference)
    for name, gradient in mine.items():
        if gradient.dim() == 1:
            assert torch.equal(gradient, torchs[name]), name
    changed = [not torch.equal(mine[n], torchs[n]) for n in mine if mine[n].dim() > 1]
    assert any(gathered(any(changed)))


def applied(residual: bool) -> float:
    """How far the sum of 30 reduced gradients is from that of 30 true ones; relative."""
    torch.manual_seed(0)
    model = fully_shard(nn.Linear(70, 32, bias=False), mesh=line())
    thinwire.torch.shard_comms(model, "int4", residual=residual)
    generator = torch.Generator().manual_seed(RANK)
    factor = torch.randn(32, 70, generator=generator, device="cpu").to(DEVICE)
    true = torch.stack(gathered(factor)).mean(0).chunk(SIZE)[RANK].to(DEVICE)
    for _ in range(30):  # torch adds the gradients up
        model(torch.eye(70)).t().mul(factor).sum().backward()
    return float((local(model.weight.grad) / 30 - true).norm() / true.norm())


def test_a_residual_makes_up_for_what_was_left_out():
    assert applied(residual=True) < 0.2 * applied(residual=False)


def test_sign_trains_with_a_residual():
    model, reference = sharded(line()), sharded(line())
    thinwire.torch.shard_comms(model, "sign", residual=True)
    for net in (model, reference):
        train(net, range(4))
    assert (parameters_of(model) - parameters_of(reference)).abs().max() < 0.2


def test_a_residual_says_what_it_takes():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("thinwire").addHandler(handler)
    comms = thinwire.torch.shard_comms(sharded(line()), "int8", residual=True)
    logging.getLogger("thinwire").removeHandler(handler)
    elements = sum(p.numel() for p in Net().parameters())
    assert 4 * elements <= comms.residual_bytes <= 4 * (elements + SIZE * 200)
    assert len(lines) == (RANK == 0)
    assert all(str(comms.residual_bytes) in line for line in lines)
    assert thinwire.torch.shard_comms(sharded(line()), "int8").residual_bytes == 0


@pytest.mark.parametrize("codec", ["bf16", "fp16", "int8"])
def test_gathered_parameters_are_alike_on_all_ranks_and_near_the_shards(codec):
    model, reference = sharded(line()), sharded(line())
    thinwire.torch.shard_comms(model, None, codec)
    before = parameters_of(model)
    for net in (model, reference):
        for module in modules_of(net):
            module.unshard()
    mine, torchs = dict(model.named_parameters()), dict(reference.named_parameters())
    changed = 0
    for name, parameter in mine.items():
        full, exact = parameter.detach().clone(), torchs[name].detach()
        assert all(torch.equal(full.cpu(), other) for other in gathered(full)), name
        if full.dim() == 1:
            assert torch.equal(full, exact), name
        else:
            bound = BOUNDS[codec] * float(exact.abs().max())
            torch.testing.assert_close(full, exact, rtol=0, atol=bound, msg=name)
            changed += not torch.equal(full, exact)
    assert changed
    for module in modules_of(model):
        module.reshard()
    assert torch.equal(parameters_of(model), before)


def test_training_with_both():
    model, reference = sharded(line()), sharded(line())
    comms = thinwire.torch.shard_comms(model, "int8", "bf16")
    for net in (model, reference):
        train(net, range(4))
    assert 0 < (parameters_of(model) - parameters_of(reference)).abs().max() < 0.05
    comms.close()
    with pytest.raises(thinwire.AbortedError, match="closed"):
        loss_of(model, 4)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Parameter(torch.randn(30, 16))
        self.sometimes = nn.Parameter(torch.randn(30, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.always.t()


def test_buffers_that_are_not_understood_are_torchs_own():
    def gradient(coded, dtype):
        torch.manual_seed(0)
        model = fully_shard(Branches().to(dtype), mesh=line())
        if coded:
            thinwire.torch.shard_comms(model, "int4", "int8" if dtype == torch.float64 else None)
        model(torch.full((3, 16), RANK + 1.0, dtype=dtype)).square().mean().backward()
        return local(model.always.grad)

    for dtype in (torch.float32, torch.float64):
        assert torch.equal(gradient(True, dtype), gradient(False, dtype))


def test_parameters_that_are_gathered_over_fewer_ranks_in_backward(needs):
    needs(4)
    model, reference = (sharded(line(), reshard_after_forward=2) for _ in range(2))
    thinwire.torch.shard_comms(model, None, "bf16")
    for net in (model, reference):
        train(net, range(2))
    torch.testing.assert_close(parameters_of(model), parameters_of(reference), rtol=0, atol=0.02)


def test_together_with_replicate_and_on_a_two_dimensional_mesh(needs):
    needs(4)
    one, two, reference = sharded(grid()["shard"]), sharded(grid()), sharded(grid())
    thinwire.torch.shard_comms(one, "int8")
    thinwire.torch.replicate(one, grid()["replica"], "int4")
    thinwire.torch.shard_comms(two, "int8")
    for net in (one, two, reference):
        train(net, range(4))
    for net in (one, two):
        assert 0 < (parameters_of(net) - parameters_of(reference)).abs().max() < 0.2


def test_the_all_gather_is_torchs_unless_asked_for():
    model = sharded(line())
    thinwire.torch.shard_comms(model)
    for group in thinwire._torch_private.fsdp_groups(model):
        assert group.custom == {"set_custom_reduce_scatter": "CodedReduceScatter"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reduce_scatter": "sign"}, "needs residual=True"),
        ({"reduce_scatter": "topk:0.01"}, "needs residual=True"),
        ({"reduce_scatter": "int3"}, "int3"),
        ({"all_gather": "int4"}, "use bf16, fp16, int8"),
        ({"all_gather": "sign"}, "use bf16, fp16, int8"),
    ],
)
def test_codecs_that_would_lose_too_much_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        thinwire.torch.shard_comms(sharded(line()), **arguments)


def test_a_second_comm_and_other_models_are_refused():
    model = sharded(line())
    thinwire.torch.shard_comms(model, "int8")
    with pytest.raises(thinwire.Unsupported, match=r"set_custom_reduce_scatter\(CodedReduce"):
        thinwire.torch.shard_comms(model, "int8")
    thinwire.torch.shard_comms(model, None, "bf16")
    with pytest.raises(thinwire.Unsupported, match=r"set_custom_all_gather\(CodedAllGather"):
        thinwire.torch.shard_comms(model, None, "bf16")
    with pytest.raises(thinwire.UnsupportedTensor, match="not a Net"):
        thinwire.torch.shard_comms(Net())
