"""Metrics of buckets, the residual probe, curves, and the timeline."""

import json
from itertools import pairwise

import pytest
import thinwire.torch
import torch
from conftest import DEVICE, ON_GPU, RANK
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from training import loss_of, make_model, train

pytestmark = pytest.mark.filterwarnings("ignore:.*optimizer rule")


class Writer:
    def __init__(self):
        self.scalars = {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars[tag, global_step] = scalar_value


def test_buckets_add_up_to_the_whole():
    model = make_model(find_unused_parameters=True)  # one set of buckets from start to end
    handle = thinwire.torch.compress(model, "int8")
    train(model, range(3))
    metrics = handle.metrics()
    assert len(metrics["buckets"]) > 1
    for name in ("calls", "encode_ms", "exchange_ms", "decode_ms"):
        assert sum(b[name] for b in metrics["buckets"]) == pytest.approx(metrics[name]), name
    assert metrics["wire_bytes"] == 3 * sum(b["wire_bytes"] for b in metrics["buckets"])


def test_nothing_is_measured_unless_asked():
    model = make_model()
    handle = thinwire.torch.compress(model, "int4")
    train(model, range(3))
    metrics = handle.metrics()
    assert metrics["residual_ratio"] is metrics["contraction"] is None
    assert all(bucket["contraction"] is None for bucket in metrics["buckets"])


@pytest.mark.parametrize("codec", ["int8", "int4", "sign", "topk:0.1"])
def test_residuals_are_measured_in_the_step_that_was_asked_for(codec):
    """By hand, on one layer whose gradient is the same in every step."""
    model = DDP(nn.Linear(80, 40, bias=False).to(DEVICE))
    handle = thinwire.torch.compress(model, codec)
    gradient = torch.randn(40, 80, generator=torch.Generator().manual_seed(RANK)).to(DEVICE)

    def step():
        model.zero_grad()
        model(torch.eye(80, device=DEVICE)).t().mul(gradient).sum().backward()

    def residual():
        pieces = handle.state_dict()["residuals"][f"rank{RANK}"]["worker"]["weight"]
        return pieces["values"].double()

    step()
    before = residual()
    handle.sample_residuals()
    step()
    left = residual()
    step()
    total = gradient.flatten().double().cpu() + before
    metrics = handle.metrics()
    assert metrics["contraction"] == pytest.approx(
        float(left.square().sum() / total.square().sum()), rel=1e-5
    )
    assert metrics["residual_ratio"] == pytest.approx(
        float(left.norm() / gradient.double().norm()), rel=1e-5
    )
    assert 0 < metrics["contraction"] < 1
    assert metrics["buckets"][0]["contraction"] == metrics["contraction"]


def test_a_sample_of_a_discarded_step_does_not_count():
    model = make_model()
    handle = thinwire.torch.compress(model, "int4", commit="double")
    train(model, range(1))
    handle.sample_residuals()
    loss_of(model, 1).backward()
    handle.discard_step()
    train(model, range(2, 4))
    assert handle.metrics()["contraction"] is None


def test_the_probe_sees_true_units_and_changes_no_bit():
    def run(scale, sampled):
        scaler = torch.amp.GradScaler(DEVICE.type, init_scale=scale)
        model = make_model()
        handle = thinwire.torch.compress(model, "int4", scaler=scaler)
        scaler.scale(torch.zeros((), device=DEVICE))  # its scale is made at first use
        for number in range(4):
            if sampled and number == 2:
                handle.sample_residuals()
            model.zero_grad()
            scaler.scale(loss_of(model, number)).backward()
        return handle.metrics()["residual_ratio"], [p.grad / scale for p in model.parameters()]

    ratio, grads = run(1024.0, True)
    assert ratio == pytest.approx(run(1.0, True)[0], rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(grads, run(1024.0, False)[1], strict=True))


def test_curves_are_of_the_steps_in_between():
    model = make_model(find_unused_parameters=True)
    handle = thinwire.torch.compress(model, "sign")
    writer = Writer()
    logger = thinwire.torch.MetricsLogger(writer, handle)
    train(model, range(5))
    logger.log(5)
    first = handle.metrics()
    train(model, range(5, 7))
    logger.log(7)
    second = handle.metrics()
    a_step = (second["exchange_ms"] - first["exchange_ms"]) / 2
    assert writer.scalars["thinwire/exchange_ms", 7] == pytest.approx(a_step)
    assert writer.scalars["thinwire/exchange_ms", 5] == pytest.approx(first["exchange_ms"] / 5)
    for step in (5, 7):
        assert 0 < writer.scalars["thinwire/contraction", step] < 1
        assert writer.scalars["thinwire/ratio", step] > 2
        assert writer.scalars["thinwire/wire_bytes", step] == sum(
            bucket["wire_bytes"] for bucket in first["buckets"]
        )
        assert ("thinwire/bucket1/codec_ms", step) in writer.scalars
    assert all(isinstance(value, int | float) for value in writer.scalars.values())


def test_the_timeline_has_every_bucket_of_every_step(tmp_path):
    model = make_model()
    handle = thinwire.torch.compress(model, "int4", chunks=2)
    train(model, range(2))
    path = tmp_path / f"rank{RANK}.json"
    with handle.trace(path):
        train(model, range(2, 5))
    train(model, range(5, 6))
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names == [f"rank {RANK}", "codec"]
    metrics = handle.metrics()
    begun = [event for event in events if event["ph"] == "b" and event["cat"] == "bucket"]
    assert len(begun) == 3 * len(metrics["buckets"])
    assert {event["args"]["elements"] for event in begun} == {
        bucket["elements"] for bucket in metrics["buckets"]
    }
    assert all(event["args"]["first"] and event["pid"] == RANK for event in begun)
    codec = [event for event in events if event["ph"] == "X"]
    stages = set() if ON_GPU else {"encode", "combine", "decode"}  # a GPU tells no stages
    assert {event["name"].split()[0] for event in codec} == stages
    assert all(event["dur"] >= 0 for event in codec)
    # One thread: stages do not overlap.
    codec.sort(key=lambda event: event["ts"])
    for a, b in pairwise(codec):
        assert a["ts"] + a["dur"] <= b["ts"] + 1e-3
    open_ids = set()
    for event in events:
        if event["ph"] in "be":
            (open_ids.add if event["ph"] == "b" else open_ids.remove)(event["id"])
    assert not open_ids
