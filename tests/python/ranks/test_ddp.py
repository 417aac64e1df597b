import copy
import pickle

import pytest
import thinwire
import thinwire.torch
import torch
import torch.distributed as dist
from conftest import DEVICE, ON_GPU, RANK, SIZE
from thinwire import _torch_private as private
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import (
    Net,
    batch,
    gathered,
    loss_of,
    make_model,
    same_bits,
    same_on_ranks,
    train,
    trained,
)

BLOCK_CODECS = ["int8", "int4", "sign"]
pytestmark = pytest.mark.filterwarnings("ignore:.*optimizer rule")


def test_codec_none_is_ddp_to_the_bit():
    hooked = make_model()
    hooked.register_comm_hook(*thinwire.torch.ddp_hook(hooked.module, "none"))
    train(hooked, range(4))
    assert same_bits(trained(None), trained("none"))
    assert same_bits(trained(None), hooked)


def test_ddp_is_left_alone_until_a_parameter_is_coded():
    model = make_model()
    handle = thinwire.torch.compress(model, "none")
    train(model, range(2))
    assert not private.hooks(model)
    assert "without a hook" in handle.explain()
    handle.set_codec("int8")
    train(model, range(2, 4))
    assert private.hooks(model)
    assert handle.metrics()["steps"] == 2
    assert same_on_ranks(model)
    assert not same_bits(model, trained(None))


@pytest.mark.parametrize("codec", ["bf16", "fp16", "int8", "int4", "sign", "topk:0.1"])
def test_every_codec_trains_alike_on_all_ranks_and_near_ddp(codec):
    model, plain = trained(codec), trained(None)
    assert same_on_ranks(model)
    assert not same_bits(model, plain)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (a - b).abs().max() < 0.2, name


@pytest.mark.parametrize("codec", BLOCK_CODECS)
@pytest.mark.parametrize(
    "ddp",
    [
        {"find_unused_parameters": True},  # buckets are never rebuilt
        {"static_graph": True},
        {"gradient_as_bucket_view": True},
        {"bucket_cap_mb": 25},  # one bucket, before and after
    ],
    ids=lambda ddp: next(iter(ddp)),
)
def test_residuals_survive_every_way_of_bucketing(codec, ddp):
    # Gradients are the same, so parameters are, unless a residual went lost on the way.
    assert same_bits(trained(codec), trained(codec, ddp=ddp))


@pytest.mark.parametrize("codec", BLOCK_CODECS)
def test_nothing_is_lost_over_many_steps(codec):
    """Sum of gradients = sum of what was applied + mean of the residuals + the owners'."""
    model = DDP(nn.Linear(70, 30, bias=False).to(DEVICE), bucket_cap_mb=0.001)
    handle = thinwire.torch.compress(model, codec)
    before = model.module.weight.detach().double().cpu()
    factor = torch.randn(30, 70, generator=torch.Generator().manual_seed(RANK))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.eye(70, device=DEVICE)).t().mul(factor.to(DEVICE)).sum().backward()
        optimizer.step()
    applied = before - model.module.weight.detach().double().cpu()
    given = 5 * torch.stack(gathered(factor.double())).mean(0)
    owed = torch.zeros(30 * 70, dtype=torch.float64)
    for rank, state in enumerate(gathered(handle.state_dict())):
        own = state["residuals"][f"rank{rank}"]
        for side, weight in (("worker", 1 / SIZE), ("server", 1.0)):
            fields = own[side].get("weight")
            if fields is None:
                continue
            position = 0
            for offset, length in zip(fields["offsets"], fields["lengths"], strict=True):
                owed[offset : offset + length] += (
                    weight * fields["values"][position : position + length].double()
                )
                position += length
    assert owed.abs().max() > 0
    torch.testing.assert_close(applied + owed.view(30, 70), given, rtol=0, atol=2e-4)


def test_no_sync_accumulates_before_it_compresses():
    def steps(codec, twice):
        model = make_model()
        handle = thinwire.torch.compress(model, codec)
        for step in range(3):
            model.zero_grad()
            if twice:
                with model.no_sync():
                    loss_of(model, 2 * step).backward()
                loss_of(model, 2 * step + 1).backward()
            else:
                (loss_of(model, 2 * step) + loss_of(model, 2 * step + 1)).backward()
        return model, handle

    (a, a_handle), (b, b_handle) = steps("int4", True), steps("int4", False)
    assert a_handle.metrics()["calls"] == b_handle.metrics()["calls"]
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=0.2)


