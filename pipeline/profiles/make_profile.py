#!/usr/bin/env python3
"""Measures the cost profiles that thinwire ships: per layer F, I and W of real GPT models.

    python3 pipeline/profiles/make_profile.py --out pipeline/profiles

Needs PyTorch; takes a minute on one GPU. A layer is the smallest piece that can move between stages:
the embedding, one transformer block, the head with the loss. Blocks are alike, so one is measured.

F is a forward pass that keeps what backward needs. I is a backward pass for the input alone, B one
for input and parameters, W = B - I: what splitting the backward can defer. Each is the median of
repeated runs at several batch sizes, fitted to fixed + per_sample by least squares.
"""

import argparse
import dataclasses
import datetime
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from thinwire_profile import Layer, Linear, Link, Profile


@dataclasses.dataclass
class Model:
    name: str
    layers: int
    hidden: int
    heads: int
    sequence: int
    vocabulary: int


MODELS = {
    "gpt2-124m": Model("GPT-2 124M", 12, 768, 12, 1024, 50304),
    "gpt-24": Model("GPT, 24 layers of 1024", 24, 1024, 16, 1024, 50304),
    "tiny": Model("a tiny GPT to try this script", 2, 64, 2, 32, 256),
}


class Embedding(torch.nn.Module):
    def __init__(self, m):
        super().__init__()
        self.tokens = torch.nn.Embedding(m.vocabulary, m.hidden)
        self.positions = torch.nn.Embedding(m.sequence, m.hidden)

    def forward(self, x):
        return self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))


class Block(torch.nn.Module):
    def __init__(self, m):
        super().__init__()
        self.heads = m.heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(m.hidden), torch.nn.LayerNorm(m.hidden)
        self.qkv, self.out = torch.nn.Linear(m.hidden, 3 * m.hidden), torch.nn.Linear(m.hidden, m.hidden)
        self.up, self.down = torch.nn.Linear(m.hidden, 4 * m.hidden), torch.nn.Linear(4 * m.hidden, m.hidden)

    def forward(self, x):
        b, t, h = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, h))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Head(torch.nn.Module):
    """Final norm, projection to the vocabulary and the loss."""

    def __init__(self, m):
        super().__init__()
        self.norm, self.project = torch.nn.LayerNorm(m.hidden), torch.nn.Linear(m.hidden, m.vocabulary, bias=False)

    def forward(self, x, targets):
        return F.cross_entropy(self.project(self.norm(x)).flatten(0, 1), targets.flatten())


class Bench:
    def __init__(self, device, dtype, repeats):
        self.device, self.dtype, self.repeats = device, dtype, repeats

    def seconds(self, run):
        """Median time of one run; on a GPU of queued runs, so that launches overlap as in training."""
        inner = 10 if self.device.type == "cuda" else 1
        times = []
        for trial in range(self.repeats + 2):
            if self.device.type == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(inner):
                    run()
                end.record()
                end.synchronize()
                elapsed = start.elapsed_time(end) * 1e-3
            else:
                begin = time.perf_counter()
                run()
                elapsed = time.perf_counter() - begin
            if trial >= 2:
                times.append(elapsed / inner)
        return statistics.median(times)

    def measure(self, module, inputs):
        """Seconds of F, I and W on these inputs."""
        x = inputs[0]
        parameters = list(module.parameters())
        output = module(*inputs)
        gradient = torch.ones_like(output)

        def backward(wanted):
            torch.autograd.grad(output, wanted, gradient, retain_graph=True)

        forward = self.seconds(lambda: module(*inputs))
        whole = self.seconds(lambda: backward(parameters + ([x] if x.requires_grad else [])))
        split = self.seconds(lambda: backward([x])) if x.requires_grad else 0.0
        return forward, split, max(0.0, whole - split)


def fit(sizes, times):
    """Least squares of fixed + size * per_sample, neither below zero."""
    mean_size, mean_time = statistics.fmean(sizes), statistics.fmean(times)
    spread = sum((s - mean_size) ** 2 for s in sizes)
    slope = sum((s - mean_size) * (t - mean_time) for s, t in zip(sizes, times)) / spread
    slope = max(slope, 0.0)
    fixed = mean_time - slope * mean_size
    if fixed < 0:
        fixed, slope = 0.0, sum(s * t for s, t in zip(sizes, times)) / sum(s * s for s in sizes)
    return Linear(fixed, slope)


