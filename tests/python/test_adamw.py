"""thinwire.torch.adamw against torch.optim.AdamW and against its formula."""

import copy
import pickle

import pytest
import torch
from thinwire.torch.adamw import AdamW

OPTIONS = [
    {},
    {"weight_decay": 0.1, "betas": (0.8, 0.99)},
    {"amsgrad": True},
    {"maximize": True},
    {"foreach": True},
    {"fused": True},
    {"lr": torch.tensor(0.02)},
]


def gradient(step, index, weight):
    generator = torch.Generator().manual_seed(100 * step + index)
    return torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def make(kind=AdamW, weights=None, **options):
    if weights is None:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(20, 10, generator=generator), torch.randn(10, generator=generator)]
    weights = [weight.detach().clone().requires_grad_() for weight in weights]
    options.setdefault("lr", 0.01)
    return weights, kind(weights, **options)


def run(weights, optimizer, steps):
    for step in steps:
        for index, weight in enumerate(weights):
            weight.grad = gradient(step, index, weight)
        optimizer.step()


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_before_the_switch_every_bit_is_torchs(options):
    ours, optimizer = make(freeze=100, **options)
    theirs, reference = make(torch.optim.AdamW, **options)
    run(ours, optimizer, range(6))
    run(theirs, reference, range(6))
    assert same_bits(ours, theirs)
    for mine, other in zip(optimizer.state.values(), reference.state.values(), strict=True):
        assert mine.keys() == other.keys()
        assert same_bits(mine.values(), other.values())
    extra = optimizer.param_groups[0].keys() - reference.param_groups[0].keys()
    assert extra == {"frozen_at", "second_moment_norms"}


@pytest.mark.parametrize("options", OPTIONS[:5], ids=str)
def test_states_are_exchanged_both_ways(options):
    ours, optimizer = make(**options)
    theirs, reference = make(torch.optim.AdamW, **options)
    run(ours, optimizer, range(3))
    run(theirs, reference, range(3))
    state, reference_state = (copy.deepcopy(o.state_dict()) for o in (optimizer, reference))
    from_ours, plain = make(torch.optim.AdamW, ours, **options)
    from_theirs, mine = make(AdamW, theirs, **options)
    plain.load_state_dict(state)
    mine.load_state_dict(reference_state)
    for weights, other in ((ours, optimizer), (from_ours, plain), (from_theirs, mine)):
        run(weights, other, range(3, 6))
    assert same_bits(ours, from_ours)
    assert same_bits(ours, from_theirs)


