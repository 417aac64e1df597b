import pytest
import thinwire.torch
import torch
from conftest import DEVICE
from training import loss_of, make_model, same_on_ranks, train


def test_sign_begins_with_bf16_and_switches_at_a_step():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(model, "sign", optimizer=optimizer, switch_at=3)
    train(model, range(2), optimizer)
    assert (handle.codec, optimizer.frozen) == ("bf16", False)
    train(model, range(2, 3), optimizer)
    assert (handle.codec, optimizer.frozen) == ("sign", True)
    moments = [state["exp_avg_sq"].clone() for state in optimizer.state.values()]
    train(model, range(3, 6), optimizer)
    after = [state["exp_avg_sq"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True))
    assert same_on_ranks(model)


def test_topk_switches_when_the_second_moment_has_settled():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.9))
    handle = thinwire.torch.compress(model, "topk:0.1", optimizer=optimizer)
    assert "topk:0.1 when the optimizer freezes" in handle.explain()
    for _ in range(30):  # the same gradient each step: its square settles
        optimizer.zero_grad()
        loss_of(model, 0).backward()
        optimizer.step()
    assert (handle.codec, optimizer.frozen) == ("topk:0.1", True)


def frozen_and_one_more_backward(codec: str, **options):
    """The model, its optimizer, its handle, and the momentum that the last backward met."""
    model = make_model(bucket_cap_mb=25)
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3, maximize=options.pop("maximize"))
    handle = thinwire.torch.compress(model, codec, optimizer=optimizer, switch_at=3, **options)
    train(model, range(5), optimizer)
    momentum = {p: state["exp_avg"].clone() for p, state in optimizer.state.items()}
    optimizer.zero_grad()
    loss_of(model, 5).backward()
    return model, optimizer, handle, momentum


@pytest.mark.parametrize("maximize", [False, True])
def test_after_the_switch_the_momentum_is_what_signs_are_of(maximize):
    model, optimizer, _, before = frozen_and_one_more_backward("sign", maximize=maximize)
    weight, bias = model.module.embed.weight, model.module.embed.bias  # 768 elements: one block
    momentum = -before[weight] if maximize else before[weight]
    sizes = (weight.grad + 9 * momentum).abs()
    torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)
    assert weight.grad.abs().std() > 0.1 * weight.grad.abs().mean()
    assert bias.grad.unique().numel() > 40  # plain parameters go as they are
    optimizer.step()
    sizes = optimizer.state[weight]["exp_avg"].abs()
    torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)
    assert same_on_ranks(model)


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"nesterov": True}])
def test_under_sgd_the_momentum_is_what_signs_are_of(options):
    model = make_model(bucket_cap_mb=25)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, **options)
    thinwire.torch.compress(model, "sign", optimizer=optimizer)
    weight = model.module.embed.weight  # 768 elements: one block
    for step in range(4):
        train(model, [step], optimizer)
        sizes = optimizer.state[weight]["momentum_buffer"].abs()
        torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)
    assert weight.grad.abs().std() > 0.1 * weight.grad.abs().mean()
    assert same_on_ranks(model)


