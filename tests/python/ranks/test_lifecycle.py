"""Handles over their life: what they are given, backwards that go another way, ends and copies."""

import copy
import subprocess
import sys

import pytest
import thinwire
import thinwire.torch
import torch
from conftest import DEVICE, RANK
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.checkpoint import checkpoint
from training import Net, gathered, loss_of, make_model, same_bits, same_on_ranks, train

pytestmark = pytest.mark.filterwarnings("ignore:.*optimizer rule")


class Checkpointed(nn.Module):
    """Its last layer's backward is a backward of its own, and over before the first layer's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 48)
        self.last = nn.Linear(48, 5)

    def forward(self, x):
        return checkpoint(self.last, torch.relu(self.first(x)), use_reentrant=True)


def test_reentrant_checkpointing_raises_from_the_same_backward():
    model = DDP(Checkpointed().to(DEVICE), bucket_cap_mb=0.0001)
    handle = thinwire.torch.compress(model, "int8", non_finite="raise")
    broken = [False]
    weight = model.module.first.weight
    weight.register_hook(lambda g: g * float("nan") if broken[0] and RANK == 0 else g)
    train(model, range(3))
    broken[0] = True
    with pytest.raises(thinwire.NonFiniteError):
        loss_of(model, 3).backward()
    handle.discard_step()  # it counts for nothing already
    broken[0] = False
    train(model, range(4, 6))
    assert same_on_ranks(model)


@pytest.mark.parametrize("ended_by", ["non_finite", "state_dict", "discard_step"])
def test_discard_step_says_when_it_comes_too_late(ended_by):
    model = make_model()
    policy = "raise" if ended_by == "non_finite" else "propagate"
    handle = thinwire.torch.compress(model, "sign", commit="double", non_finite=policy)
    train(model, range(2))
    loss_of(model, 2).backward()
    if ended_by == "state_dict":
        handle.state_dict()
    if ended_by == "discard_step":
        handle.discard_step()
    with pytest.raises(thinwire.InvalidArgument, match="comes too late"):
        handle.discard_step()
    loss_of(model, 3).backward()
    if ended_by != "non_finite":
        handle.discard_step()


def test_after_close_the_model_is_ddp_and_may_be_compressed_again():
    model, plain = make_model(), make_model()
    thinwire.torch.compress(model, "int8").close()
    for net in (model, plain):
        train(net, range(3))
    assert same_bits(model, plain)
    handle = thinwire.torch.compress(model, "int4")
    for net in (model, plain):
        train(net, range(3, 6))
    assert handle.metrics()["steps"] == 3
    assert same_on_ranks(model)
    assert not same_bits(model, plain)
    with pytest.raises(thinwire.Unsupported, match="already"):
        thinwire.torch.compress(model, "int8")


def test_after_close_in_mid_training_too():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    train(model, range(2))
    handle.close()
    plain = make_model()
    plain.load_state_dict(model.state_dict())
    for net in (model, plain):
        train(net, range(2, 4))
    assert same_bits(model, plain)


def test_a_copy_may_be_compressed():
    model = make_model()
    thinwire.torch.compress(model, "int8")
    train(model, range(2))
    twin = copy.deepcopy(model)
    handle = thinwire.torch.compress(twin, "int4")
    train(twin, range(2, 4))
    assert handle.metrics()["steps"] == 2
    assert same_on_ranks(twin)


def test_a_pattern_that_fits_no_parameter_is_refused():
    with pytest.raises(thinwire.InvalidArgument, match=r"'head\.wieght' fits none of the 9"):
        thinwire.torch.compress(make_model(), "int8", codecs={"head.wieght": "none"})


def test_a_compiled_module_has_the_names_that_it_had_before():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign", codecs={"hidden.weight": "int8"})
    train(model, range(2))
    state = handle.state_dict()
    compiled = DDP(torch.compile(Net().to(DEVICE), backend="eager"))
    other = thinwire.torch.compress(compiled, "sign", codecs={"hidden.weight": "int8"})
    other.load_state_dict(state)
    train(compiled, range(2, 3))
    assert "hidden.weight" in other.state_dict()["residuals"][f"rank{RANK}"]["worker"]


@pytest.mark.parametrize(
    "options", [{"codec": "none"}, {"codecs": {"head.*": "none"}}, {"commit": "double"}]
)
def test_ranks_that_differ_raise_on_all_before_anything_is_exchanged(options):
    mine = {"codec": "int8", **(options if RANK == 1 else {})}
    with pytest.raises(thinwire.MismatchError):
        thinwire.torch.compress(make_model(), **mine)


def test_set_codec_that_differs_raises_on_all_and_changes_nothing():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    train(model, range(2))
    with pytest.raises(thinwire.MismatchError):
        handle.set_codec("int4" if RANK == 0 else "sign")
    assert handle.codec == "int8"
    train(model, range(2, 4))
    assert same_on_ranks(model)


def test_auto_takes_no_random_numbers_of_the_users():
    model = make_model()
    torch.manual_seed(5)
    thinwire.torch.compress(model, "auto")
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_a_backward_that_breaks_off_leaves_nothing_behind():
    model = make_model()
    handle = thinwire.torch.compress(model, "int8")
    train(model, range(2))
    error = ValueError("not today")

    def fail(_):
        raise error

    removal = model.module.embed.weight.register_hook(fail)  # the last one of a backward
    with pytest.raises(ValueError, match="not today"):
        loss_of(model, 2).backward()
    removal.remove()
    assert handle.codec == "int8"
    assert all(steps == 2 for steps in gathered(handle.metrics()["steps"]))


def test_what_one_rank_refuses_the_others_hear_of_at_once():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    state = handle.state_dict()
    error = thinwire.MismatchError
    if RANK == 1:
        state, error = {**state, "version": 7}, thinwire.FormatError
    with pytest.raises(error):
        handle.load_state_dict(state)
    with pytest.raises(thinwire.InvalidArgument if RANK == 1 else thinwire.MismatchError):
        handle.set_codec("nosuch" if RANK == 1 else "int8")
    train(model, range(2, 4))  # and all go on
    assert handle.codec == "sign"
    assert same_on_ranks(model)


def test_explain_names_a_warm_up_where_there_is_one_alone():
    model = make_model()
    optimizer = thinwire.torch.AdamW(model.parameters())
    handle = thinwire.torch.compress(model, "int4", optimizer=optimizer)
    assert "freezes" not in handle.explain()


def test_a_state_in_a_file_needs_no_thinwire(tmp_path):
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    torch.save(handle.state_dict(), tmp_path / "state.pt")
    script = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"
    command = [sys.executable, "-c", script, tmp_path / "state.pt"]
    subprocess.run(command, check=True, timeout=60)