def by_formula(weight, state, taken, step, options, frozen_v):
    """What weight becomes; state as it was before the step, in float64."""
    beta1 = options.get("betas", (0.9, 0.999))[0]
    lr, decay = float(options.get("lr", 0.01)), options.get("weight_decay", 0.01)
    g = gradient(step, 0, weight).double() * (-1 if options.get("maximize") else 1)
    m = beta1 * state["exp_avg"].double() + (1 - beta1) * g
    p = weight.detach().double() * (1 - lr * decay)
    return p - lr * m / (1 - beta1 ** (taken + 1)) / (frozen_v.sqrt() + 1e-8)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_after_the_switch_it_follows_the_formula(options):
    weights, optimizer = make(freeze=4, **options)
    run(weights, optimizer, range(3))
    reference = copy.deepcopy(optimizer)
    reference.freeze = None
    run(weights, optimizer, range(3, 4))
    assert optimizer.frozen
    unfrozen = list(reference.state)
    run(unfrozen, reference, range(3, 4))
    key = "max_exp_avg_sq" if options.get("amsgrad") else "exp_avg_sq"
    beta2 = options.get("betas", (0.9, 0.999))[1]
    v = reference.state[unfrozen[0]][key].double() / (1 - beta2**4)
    for step in range(4, 8):
        state = copy.deepcopy(optimizer.state[weights[0]])
        expected = by_formula(weights[0], state, step, step, options, v)
        run(weights, optimizer, [step])
        torch.testing.assert_close(weights[0].detach(), expected.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(optimizer.state[weights[0]][key], state[key])
        assert float(optimizer.state[weights[0]]["step"]) == step + 1


def test_every_parameter_has_its_own_bias_correction():
    (often, seldom), optimizer = make()
    for step in range(6):
        often.grad = gradient(step, 0, often)
        seldom.grad = gradient(step, 1, seldom) if step % 3 == 0 else None
        optimizer.step()
    before = [optimizer.state[w]["exp_avg_sq"].clone() for w in (often, seldom)]
    optimizer.freeze_second_moment()
    for weight, moment, taken in zip((often, seldom), before, (6, 2), strict=True):
        expected = moment / (1 - 0.999**taken)
        torch.testing.assert_close(optimizer.state[weight]["exp_avg_sq"], expected)


def test_device_steps_take_the_same_way_as_host_steps():
    """The path of capturable and fused optimizers, which never asks the device for a number."""
    weights, optimizer = make(freeze=3)
    run(weights, optimizer, range(3))
    meta = copy.deepcopy(optimizer)
    moved = list(meta.state)

    class OnDevice(torch.Tensor):
        device = torch.device("meta")

    for state in meta.state.values():
        state["step"] = state["step"].as_subclass(OnDevice)
    run(weights, optimizer, range(3, 6))
    run(moved, meta, range(3, 6))
    for a, b in zip(weights, moved, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("foreach", [False, True])
def test_complex_parameters_are_two_numbers_each(foreach):
    start = torch.randn(6, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    pair = torch.view_as_real(start)
    (number,), optimizer = make(weights=[start], freeze=2, foreach=foreach)
    (parts,), reference = make(weights=[pair], freeze=2, foreach=foreach)
    for step in range(5):
        parts.grad = gradient(step, 0, pair)
        number.grad = torch.view_as_complex(parts.grad.clone())
        optimizer.step()
        reference.step()
    # To rounding: before the switch it is torch's, which on some CPUs fuses what it does to one of
    # them and not to the other.
    torch.testing.assert_close(
        torch.view_as_real(number.detach()), parts.detach(), rtol=1e-6, atol=1e-6
    )


def test_on_switch_is_called_once_after_the_step():
    weights, optimizer = make(freeze=3)
    reference_weights, reference = make(torch.optim.AdamW)
    run(reference_weights, reference, range(3))
    seen = []

    def note(switched):
        assert switched is optimizer
        assert same_bits(weights, reference_weights)
        seen.append((switched.frozen, switched.param_groups[0]["frozen_at"]))

    optimizer.on_switch.append(note)
    run(weights, optimizer, range(6))
    optimizer.freeze_second_moment()
    assert seen == [(True, 3)]


def test_steps_count_from_a_plain_state():
    theirs, reference = make(torch.optim.AdamW)
    run(theirs, reference, range(5))
    weights, optimizer = make(AdamW, theirs, freeze=7)
    optimizer.load_state_dict(reference.state_dict())
    run(weights, optimizer, [5])
    assert not optimizer.frozen
    run(weights, optimizer, [6])
    assert optimizer.frozen


def test_variance_switches_when_settled_and_not_before():
    def switched_at(scale):
        weights, optimizer = make(freeze="variance", betas=(0.5, 0.9))
        for step in range(1, 200):
            for weight in weights:
                weight.grad = torch.full_like(weight, scale(step))
            optimizer.step()
            if optimizer.frozen:
                return step
        return None

    # The window is 10 steps: a sample each step, the first after step 1.
    assert switched_at(lambda step: 0.1) == 11
    assert switched_at(lambda step: 1.1**step) is None
    assert switched_at(lambda step: 0.9**step) is None
    assert switched_at(lambda step: max(1.0, 10.0 - step)) > 40


def test_a_resumed_run_switches_where_the_unbroken_one_does():
    weights, optimizer = make(freeze="variance", betas=(0.5, 0.9))
    run(weights, optimizer, range(7))
    again, resumed = make(AdamW, weights, freeze="variance", betas=(0.5, 0.9))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(weights, optimizer, range(7, 40))
    run(again, resumed, range(7, 40))
    frozen_at = [o.param_groups[0]["frozen_at"] for o in (optimizer, resumed)]
    assert frozen_at[0] is not None
    assert frozen_at[0] == frozen_at[1]
    assert same_bits(weights, again)


def test_a_frozen_state_resumes_frozen_and_calls_nobody():
    weights, optimizer = make(freeze=3)
    run(weights, optimizer, range(5))
    again, resumed = make(AdamW, weights, freeze=3)
    resumed.on_switch.append(lambda _: pytest.fail("called on loading"))
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    run(weights, optimizer, range(5, 8))
    run(again, resumed, range(5, 8))
    assert resumed.frozen
    assert same_bits(weights, again)


def test_plain_adamw_goes_on_from_a_frozen_state():
    weights, optimizer = make(freeze=3)
    run(weights, optimizer, range(5))
    plain_weights, plain = make(torch.optim.AdamW, weights)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = plain.state[plain_weights[0]]["exp_avg_sq"].clone()
    run(plain_weights, plain, range(5, 7))
    assert not torch.equal(plain.state[plain_weights[0]]["exp_avg_sq"], before)
    assert all(weight.isfinite().all() for weight in plain_weights)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_keep_the_rule_but_not_the_callbacks(copied):
    weights, optimizer = make(freeze=3)
    optimizer.on_switch.append(lambda _: pytest.fail("called by a copy"))
    run(weights, optimizer, range(2))
    other = copied(optimizer)
    run(other.param_groups[0]["params"], other, range(2, 3))
    assert other.frozen
    assert not optimizer.frozen


def test_elements_without_a_second_moment_take_a_typical_one():
    (live, dead, late), optimizer = make(weights=[torch.zeros(2, 4)] * 3)
    live.grad = torch.tensor([[0.0, 1, 1, 3], [1, 1, 1, 0]])
    dead.grad = torch.zeros(2, 4)
    optimizer.step()
    optimizer.freeze_second_moment()
    mean = (5 * 1 + 9) / 6
    expected = torch.tensor([[mean, 1, 1, 9], [1, 1, 1, mean]])
    torch.testing.assert_close(optimizer.state[live]["exp_avg_sq"], expected)
    torch.testing.assert_close(optimizer.state[dead]["exp_avg_sq"], torch.full((2, 4), mean))
    late.grad = torch.full((2, 4), 5.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[late]["exp_avg_sq"], torch.full((2, 4), mean))
    expected = torch.full((2, 4), -0.01 * 5 / mean**0.5)
    torch.testing.assert_close(late.detach(), expected)


def test_groups_keep_their_own_numbers_and_new_ones_are_frozen():
    a, b, c = (torch.ones(4).requires_grad_() for _ in range(3))
    optimizer = AdamW(
        [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}], weight_decay=0.0, freeze=2
    )
    for _ in range(3):
        a.grad, b.grad = torch.ones(4), torch.ones(4)
        optimizer.step()
    optimizer.add_param_group({"params": [c], "lr": 0.4})
    a.grad, b.grad, c.grad = torch.ones(4), torch.ones(4), torch.ones(4)
    before = [w.detach().clone() for w in (a, b, c)]
    optimizer.step()
    moved = [(x - w.detach())[0].item() for x, w in zip(before, (a, b, c), strict=True)]
    assert moved == pytest.approx([0.1, 0.2, 0.4], rel=1e-4)
    assert torch.equal(optimizer.state[c]["exp_avg_sq"], torch.ones(4))


@pytest.mark.parametrize("fused", [False, True])
def test_gradscaler_skips_and_unscales_on_both_sides_of_the_switch(fused):
    def train(scaled):
        (weight,), optimizer = make(weights=[torch.ones(8)], fused=fused or None, freeze=3)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=99, enabled=scaled)
        for step in range(8):
            overflow = step in (1, 5)
            if overflow and not scaled:
                continue
            optimizer.zero_grad()
            factor = gradient(step, 0, weight) * (float("inf") if overflow else 1.0)
            scaler.scale((weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        return weight, optimizer

    (scaled, with_scaler), (unscaled, without) = train(True), train(False)
    assert torch.equal(scaled, unscaled)
    assert with_scaler.param_groups[0]["frozen_at"] == 3
    assert without.param_groups[0]["frozen_at"] == 3


def test_closure_and_scheduler_work_on_both_sides_of_the_switch():
    weights, optimizer = make(freeze=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = sum((weight**2).sum() for weight in weights)
        loss.backward()
        return loss.item()

    for _ in range(5):
        losses.append(optimizer.step(closure))
        scheduler.step()
    assert losses == sorted(losses, reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 32)


def test_step_hooks_run_once_even_beside_a_plain_adamw():
    make(torch.optim.AdamW)  # torch now has hooks in AdamW.step, which ours calls
    weights, optimizer = make(freeze=2)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    run(weights, optimizer, range(4))
    assert calls == ["pre", "post"] * 4


@pytest.mark.parametrize("freeze", [0, -3, "soon", 1.5])
def test_an_unknown_rule_is_refused(freeze):
    with pytest.raises(ValueError, match="freeze="):
        make(freeze=freeze)


def test_freezing_needs_a_step_and_no_graph():
    with pytest.raises(RuntimeError, match="take a step"):
        make()[1].freeze_second_moment()
    weights, optimizer = make()
    run(weights, optimizer, range(1))
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(RuntimeError, match="differentiable"):
        optimizer.freeze_second_moment()
