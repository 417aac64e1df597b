#!/usr/bin/env python3
"""What codecs and optimizer rules do to the loss, with all workers in one process.

    bench/loss_rules.py --runs none,int4,frozen,sign,sign+momentum --steps 1000 --device cuda

A laboratory for rules: torch alone, no exchange, the arithmetic of the codecs (docs/wire-format.md)
but for groups of zeros, in two phases with residuals on both sides. A GPT on the text of
ddp_gpt2.py, AdamW, cosine. A run is a codec (none, bf16, int4, sign, topk:DENSITY; or frozen:
no codec) and changes to it, joined by +:

    norule       the second moment goes on
    late         it is frozen after 30 % of the steps, not 15
    plain        embeddings are not coded
    white        gradients are coded divided by the root of the second moment
    floor        the second moment is at least 0.09 of its block's mean
    momentum     the first moment is coded after a worker's gradient has gone into it (1-bit Adam)
    bf16         until the switch gradients go as bf16, not int4
    refresh      every 16th step after it they do so again, without residuals, and the second
                 moment takes 16 steps of its decay at once

All but none, bf16, int4 and norule begin with int4 (or +bf16), and freeze Adam's second moment at
the switch.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from gpt2.model import GPT2, SIZES, Size
from gpt2.text import Text
from torch import Tensor

BLOCK = 1024  # every parameter begins a new one, as on the wire
CHANGES = {"norule", "late", "plain", "white", "floor", "momentum", "bf16", "refresh"}
REFRESH = 16
Codec = Callable[[Tensor], Tensor]
"""What a decoder makes of [blocks, BLOCK] numbers."""


class Layout:
    """Parameters in one flat tensor of blocks."""

    def __init__(self, named: list[tuple[str, torch.nn.Parameter]], plain: tuple[str, ...]) -> None:
        self.shapes = [parameter.shape for _, parameter in named]
        blocks = [-(-shape.numel() // BLOCK) for shape in self.shapes]
        self.starts = [BLOCK * sum(blocks[:i]) for i in range(len(blocks))]
        self.size = BLOCK * sum(blocks)
        device = named[0][1].device
        self.exists = self.pack([torch.ones_like(parameter) for _, parameter in named])
        self.elements = self.exists.sum(1, keepdim=True)
        travels_plain = [p.dim() <= 1 or name.startswith(plain) for name, p in named]
        self.plain = torch.tensor(travels_plain, device=device).repeat_interleave(
            torch.tensor(blocks, device=device)
        )[:, None]

    def pack(self, tensors: list[Tensor]) -> Tensor:
        flat = torch.zeros(self.size, device=tensors[0].device)
        for tensor, start in zip(tensors, self.starts, strict=True):
            flat[start : start + tensor.numel()] = tensor.detach().flatten()
        return flat.view(-1, BLOCK)

    def unpack(self, blocks: Tensor) -> list[Tensor]:
        flat = blocks.view(-1)
        return [
            flat[start : start + shape.numel()].view(shape)
            for shape, start in zip(self.shapes, self.starts, strict=True)
        ]


def codec_of(name: str, layout: Layout) -> Codec:
    kind, _, density = name.partition(":")
    if kind == "sign":

        def sign(x: Tensor) -> Tensor:
            scale = (x.abs().sum(1, keepdim=True) / layout.elements).bfloat16().float()
            return torch.where(x < 0, -scale, scale) * layout.exists

        return sign
    if kind == "bf16":
        return lambda x: x.bfloat16().float()
    if kind == "int4":

        def int4(x: Tensor) -> Tensor:
            rows = x.view(-1, 128)
            most = rows.abs().amax(1, keepdim=True)
            codes = (rows * (7 / most.clamp_min(1e-38))).round().clamp(-7, 7)
            return torch.where(most < 2**-100, 0.0, codes * (most / 7)).view(-1, BLOCK)

        return int4
    if kind == "topk":

        def topk(x: Tensor) -> Tensor:
            flat = x.flatten()
            count = max(1, int(float(density) * int(layout.elements.sum()) + 0.5))
            kept = flat.abs().topk(count).indices
            result = torch.zeros_like(flat)
            result[kept] = flat[kept].bfloat16().float()
            return result.view(-1, BLOCK)

        return topk
    raise SystemExit(f"no codec '{name}': none, frozen, bf16, int4, sign or topk:DENSITY")


class Exchange:
    """Two phases, in which every worker and the owner remember what they left out."""

    def __init__(self, layout: Layout, workers: int) -> None:
        self.layout = layout
        self.worker = [torch.zeros_like(layout.exists) for _ in range(workers)]
        self.server = torch.zeros_like(layout.exists)

    def mean(self, codec: Codec, values: list[Tensor]) -> Tensor:
        plain = self.layout.plain
        total = torch.zeros_like(self.server)
        for number, value in enumerate(values):
            x = value + self.worker[number]
            sent = codec(x)
            self.worker[number] = torch.where(plain, self.worker[number], x - sent)
            total += sent
        y = total / len(values) + self.server
        sent = codec(y)
        self.server = torch.where(plain, self.server, y - sent)
        return torch.where(plain, sum(values) / len(values), sent)

    def mean_alone(self, codec: Codec, values: list[Tensor]) -> Tensor:
        """Residuals neither go out nor take anything up."""
        plain = self.layout.plain
        mean = torch.stack([torch.where(plain, x, codec(x)) for x in values]).mean(0)
        return torch.where(plain, mean, codec(mean))

    def scale(self, factor: Tensor | float) -> None:
        self.worker = [residual * factor for residual in self.worker]
        self.server = self.server * factor


def losses(
    run: str, seed: int, size: Size, text: Text, device: torch.device, steps: int, workers: int
) -> list[float]:
    """The validation loss at each eighth of the training."""
    name, *changes = run.split("+")
    if unknown := set(changes) - CHANGES:
        raise SystemExit(f"no change '{unknown.pop()}': {', '.join(sorted(CHANGES))}")
    torch.manual_seed(seed)
    model = GPT2(size).to(device)
    named = list(model.named_parameters())
    layout = Layout(named, ("tokens", "positions") if "plain" in changes else ())
    parameters = [parameter for _, parameter in named]
    weights = layout.pack(parameters)
    for parameter, view in zip(parameters, layout.unpack(weights), strict=True):
        parameter.data = view
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    exchange = Exchange(layout, workers)
    rule = name not in ("none", "bf16", "int4") and "norule" not in changes
    warm_codec = codec_of("bf16" if "bf16" in changes else "int4", layout)
    codec = None if name in ("none", "frozen") else codec_of(name, layout)
    switch = max(1, round((0.3 if "late" in changes else 0.15) * steps))
    beta1, beta2, epsilon, decay = 0.9, 0.999, 1e-8, 1e-2
    generators = [torch.Generator().manual_seed(1000 * seed + w) for w in range(workers)]
    curve = []
    for step in range(1, steps + 1):
        gradients = []
        for generator in generators:
            batch = text.batch("train", generator, size.batch, size.context)
            loss = _loss(model, batch, device)
            gradients.append(layout.pack(list(torch.autograd.grad(loss, parameters))))
        switched = step > switch
        if step == switch + 1 and rule:
            second /= 1 - beta2**switch
            _fill_gaps(layout.unpack(second))
            if "floor" in changes:
                floor = 0.09 * second.sum(1, keepdim=True) / layout.elements
                second = torch.where(layout.plain, second, second.maximum(floor))
            if "white" in changes:
                exchange.scale(1 / (second.sqrt() + epsilon))
            if "momentum" in changes:
                exchange.scale(1 - beta1)
        refreshing = rule and "refresh" in changes and switched and step % REFRESH == 0
        coded = gradients
        if momentum := switched and not refreshing and "momentum" in changes:
            coded = [first.lerp(gradient, 1 - beta1) for gradient in gradients]
        if codec is None:
            gradient = torch.stack(gradients).mean(0)
        elif not switched:
            gradient = exchange.mean(warm_codec, gradients)
        elif refreshing:
            gradient = exchange.mean_alone(warm_codec, gradients)
        elif "white" in changes:
            root = second.sqrt() + epsilon
            gradient = root * exchange.mean(codec, [g / root for g in gradients])
        else:
            gradient = exchange.mean(codec, coded)
        first = gradient if momentum else first.lerp(gradient, 1 - beta1)
        if refreshing:
            second = (gradient * gradient).lerp(second, beta2**REFRESH)
        if rule and switched:
            root = second.sqrt()
        else:
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = (second / (1 - beta2**step)).sqrt()
        rate = size.learning_rate * _schedule(step, steps)
        weights.mul_(1 - rate * decay)
        weights.addcdiv_(first, root + epsilon, value=-rate / (1 - beta1**step))
        if step % max(1, steps // 8) == 0:
            curve.append(_validation_loss(model, size, text, device))
    return curve


def _loss(model: GPT2, batch: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss: Tensor = model(*(part.to(device) for part in batch))
    return loss


def _fill_gaps(second_moments: list[Tensor]) -> None:
    """As thinwire.torch.AdamW: an element that never had a gradient takes the others' mean."""
    for moment in second_moments:
        live = moment != 0
        moment.masked_fill_(~live, float(moment.sum() / live.sum().clamp_min(1)))


