"""Which ranks and which transport init() gives, and what it refuses."""

import thinwire
import thinwire.torch
import torch
from training import gathered, make_model, train


def test_a_model_trains_on_when_the_default_communicator_is_closed():
    model = make_model()
    thinwire.torch.compress(model, "int8")
    default = thinwire.init(transport="auto")
    default.close()
    train(model, range(2))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()
    assert all(torch.equal(weights, other) for other in gathered(weights))
    assert thinwire.init(transport="auto") is not default
