import pytest
import thinwire.torch
import torch
from training import loss_of, make_model, same_on_ranks, train


def test_sign_begins_with_int4_and_switches_at_a_step():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters(), lr=1e-3)
    handle = thinwire.torch.compress(model, "sign", optimizer=optimizer, switch_at=3)
    train(model, range(2), optimizer)
    assert (handle.codec, optimizer.frozen) == ("int4", False)
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