def _schedule(step: int, steps: int) -> float:
    warm_up = max(1, steps // 20)
    if step <= warm_up:
        return step / warm_up
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))


@torch.no_grad()
def _validation_loss(model: GPT2, size: Size, text: Text, device: torch.device) -> float:
    generator = torch.Generator().manual_seed(7)
    batches = [text.batch("valid", generator, size.batch, size.context) for _ in range(8)]
    return sum(_loss(model, batch, device).item() for batch in batches) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--runs", default="none,int4,frozen,sign", help="separated by commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, help="instead of the size's")
    parser.add_argument("-J", "--json", metavar="FILE", help="writes everything there")
    arguments = parser.parse_args()
    text = Text(13.0)
    size = SIZES[arguments.size]
    if arguments.learning_rate:
        size = replace(size, learning_rate=arguments.learning_rate)
    rows = []
    print(f"{'run':<24} {'seed':>4} {'final loss':>10} {'against first':>13} {'s':>6}")
    for seed in range(arguments.seeds):
        base = None
        for run in arguments.runs.split(","):
            begin = time.perf_counter()
            curve = losses(
                run,
                seed,
                size,
                text,
                torch.device(arguments.device),
                arguments.steps,
                arguments.workers,
            )
            seconds = time.perf_counter() - begin
            base = base or curve[-1]
            gap = 100 * (curve[-1] / base - 1)
            rows.append({"run": run, "seed": seed, "loss": curve, "seconds": seconds})
            print(
                f"{run:<24} {seed:>4} {curve[-1]:>10.4f} {gap:>12.2f}% {seconds:>6.0f}", flush=True
            )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(arguments), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
