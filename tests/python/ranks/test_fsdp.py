"""replicate(): fully_shard inside a node, thinwire across; held to fully_shard on the 2-D mesh."""

import json

import pytest
import thinwire
import thinwire.torch
import torch
from conftest import DEVICE, RANK
from sharding import (
    REPLICAS,
    SHARDS,
    across_replicas,
    freed_together,  # noqa: F401 (a fixture)
    gradients_of,
    grid,
    line,
    local,
    parameters_of,
    sharded,
)
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from training import Net, batch, loss_of, train

pytestmark = pytest.mark.filterwarnings("ignore:.*optimizer rule")

POLICIES = {
    "fp32": {},
    "reduced in fp32": {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32},
    "bf16": {"param_dtype": torch.bfloat16},
    "fp16": {"param_dtype": torch.float16},  # divides before and after its sum
}


def replicated(codec: str, net: nn.Module | None = None, fsdp=None, **options):
    model = sharded(grid()["shard"], net, **(fsdp or {}))
    return model, thinwire.torch.replicate(model, grid()["replica"], codec, **options)


def plain(**options) -> nn.Module:
    """What it is held to: torch does both dimensions."""
    return sharded(grid(), **options)


@pytest.mark.parametrize("policy", POLICIES)
def test_codec_none_is_the_two_dimensional_mesh(policy):
    options = {"mp_policy": MixedPrecisionPolicy(**POLICIES[policy])}
    model, _ = replicated("none", fsdp=options)
    reference = plain(**options)
    for net in (model, reference):
        train(net, range(3))
    a, b = parameters_of(model), parameters_of(reference)
    if policy == "fp16":
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    else:
        assert torch.equal(a, b)


@pytest.mark.parametrize("codec", ["none", "int8"])
@pytest.mark.parametrize("force_sum", [False, True])
def test_a_divide_factor_divides_the_sum_over_all_ranks(codec, force_sum):
    model, _ = replicated(codec)
    reference = plain()
    for net in (model, reference):
        for module in net.modules():
            if hasattr(module, "set_gradient_divide_factor"):
                # gloo has no PREMUL_SUM: that of the number of shards is an AVG
                module.set_gradient_divide_factor(3.0 if force_sum else float(SHARDS))
                module.set_force_sum_reduction_for_comms(force_sum or SHARDS == 1)
        loss_of(net, 0).backward()
    expected = gradients_of(reference)
    for name, gradient in gradients_of(model).items():
        atol = (0.03 if codec == "int8" else 1e-6) * float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("codec", "policy"),
    [(codec, "fp32") for codec in ("bf16", "int8", "int4", "sign", "topk:0.1")]
    + [("int4", policy) for policy in POLICIES if policy != "fp32"],
)
def test_every_codec_trains_alike_on_all_replicas_and_near_the_mesh(codec, policy):
    options = {"mp_policy": MixedPrecisionPolicy(**POLICIES[policy])}
    model, _ = replicated(codec, fsdp=options)
    reference = plain(**options)
    for net in (model, reference):
        train(net, range(4))
    mine = parameters_of(model)
    assert all(torch.equal(mine.cpu(), other) for other in across_replicas(mine))
    difference = (mine - parameters_of(reference)).abs().max()
    assert difference < 0.2
    assert difference > 0 or codec == "bf16"  # which may lose nothing of bf16 gradients


@pytest.mark.parametrize("codec", ["int8", "int4", "sign", "topk:0.01"])
def test_nothing_is_lost_over_many_steps(codec):
    """Sum of gradients = sum of what was applied + mean of the residuals + the owners'."""
    model, handle = replicated(codec, nn.Linear(70, 30, bias=False))
    before = local(model.weight).double()
    generator = torch.Generator().manual_seed(RANK)
    factor = torch.randn(30, 70, generator=generator, device="cpu").to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.eye(70)).t().mul(factor).sum().backward()
        optimizer.step()
    applied = (before - local(model.weight).double()).cpu()

    reference = fully_shard(nn.Linear(70, 30, bias=False), mesh=grid())
    reference(torch.eye(70)).t().mul(factor).sum().backward()
    given = 5 * local(reference.weight.grad).double().cpu()

    owed = torch.zeros_like(given).flatten()
    states = across_replicas(handle.state_dict())
    for rank, state in enumerate(states):
        own = state[f"shard{RANK % SHARDS}"]["residuals"][f"rank{rank}"]
        for side, weight in (("worker", 1 / REPLICAS), ("server", 1.0)):
            fields = own[side].get("weight")
            if fields is None:
                continue
            position = 0
            for offset, length in zip(fields["offsets"], fields["lengths"], strict=True):
                values = fields["values"][position : position + length].double()
                owed[offset : offset + length] += weight * values
                position += length
    assert owed.abs().max() > 0
    torch.testing.assert_close(applied + owed.view_as(given), given, rtol=0, atol=2e-4)


