import pytest
import thinwire
import thinwire.torch
import torch
from conftest import DEVICE, SIZE
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel as DDP
from training import Net, batch, make_model


def refused(model, words):
    with pytest.raises(thinwire.Unsupported, match=words) as raised:
        thinwire.torch.compress(model, "int8")
    assert isinstance(raised.value, RuntimeError)


def test_mixed_precision():
    model = make_model()
    model.mixed_precision = object()  # DDP itself makes it on accelerators alone
    refused(model, "mixed_precision=")


def test_optimizer_in_backward():
    net = Net().to(DEVICE)
    _apply_optimizer_in_backward(torch.optim.SGD, net.head.parameters(), {"lr": 0.1})
    refused(DDP(net), "parameter 'head.weight' has an optimizer in backward")


def test_python_reducer():
    with torch._dynamo.config.patch(optimize_ddp="python_reducer"):
        model = make_model()
    refused(model, "python_reducer")


def test_join():
    model = make_model()
    thinwire.torch.compress(model, "int8")
    with pytest.raises(thinwire.Unsupported, match="Join"), Join([model]):
        model(batch(0))


def test_several_devices():
    model = make_model()
    model.module.extra = nn.Parameter(torch.zeros(3, device="meta"))
    refused(model, f"several devices .{DEVICE}, meta.")


def test_models_that_are_neither_on_a_cpu_nor_on_a_gpu():
    net = nn.Linear(3, 3, device="meta")
    with pytest.raises(TypeError, match="parameter 'weight' is on meta") as raised:
        thinwire.torch.ddp_hook(net, "int8")
    assert isinstance(raised.value, thinwire.UnsupportedTensor)


def test_second_hook_either_way():
    model = make_model()
    thinwire.torch.compress(model, "int8")
    refused(model, "has a communication hook already .thinwire_hook.")
    with pytest.raises(RuntimeError):
        model.register_comm_hook(None, fp16_compress_hook)
    other = make_model()
    other.register_comm_hook(None, fp16_compress_hook)
    refused(other, "fp16_compress_hook")
    plain = make_model()
    handle = thinwire.torch.compress(plain, "none")  # without a hook as yet
    refused(plain, "was called on this model already")
    plain.register_comm_hook(None, fp16_compress_hook)
    with pytest.raises(thinwire.Unsupported, match="fp16_compress_hook"):
        handle.set_codec("int8")


def test_what_is_not_a_ddp_model():
    with pytest.raises(TypeError, match="DistributedDataParallel model, not a Net"):
        thinwire.torch.compress(Net(), "int8")


def test_unknown_codecs_patterns_and_options():
    for arguments in ({"codec": "int3"}, {"codecs": {"*": "topk:2"}}, {"switch_at": 3}):
        with pytest.raises(ValueError):
            thinwire.torch.compress(make_model(), **{"codec": "int8", **arguments})
    if SIZE > 1:
        for arguments in ({"commit": "never"}, {"non_finite": "ignore"}):
            with pytest.raises(ValueError, match=next(iter(arguments.values()))):
                thinwire.torch.compress(make_model(), "int8", **arguments)


def test_a_foreign_parameter_is_named_from_backward():
    state, hook = thinwire.torch.ddp_hook(Net().to(DEVICE), "int8")
    model = make_model()
    model.register_comm_hook(state, hook)
    with pytest.raises(ValueError, match="is not of the module"):
        model(batch(0)).sum().backward()