@pytest.mark.filterwarnings("ignore:.*optimizer rule")
def test_without_momentum_sgd_changes_nothing():
    models = []
    for optimizer in (None, "own"):
        model = make_model()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        thinwire.torch.compress(model, "sign", optimizer=sgd if optimizer else None)
        train(model, range(4), sgd)
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_other_codecs_after_the_switch_code_the_gradient():
    model, _, handle, _ = frozen_and_one_more_backward("sign", maximize=False)
    handle.set_codec("none")
    model.zero_grad()
    loss_of(model, 5).backward()
    plain = make_model(bucket_cap_mb=25)
    plain.load_state_dict(model.state_dict())
    loss_of(plain, 5).backward()
    for mine, its in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)  # buckets differ, and with them the sums


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-6])
def test_a_loss_scale_scales_the_momentum_too(scale):
    runs = []
    for scaler in (None, torch.amp.GradScaler(DEVICE.type, init_scale=scale)):
        model = make_model()
        optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
        options = {"optimizer": optimizer, "switch_at": 2, "scaler": scaler}
        thinwire.torch.compress(model, "topk:0.1", **options)
        for step in range(5):
            optimizer.zero_grad()
            if scaler is None:
                loss_of(model, step).backward()
                optimizer.step()
            else:
                scaler.scale(loss_of(model, step)).backward()
                scaler.step(optimizer)
                scaler.update()
        runs.append(model)
    for mine, its in zip(*(run.parameters() for run in runs), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def test_resume_after_and_before_the_switch():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(model, "sign", optimizer=optimizer, switch_at=4)
    train(model, range(2), optimizer)
    early = handle.state_dict(), optimizer.state_dict(), model.module.state_dict()
    early = torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, early
    )
    train(model, range(2, 6), optimizer)

    again = make_model(seed=3)
    again_optimizer = thinwire.torch.AdamW(again.parameters(), lr=1e-3)
    again_handle = thinwire.torch.compress(again, "sign", optimizer=again_optimizer, switch_at=4)
    again.module.load_state_dict(early[2])
    again_optimizer.load_state_dict(early[1])
    again_handle.load_state_dict(early[0])
    train(again, range(2, 6), again_optimizer)
    assert again_handle.codec == "sign"
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_rule_it_warns_once_with_the_gap():
    model = make_model()
    if torch.distributed.get_rank() == 0:
        with pytest.warns(UserWarning, match="higher"):
            thinwire.torch.compress(model, "sign")
    else:
        thinwire.torch.compress(model, "sign")


def test_patterns_warm_up_too():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(
        model, "int8", optimizer=optimizer, switch_at=2, codecs={"hidden.weight": "sign"}
    )

    def codecs():
        return {codec for bucket in handle.metrics()["buckets"] for codec in bucket["codecs"]}

    train(model, range(2), optimizer)
    assert codecs() == {"none", "int8", "bf16"}
    train(model, range(2, 4), optimizer)
    assert codecs() == {"none", "int8", "sign"}
    assert same_on_ranks(model)


def test_set_codec_in_the_warm_up_is_what_comes_after_it():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(model, "sign", optimizer=optimizer, switch_at=3)
    train(model, range(1), optimizer)
    handle.set_codec("topk:0.1")
    assert handle.codec == "bf16"
    train(model, range(1, 4), optimizer)
    assert handle.codec == "topk:0.1"
    handle.set_codec("int8")
    train(model, range(4, 5), optimizer)
    assert handle.codec == "int8"


def test_an_optimizer_frozen_by_its_state_ends_the_warm_up():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3, freeze=2)
    train(model, range(3), optimizer)
    other = make_model()
    fresh = thinwire.torch.AdamW(other.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(other, "sign", optimizer=fresh)
    assert handle.codec == "bf16"
    fresh.load_state_dict(optimizer.state_dict())
    train(other, range(3, 4), fresh)
    assert handle.codec == "sign"


class Wrapper(torch.optim.Optimizer):
    """As trainers have it: an optimizer that holds another."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_an_optimizer_in_a_wrapper_counts():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(model, "sign", optimizer=Wrapper(optimizer), switch_at=1)
    assert handle.codec == "bf16"
    train(model, range(2), optimizer)
    assert handle.codec == "sign"


@pytest.mark.parametrize("switch_at", [0, -5, 2.5, "soon"])
def test_a_switch_that_is_no_step_is_refused(switch_at):
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters())
    with pytest.raises(thinwire.InvalidArgument, match="switch_at="):
        thinwire.torch.compress(model, "sign", optimizer=optimizer, switch_at=switch_at)


def test_a_switch_without_an_optimizer_that_freezes_is_refused():
    model = make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(thinwire.InvalidArgument, match=r"optimizer= is a SGD"):
        thinwire.torch.compress(model, "sign", optimizer=sgd, switch_at=5)