class Branches(nn.Module):
    """A parameter of the root that gets no gradient unless it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Parameter(torch.randn(30, 16))
        self.sometimes = nn.Parameter(torch.randn(30, 16))

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        y = x @ self.always.t()
        return y + x @ self.sometimes.t() if both else y


def test_a_step_without_a_parameters_gradient_is_plain_and_keeps_residuals():
    torch.manual_seed(0)
    model, handle = replicated("int4", Branches())
    torch.manual_seed(0)
    reference = fully_shard(Branches(), mesh=grid())

    def step(number, both):
        for net in (model, reference):
            net.zero_grad()
            net(batch(number), both).square().mean().backward()
        return gradients_of(model), gradients_of(reference)

    mine, torchs = step(0, True)
    assert not torch.equal(mine["always"], torchs["always"])
    before = handle.state_dict()
    mine, torchs = step(1, False)
    assert mine.keys() == torchs.keys() == {"always"}
    assert torch.equal(mine["always"], torchs["always"])
    after = handle.state_dict()
    worker = [
        state[f"shard{RANK % SHARDS}"]["residuals"][f"rank{RANK // SHARDS}"]["worker"]
        for state in (before, after)
    ]
    assert worker[0].keys() == {"always", "sometimes"}
    assert all(torch.equal(worker[0][k]["values"], worker[1][k]["values"]) for k in worker[0])
    mine, torchs = step(2, True)
    torch.testing.assert_close(mine["sometimes"], torchs["sometimes"], rtol=0, atol=0.5)


def test_frozen_parameters_have_no_place_in_the_exchange():
    torch.manual_seed(0)
    net = Net()
    for parameter in (*net.embed.parameters(), net.hidden.bias):
        parameter.requires_grad_(False)
    model, handle = replicated("int8", net)
    train(model, range(2))
    buckets = handle.metrics()["buckets"]
    shards = {name: p for name, p in model.named_parameters() if p.requires_grad}
    padded = sum(-(-p.shape[0] // SHARDS) * p[:1].numel() for p in shards.values())
    assert sum(bucket["elements"] for bucket in buckets) + _norm(model) == padded


def _norm(model: nn.Module) -> int:
    """The root's own parameters, all vectors: a buffer that travels plain."""
    return sum(-(-p.shape[0] // SHARDS) for p in model.norm.parameters())


def test_a_module_that_is_used_twice_is_exchanged_at_each_backward():
    model, handle = replicated("int8")
    train(model, range(3))
    assert handle.metrics()["steps"] == 3
    mine = parameters_of(model)
    assert all(torch.equal(mine.cpu(), other) for other in across_replicas(mine))


def test_accumulation_without_sync_is_one_exchange():
    model, handle = replicated("int8")
    reference = plain()
    for net in (model, reference):
        net.set_requires_gradient_sync(False)
        loss_of(net, 0).backward()
        net.set_requires_gradient_sync(True)
        loss_of(net, 1).backward()
    assert handle.metrics()["steps"] == 1
    expected = gradients_of(reference)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0.05)


def test_plain_set_codec_and_what_the_handle_tells():
    model, handle = replicated("sign", codecs={"head.*": "bf16"})
    reference = plain()
    with handle.plain():
        for net in (model, reference):
            train(net, range(2))
    assert torch.equal(parameters_of(model), parameters_of(reference))
    train(model, range(2))
    handle.set_codec("int8")
    train(model, range(2))
    metrics = handle.metrics()
    assert (handle.codec, metrics["codec"], metrics["steps"]) == ("int8", "int8", 6)
    assert {c for b in metrics["buckets"] for c in b["codecs"]} == {"none", "int8", "bf16"}
    sent = {b["elements"]: b["wire_bytes"] / b["plain_wire_bytes"] for b in metrics["buckets"]}
    assert sent[max(sent)] < 0.5
    assert metrics["state_bytes"] > 0
    assert f"{REPLICAS} ranks, codec int8" in handle.explain()


def test_the_handle_measures_residuals_and_traces_as_ddps_does(tmp_path):
    model, handle = replicated("int4")
    train(model, range(2))
    handle.sample_residuals()
    with handle.trace(tmp_path / f"rank{RANK}.json"):
        train(model, range(2, 4))
    metrics = handle.metrics()
    if REPLICAS > 1:
        assert 0 < metrics["contraction"] < 0.1
        assert 0 < metrics["residual_ratio"] < 1
    events = json.loads((tmp_path / f"rank{RANK}.json").read_text())["traceEvents"]
    begun = [event for event in events if event["ph"] == "b" and event["cat"] == "bucket"]
    assert len(begun) == 2 * len(metrics["buckets"])


def test_discard_step_leaves_no_trace():
    model, handle = replicated("int4", commit="double")

    def gradients(step):
        model.zero_grad()
        loss_of(model, step).backward()
        return gradients_of(model)

    gradients(0)
    gradients(1)
    handle.discard_step()
    again = gradients(2)
    model, _ = replicated("int4", commit="double")
    gradients(0)
    unbroken = gradients(2)
    assert all(torch.equal(again[name], unbroken[name]) for name in again)


def test_nan_is_raised_on_every_replica():
    model, _ = replicated("int8", non_finite="raise")
    x = batch(0)
    if RANK == 0:
        x[0, 0] = float("nan")
    with pytest.raises(thinwire.NonFiniteError):
        model(x).square().mean().backward()


def test_auto_picks_a_safe_codec_on_all_ranks():
    model, handle = replicated("auto")
    train(model, range(2))
    assert handle.codec in ("none", "bf16", "int8", "int4")
    assert len(set(across_replicas(handle.codec))) == 1


def test_sign_under_adam_begins_with_bf16_and_switches():
    model = sharded(grid()["shard"])
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(thinwire.InvalidArgument, match="give switch_at="):
        thinwire.torch.replicate(model, grid()["replica"], "sign", optimizer=optimizer)
    handle = thinwire.torch.replicate(
        model, grid()["replica"], "sign", optimizer=optimizer, switch_at=3
    )
    train(model, range(2), optimizer)
    assert (handle.codec, optimizer.frozen) == ("bf16", False)
    train(model, range(2, 6), optimizer)
    assert (handle.codec, optimizer.frozen) == ("sign", True)
    for parameter, state in optimizer.state.items():
        sizes = state["exp_avg"].to_local().abs().flatten()
        if parameter.dim() > 1 and sizes.numel():  # signs of the momentum, in blocks
            sizes = sizes[:1024]
            torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)
    mine = parameters_of(model)
    assert all(torch.equal(mine.cpu(), other) for other in across_replicas(mine))