def test_several_backwards_a_step_are_exchanged_each():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    for step in range(4):
        loss_of(model, step).backward()  # gradients add up, as DDP's do
    assert handle.metrics()["steps"] == 4
    assert same_on_ranks(model)
    grads = torch.cat([p.grad.flatten() for p in model.parameters()]).cpu()
    assert all(torch.equal(grads, other) for other in gathered(grads))


class MixedDtypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Linear(16, 40)
        self.brain = nn.Linear(40, 40).to(torch.bfloat16)
        self.wide = nn.Linear(40, 6).to(torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(self.brain(self.single(x).to(torch.bfloat16)).to(torch.float64))


def test_mixed_dtypes_compress_and_fp64_stays_plain():
    def run(codec):
        torch.manual_seed(0)
        model = DDP(MixedDtypes().to(DEVICE))
        if codec:
            thinwire.torch.compress(model, codec)
        for step in range(3):
            model.zero_grad()
            model(batch(step)).square().mean().backward()
        return model

    model, plain = run("int8"), run(None)
    assert torch.equal(model.module.wide.weight.grad, plain.module.wide.weight.grad)
    assert not torch.equal(model.module.brain.weight.grad, plain.module.brain.weight.grad)
    torch.testing.assert_close(
        model.module.brain.weight.grad, plain.module.brain.weight.grad, rtol=0, atol=0.01
    )
    assert same_on_ranks(model)


def test_complex_parameters_stay_plain():
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 8, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.to(torch.complex64) @ self.weight).abs()

    def run(codec):
        model = DDP(Complex().to(DEVICE))
        if codec:
            thinwire.torch.compress(model, codec)
        model(batch(0)).sum().backward()
        return model

    assert torch.equal(run("sign").module.weight.grad, run(None).module.weight.grad)


def test_sparse_gradients_stay_plain(only_cpu):  # NCCL reduces none
    def run(codec):
        torch.manual_seed(0)
        model = DDP(nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Linear(8, 4)))
        if codec:
            thinwire.torch.compress(model, codec)
        model(torch.tensor([1, 2, RANK])).sum().backward()
        return model

    compressed, plain = run("int8"), run(None)
    sparse = compressed.module[0].weight.grad
    assert sparse.is_sparse
    assert torch.equal(sparse.to_dense(), plain.module[0].weight.grad.to_dense())


def test_frozen_and_shared_parameters():
    def run(codec, freeze):
        torch.manual_seed(0)
        net = Net().to(DEVICE)
        net.hidden.weight = net.twice.weight  # one parameter under two names
        net.embed.weight.requires_grad_(not freeze)
        model = DDP(net, bucket_cap_mb=0.01)
        if codec:
            thinwire.torch.compress(model, codec)
        start = net.embed.weight.detach().clone()
        train(model, range(3))
        assert torch.equal(net.embed.weight, start) == freeze
        return model

    for freeze in (True, False):
        assert same_bits(run("none", freeze), run(None, freeze))
        assert same_on_ranks(run("sign", freeze))


def test_unused_parameters_keep_their_residual_and_get_no_gradient():
    class Sometimes(Net):
        use = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.embed(x))
            return self.head(self.hidden(x) if self.use else x)

    torch.manual_seed(0)
    model = DDP(Sometimes().to(DEVICE), find_unused_parameters=True)
    handle = thinwire.torch.compress(model, "int4")
    model(batch(0)).square().mean().backward()
    own = f"rank{RANK}"
    before = handle.state_dict()["residuals"][own]["worker"]["hidden.weight"]["values"].clone()
    assert before.abs().max() > 0
    model.module.use = False
    model.zero_grad()
    model(batch(1)).square().mean().backward()
    assert model.module.hidden.weight.grad is None
    after = handle.state_dict()["residuals"][own]["worker"]["hidden.weight"]["values"]
    assert torch.equal(before, after)


