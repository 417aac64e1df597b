import copy
import io

import pytest
import thinwire
import thinwire.torch
import torch
import torch.distributed as dist
from conftest import RANK, SIZE
from training import gathered, make_model, same_bits, train

pytestmark = pytest.mark.filterwarnings("ignore:.*optimizer rule")


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("codec", ["int8", "int4", "sign"])
def test_resumed_training_is_bitwise_the_unbroken_run(codec):
    model = make_model()
    handle = thinwire.torch.compress(model, codec)
    train(model, range(3))
    saved = through_a_file({"model": model.module.state_dict(), "thinwire": handle.state_dict()})
    train(model, range(3, 6))

    resumed = make_model(seed=9)
    resumed.module.load_state_dict(saved["model"])
    thinwire.torch.compress(resumed, "bf16").load_state_dict(saved["thinwire"])
    train(resumed, range(3, 6))
    assert same_bits(resumed, model)


def test_load_into_a_model_that_has_trained_replaces_what_it_remembers():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    saved = copy.deepcopy((model.module.state_dict(), handle.state_dict()))
    train(model, range(2, 5))
    end = copy.deepcopy(model.module.state_dict())
    model.module.load_state_dict(saved[0])
    handle.load_state_dict(saved[1])
    train(model, range(2, 5))
    assert all(torch.equal(v, end[n]) for n, v in model.module.state_dict().items())


def owed(states, ranks):
    """mean(e) + r, by parameter."""
    total = {}
    for rank in range(ranks):
        own = next(s["residuals"][f"rank{rank}"] for s in states if f"rank{rank}" in s["residuals"])
        for side, weight in (("worker", 1 / ranks), ("server", 1.0)):
            for name, fields in own[side].items():
                position = 0
                for offset, length in zip(fields["offsets"], fields["lengths"], strict=True):
                    dense = total.setdefault(name, torch.zeros(5000, dtype=torch.float64))
                    dense[offset : offset + length] += (
                        weight * fields["values"][position : position + length].double()
                    )
                    position += length
    return total


def test_from_n_to_half_as_many_ranks_nothing_is_lost(needs):
    needs(4)
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(3))
    states = gathered(handle.state_dict())
    before = owed(states, SIZE)

    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    smaller = make_model(process_group=groups[RANK // 2])
    smaller_handle = thinwire.torch.compress(smaller, "sign")
    smaller_handle.load_state_dict(thinwire.torch.merge_states(states), residuals="mean")
    new_states = gathered(smaller_handle.state_dict())[2 * (RANK // 2) :][:2]
    after = owed(new_states, 2)
    assert before.keys() == after.keys()
    for name, dense in before.items():
        torch.testing.assert_close(after[name], dense, rtol=0, atol=1e-6)
    train(smaller, range(3, 5))


def test_drop_forgets():
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    handle.load_state_dict(handle.state_dict(), residuals="drop")
    own = handle.state_dict()["residuals"][f"rank{RANK}"]
    assert (own["worker"], own["server"]) == ({}, {})


def _truncate(state):
    worker = state["residuals"][f"rank{RANK}"]["worker"]
    worker["head.weight"]["values"] = worker["head.weight"]["values"][:-1]


def _rename(state):
    worker = state["residuals"][f"rank{RANK}"]["worker"]
    worker["tail.weight"] = worker.pop("head.weight")


def _shift(state):
    state["residuals"][f"rank{RANK}"]["worker"]["head.weight"]["offsets"] += 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "parameter 'head.weight': 239 values do not fit"),
        (_rename, "parameter 'tail.weight': this model has no such parameter"),
        (_shift, "parameter 'head.weight': .* leave the 240 elements"),
        (lambda s: s.update(version=7), "version is 7"),
        (lambda s: s.update(ranks=SIZE + 1), f"saved by {SIZE + 1} ranks"),
        (lambda s: s.pop("residuals"), "NoneType stands where a dict should"),
    ],
)
def test_foreign_and_truncated_states_are_refused_and_change_nothing(damage, words):
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    good = handle.state_dict()
    bad = copy.deepcopy(good)
    damage(bad)
    with pytest.raises(ValueError, match=words) as raised:
        handle.load_state_dict(bad)
    assert f"rank {RANK}" in str(raised.value)
    still = handle.state_dict()["residuals"][f"rank{RANK}"]["worker"]["head.weight"]
    expected = good["residuals"][f"rank{RANK}"]["worker"]["head.weight"]
    assert torch.equal(still["values"], expected["values"])


def test_torch_distributed_checkpoint_fills_the_state_of_a_new_handle(tmp_path_factory):
    import torch.distributed.checkpoint as dcp

    place = [str(tmp_path_factory.mktemp("checkpoint"))]
    dist.broadcast_object_list(place, 0)
    model = make_model()
    handle = thinwire.torch.compress(model, "sign")
    train(model, range(2))
    weights = copy.deepcopy(model.module.state_dict())
    dcp.save({"thinwire": handle.state_dict()}, checkpoint_id=place[0])
    train(model, range(2, 4))

    resumed = make_model(seed=9)
    resumed.module.load_state_dict(weights)
    resumed_handle = thinwire.torch.compress(resumed, "sign")
    loaded = {"thinwire": resumed_handle.state_dict()}
    dcp.load(loaded, checkpoint_id=place[0])
    resumed_handle.load_state_dict(loaded["thinwire"])
    train(resumed, range(2, 4))
    assert same_bits(resumed, model)