def test_resuming_is_bitwise_the_unbroken_run():
    unbroken, _ = replicated("sign")
    train(unbroken, range(6))
    first, handle = replicated("sign")
    train(first, range(3))
    weights, state = first.state_dict(), handle.state_dict()
    second, handle = replicated("sign")
    second.load_state_dict(weights)
    handle.load_state_dict(state)
    train(second, range(3, 6))
    assert torch.equal(parameters_of(second), parameters_of(unbroken))


def test_states_merge_by_shard_and_foreign_ones_are_refused():
    model, handle = replicated("int4")
    train(model, range(3))
    state = handle.state_dict()
    merged = thinwire.torch.merge_states(across_replicas(state))
    mine = f"shard{RANK % SHARDS}"
    assert merged[mine]["residuals"].keys() == {f"rank{r}" for r in range(REPLICAS)}
    handle.load_state_dict(merged, residuals="mean")
    handle.load_state_dict(merged, residuals="drop")
    with pytest.raises(ValueError, match=f"of 7 shards.*needs {mine} of {SHARDS}"):
        handle.load_state_dict({**state, "shards": 7})
    handle.load_state_dict({**state, "shards": 7}, residuals="drop")
    with pytest.raises(ValueError, match="dict should"):
        handle.load_state_dict(3)
    renamed = {
        **state[mine],
        "residuals": {
            f"rank{RANK // SHARDS}": thinwire.torch._state.PackedResiduals({"x": {}}, {})
        },
    }
    with pytest.raises(thinwire.FormatError, match="no such parameter"):
        handle.load_state_dict({**state, mine: renamed})


def refused(words, model, mesh=None, error=thinwire.Unsupported):
    with pytest.raises(error, match=words):
        thinwire.torch.replicate(model, mesh or grid()["replica"], "int8")


def test_a_two_dimensional_mesh_is_refused_with_the_recipe():
    refused(
        r"fully_shard\(module, mesh=mesh\['shard'\]\).*replicate\(model, mesh\['replica'\]", plain()
    )


def test_what_fully_shard_has_not_seen_is_refused():
    refused("not a Net", Net(), error=thinwire.UnsupportedTensor)


def test_a_second_hook_is_refused_either_way():
    model, _ = replicated("int8")
    refused("set_all_reduce_hook.*thinwire_hook", model)
    model = sharded(grid()["shard"])
    model.head.set_all_reduce_hook(print)
    refused(r"module 'head' has been given set_all_reduce_hook\(print\)", model)


def test_a_mesh_that_does_not_cross_the_shards_is_refused():
    model = sharded(grid()["shard"])
    refused("one dimension", model, grid(), thinwire.InvalidArgument)
    if SHARDS > 1:
        refused("share one rank", model, grid()["shard"], thinwire.InvalidArgument)
        refused("share one rank", model, line(), thinwire.InvalidArgument)


def test_codecs_that_differ_raise_at_once_on_every_replica():
    with pytest.raises(thinwire.MismatchError, match=r"replicate\(\).*codec"):
        replicated("int8" if RANK < SHARDS else "int4")


def test_after_close_replicas_average_plain():
    model, handle = replicated("int8")
    reference = plain()
    handle.close()
    for net in (model, reference):
        train(net, range(2))
    assert torch.equal(parameters_of(model), parameters_of(reference))