def test_two_models_do_not_mix():
    def run(together):
        models = [make_model(seed=s) for s in (1, 2)]
        for model, codec in zip(models, ("int4", "sign"), strict=True):
            thinwire.torch.compress(model, codec)
        if together:
            for step in range(3):
                for model in models:
                    model.zero_grad()
                (loss_of(models[0], step) + loss_of(models[1], step)).backward()
                for model in models:
                    torch.optim.SGD(model.parameters(), lr=0.05).step()
        else:
            for model in models:
                train(model, range(3))
        return models

    assert all(same_bits(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_process_subgroup(needs):
    needs(4)
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    model = make_model(process_group=groups[RANK // 2])
    thinwire.torch.compress(model, "int4")
    train(model, range(3))
    flats = gathered(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(flats[0], flats[1])
    assert torch.equal(flats[2], flats[3])
    assert not torch.equal(flats[0], flats[2])


def test_one_rank_exchanges_nothing():
    alone = [dist.new_group([r]) for r in range(SIZE)][RANK]
    model, plain = (make_model(process_group=alone) for _ in range(2))
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(3))
    train(plain, range(3))
    assert same_bits(model, plain)
    assert "nothing is exchanged" in handle.explain()
    handle.load_state_dict(handle.state_dict())


def test_patterns_choose_codecs_by_name_in_one_exchange():
    model = make_model(bucket_cap_mb=25)
    codecs = {"head.*": "none", "hidden.weight": "sign", "embed.bias": "int8"}
    handle = thinwire.torch.compress(model, "int4", codecs=codecs)
    train(model, range(3))
    assert same_on_ranks(model)
    buckets = handle.metrics()["buckets"]
    assert len(buckets) == 1
    assert buckets[0]["codecs"] == ["int4", "int8", "none", "sign"]
    assert handle.metrics()["calls"] == 3


def test_biases_and_norms_are_plain_by_default():
    model, plain = make_model(), make_model()
    thinwire.torch.compress(model, "sign")
    loss_of(model, 0).backward()
    loss_of(plain, 0).backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        if a.dim() == 1:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=name)
        else:
            assert not torch.equal(a.grad, b.grad), name


def test_set_codec_takes_effect_and_keeps_residuals():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    own = f"rank{RANK}"
    before = handle.state_dict()["residuals"][own]["worker"]
    handle.set_codec("none")
    train(model, range(2, 4))
    handle.set_codec("sign")
    after = handle.state_dict()["residuals"][own]["worker"]
    assert all(torch.equal(before[n]["values"], after[n]["values"]) for n in before)
    train(model, range(4, 6))
    handle.set_codec("int8")
    train(model, range(6, 8))
    assert handle.codec == "int8"
    assert all(b["codecs"] == ["int8", "none"] for b in handle.metrics()["buckets"])
    assert same_on_ranks(model)


def test_plain_context_is_ddp_to_the_bit():
    model, reference = make_model(), make_model()
    handle = thinwire.torch.compress(model, "int4")
    with handle.plain():
        train(model, range(3))
    train(reference, range(3))
    assert same_bits(model, reference)
    train(model, range(3, 5))
    assert not same_bits(model, reference)


def test_discard_step_leaves_no_trace():
    def run(with_discarded):
        model = make_model()
        handle = thinwire.torch.compress(model, "sign", commit="double")
        train(model, range(2))
        if with_discarded:
            model.zero_grad()
            loss_of(model, 77).backward()
            handle.discard_step()
        train(model, range(2, 4))
        return model, handle

    (a, handle), (b, _) = run(True), run(False)
    assert same_bits(a, b)
    assert handle.metrics()["skipped_steps"] == 1
    with pytest.raises(thinwire.Unsupported, match="commit='double'"):
        thinwire.torch.compress(make_model(), "sign").discard_step()


@pytest.mark.parametrize("codec", ["int8", "sign"])
def test_gradscaler_keeps_residuals_in_true_units(codec):
    """Powers of two are exact: the parameters are those of unscaled training at any scale."""

    def run(scaled):
        model = make_model()
        scaler = torch.amp.GradScaler(
            DEVICE.type, init_scale=64.0, growth_interval=2, enabled=scaled
        )
        handle = thinwire.torch.compress(model, codec, scaler=scaler)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            if step == 3 and scaled:  # overflows on one rank: skipped on all
                loss = loss * (float("inf") if RANK == 0 else 1.0)
            elif step == 3:
                continue
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return model, handle

    (scaled, handle), (unscaled, _) = run(True), run(False)
    assert same_bits(scaled, unscaled)
    handle.state_dict()
    assert handle.metrics()["skipped_steps"] == 1


def test_non_finite_raise_surfaces_from_backward_on_every_rank():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8", non_finite="raise")
    train(model, range(2))
    own = f"rank{RANK}"
    before = handle.state_dict()["residuals"][own]["worker"]
    model.zero_grad()
    loss = loss_of(model, 2) * (float("nan") if RANK == SIZE - 1 else 1.0)
    with pytest.raises(thinwire.NonFiniteError, match=f"rank {RANK}") as raised:
        loss.backward()
    assert isinstance(raised.value, ArithmeticError)
    after = handle.state_dict()["residuals"][own]["worker"]
    assert all(torch.equal(before[n]["values"], after[n]["values"]) for n in before)
    train(model, range(3, 5))
    assert same_on_ranks(model)


def test_ranks_with_different_buckets_raise_from_backward_and_can_go_on():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    if RANK != 0:  # behind set_codec's back, which compares
        handle._target = handle._target.with_codec("int4")
    start = copy.deepcopy(model.module.state_dict())
    with pytest.raises(thinwire.MismatchError, match="sections") as raised:
        train(model, range(1))
    assert raised.value.mine != raised.value.theirs
    assert f"rank {RANK}: bucket of 'embed.weight'" in str(raised.value)
    assert all(torch.equal(v, model.module.state_dict()[n]) for n, v in start.items())
    handle.set_codec("int8")
    train(model, range(3))
    assert same_on_ranks(model)


def test_an_aborted_exchange_keeps_its_type_and_its_culprit(may_abort):
    model = make_model()
    handle = thinwire.torch.compress(model, "int4")
    train(model, range(2))
    dist.barrier()  # every rank has its last step behind it
    if RANK == 0:
        handle._reducer.abort("the cable was pulled")
    model.zero_grad()
    with pytest.raises(thinwire.AbortedError, match="the cable was pulled") as raised:
        for step in range(2, 100 if ON_GPU else 3):  # a GPU's host is ahead
            loss_of(model, step).backward()
    assert raised.value.peer == 0
    with handle.plain():  # DDP itself is well
        train(model, range(3))
    assert same_on_ranks(model)
    with pytest.raises(thinwire.AbortedError, match="the cable was pulled"):  # not in silence
        loss_of(model, 3).backward()


def test_copies_of_a_compressed_model_are_plain_and_whole():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    train(model, range(2))
    average = torch.optim.swa_utils.AveragedModel(model)  # deep copies it
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), average.module):
        assert same_bits(other, model)
        train(other, range(1))
        assert same_on_ranks(other)
    copied = copy.deepcopy(handle)
    with pytest.raises(thinwire.Unsupported, match="copy"):
        copied.metrics()
    train(model, range(2, 4))  # the original goes on


def test_ddp_hook_for_trainers_that_wrap_the_model():
    torch.manual_seed(0)
    net = Net().to(DEVICE)
    state, hook = thinwire.torch.ddp_hook(net, "int4")
    model = DDP(net, bucket_cap_mb=0.01)
    model.register_comm_hook(state, hook)
    train(model, range(4))
    assert same_bits(model, trained("int4"))


def test_torch_compile(needs):
    if SIZE > 2:
        pytest.skip("dynamo takes long on many ranks")
    model = make_model(bucket_cap_mb=25)
    compiled = torch.compile(model, backend="eager")
    thinwire.torch.compress(compiled, "int4")
    train(compiled, range(3))
    assert same_on_ranks(model)
    assert same_bits(model, trained("int4", range(3)))


def test_auto_picks_a_safe_codec_and_says_why():
    model = make_model()
    handle = thinwire.torch.compress(model)
    assert handle.codec in ("none", "bf16", "int8", "int4")
    assert len(set(gathered(handle.codec))) == 1
    assert f"auto picks {handle.codec}" in handle.explain()
    train(model, range(2))
    assert same_on_ranks(model)


def test_explain_and_metrics_count_bytes():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(3))
    metrics = handle.metrics()
    assert metrics["wire_bytes"] > 0
    assert metrics["plain_wire_bytes"] > 5 * metrics["wire_bytes"]
    assert metrics["state_bytes"] > 0
    text = handle.explain()
    assert "none+sign" in text
    assert f"{SIZE} ranks" in text