def saved_bytes(module, inputs):
    """Bytes that backward keeps from a forward pass, parameters apart; a shared storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    del output
    return sum(kept.values())


def weight_bytes(module, inputs):
    """Bytes that W needs after I: inputs and output gradients of every submodule with parameters."""
    kept = {}

    def hook(_, arguments, output):
        for tensor in (*arguments, output):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()

    owners = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    handles = [m.register_forward_hook(hook) for m in owners]
    output = module(*inputs)  # keeps every tensor alive, so that addresses are distinct
    for handle in handles:
        handle.remove()
    del output
    return sum(kept.values())


def profile_layer(bench, name, module, make_inputs, sizes):
    module = module.to(bench.device, bench.dtype)
    times = [bench.measure(module, make_inputs(size)) for size in sizes]
    big = max(sizes)
    inputs = make_inputs(big)
    output = module(*inputs)
    count = sum(p.numel() for p in module.parameters())
    masters = [torch.zeros(count, device=bench.device, requires_grad=True)]
    masters[0].grad = torch.zeros_like(masters[0])
    adam = torch.optim.AdamW(masters, fused=bench.device.type == "cuda")
    layer = Layer(
        name=name,
        forward=fit(sizes, [t[0] for t in times]),
        input_gradient=fit(sizes, [t[1] for t in times]),
        weight_gradient=fit(sizes, [t[2] for t in times]),
        optimizer_seconds=bench.seconds(adam.step),
        activation_bytes=saved_bytes(module, inputs) / big,
        weight_activation_bytes=weight_bytes(module, inputs) / big,
        output_bytes=output.numel() * output.element_size() / big if output.dim() else 0,
        parameter_bytes=count * inputs_element_size(bench.dtype),
        optimizer_bytes=count * (inputs_element_size(bench.dtype) + 3 * 4),
    )
    for kind in ("forward", "input_gradient", "weight_gradient"):
        cost = getattr(layer, kind)
        print(f"  {name:10} {kind:16} {cost.fixed * 1e6:9.1f} us + {cost.per_sample * 1e6:9.1f} us a sample")
    return layer


def inputs_element_size(dtype):
    return torch.empty(0, dtype=dtype).element_size()


def measure_link(bench):
    """A message between two GPUs, or with one GPU through pinned host memory and back."""
    if bench.device.type != "cuda":
        return Link(), "none"
    sizes, times = [1 << p for p in range(12, 27, 2)], []
    peer = torch.device("cuda", 1) if torch.cuda.device_count() > 1 else None
    for size in sizes:
        source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
        middle = torch.zeros(size, dtype=torch.uint8, device=peer) if peer else torch.zeros(size, dtype=torch.uint8).pin_memory()
        target = torch.empty_like(source)

        def send():
            middle.copy_(source, non_blocking=True)
            if not peer:
                target.copy_(middle, non_blocking=True)

        times.append(bench.seconds(send))
    # The smallest message gives alpha, the largest what is left for each byte.
    alpha = times[0]
    return Link(alpha, max(0.0, times[-1] - alpha) / sizes[-1]), "device to device" if peer else "through pinned host memory"


def make(key, bench, sizes):
    m = MODELS[key]
    print(f"{m.name}: {m.layers} blocks, hidden {m.hidden}, sequence {m.sequence}, batch sizes {sizes}")

    def tokens(size):
        return torch.randint(m.vocabulary, (size, m.sequence), device=bench.device)

    def hidden(size):
        return torch.randn(size, m.sequence, m.hidden, device=bench.device, dtype=bench.dtype, requires_grad=True)

    embedding = profile_layer(bench, "embedding", Embedding(m), lambda b: (tokens(b),), sizes)
    block = profile_layer(bench, "block", Block(m), lambda b: (hidden(b),), sizes)
    head = profile_layer(bench, "head", Head(m), lambda b: (hidden(b), tokens(b)), sizes)
    blocks = [dataclasses.replace(block, name=f"block {i}") for i in range(m.layers)]
    link, path = measure_link(bench)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or platform.machine()
    return Profile(
        model=m.name,
        machine=f"{name}, PyTorch {torch.__version__}, {datetime.date.today().isoformat()}; link {path}",
        dtype=str(bench.dtype).removeprefix("torch."),
        made_by="pipeline/profiles/make_profile.py",
        sizes={"hidden": m.hidden, "heads": m.heads, "sequence": m.sequence, "vocabulary": m.vocabulary},
        layers=[embedding, *blocks, head],
        link=link,
        reduce_link=link,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=".", help="folder of the files")
    parser.add_argument("--models", default="gpt2-124m,gpt-24", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--sizes", default="1,2,4,8", help="batch sizes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    bench = Bench(device, torch.bfloat16 if device.type == "cuda" else torch.float32, options.repeats)
    sizes = [int(size) for size in options.sizes.split(",")]
    for key in options.models.split(","):
        path = f"{options.out}/{key}.json"
        make(key, bench, sizes).save(path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
