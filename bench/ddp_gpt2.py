#!/usr/bin/env python3
"""GPT-2 under DDP: torch's own hooks and thinwire's codecs in one run.

    torchrun --nproc-per-node 2 bench/ddp_gpt2.py --device cpu --size tiny
    launch/netlab --hosts 4 --rate 10gbit --gpus -- python3 bench/ddp_gpt2.py -J gpt2.json
    torchrun --nproc-per-node 2 bench/ddp_gpt2.py --device cpu --size tiny --train

Prints the measured link, then a line for each method: the step (with the optimizer), the same
compute without exchange, the share of the step that the exchange adds, what a rank sends in it and
how much less than fp32 that is, the step that the measured link predicts when codecs cost nothing,
and tokens a second of all ranks. Times are medians, of the slowest rank. With --train: loss curves
over seeds with the same hyper-parameters, the uncompressed first with its spread, and the seconds
to a target loss, warm-up counted; METHOD@adam is sign or top-k without the optimizer rule that they
need under Adam. --budget and --resume split a long --train over several jobs. The text is the
source of Python's standard library; nothing is downloaded.
"""

import argparse
import json
import platform
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
import torch_job
from gpt2 import curves, link, methods, speed
from gpt2.model import GPT2, SIZES
from gpt2.text import Text


def parse_arguments() -> argparse.Namespace:
    parser = torch_job.make_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--methods", help="separated by commas")
    parser.add_argument("--batch", type=int, help="sequences of a rank in a step")
    parser.add_argument("--steps", type=int, help="measured (20), or of training (2000)")
    parser.add_argument("--corpus-mb", type=float, default=13.0)
    parser.add_argument("--link-mb", type=int, help="message of the link's measurement")
    parser.add_argument("--train", action="store_true", help="loss curves instead of step times")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--resume", metavar="FILE", help="an earlier -J: its runs are not repeated")
    parser.add_argument("--target", type=float, help="loss to time; default: 1.01 x uncompressed")
    parser.add_argument("--plot", default="ddp_gpt2.png", help="where --train puts its picture")
    return torch_job.parse(parser)


def main() -> None:
    arguments = parse_arguments()
    device, say = torch_job.start(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    size = SIZES[arguments.size]
    if arguments.batch:
        size = replace(size, batch=arguments.batch)
    steps = arguments.steps or (2000 if arguments.train else 20)
    known = methods.TRAINED if arguments.train else methods.ALL
    names = arguments.methods.split(",") if arguments.methods else known
    text = Text(arguments.corpus_mb, device)

    elements = sum(parameter.numel() for parameter in GPT2(size).parameters())
    result: dict[str, Any] = {
        **torch_job.setting(device),
        "machine": platform.processor() or platform.machine(),
        "size": {"name": arguments.size, "parameters": elements, **asdict(size)},
        "steps": steps,
        "text_bytes": text.bytes,
    }
    say(
        f"GPT-2 {arguments.size}: {elements} parameters, {dist.get_world_size()} ranks on "
        f"{result['device']}, batch {size.batch} x {size.context} a rank, torch {torch.__version__}"
    )
    measured = link.measure(device, arguments.link_mb or (64 if device.type == "cuda" else 8))
    result["link"] = asdict(measured)
    say(
        f"link: {measured.gigabits:.2f} Gb/s (every rank to the next at once), "
        f"allreduce of one element {measured.latency_us:.0f} us"
    )
    if arguments.train:
        rows = _train(arguments, names, size, text, device, steps, result, say)
        say(curves.plot(rows, arguments.plot) if dist.get_rank() == 0 else "")
    else:
        rows = result["rows"] = []
        say(
            f"{'method':<18} {'step ms':>9} {'compute':>9} {'exposed':>8} {'sent MB':>9} "
            f"{'ratio':>7} {'predicted':>9} {'tokens/s':>10}"
        )
        for row in speed.measure(names, size, text, device, measured, steps):
            rows.append(row)
            say(_speed_line(row), flush=True)
    torch_job.write_report(result, arguments.json)
    torch_job.finish()


def _train(  # type: ignore[no-untyped-def]
    arguments, names, size, text, device, steps, result, say
) -> list[dict[str, Any]]:
    runs = curves.Runs(["ddp", *(name for name in names if name != "ddp")], arguments.seeds)
    if arguments.resume:
        with open(arguments.resume, encoding="utf-8") as file:
            earlier = json.load(file)
        for key in ("ranks", "size", "steps", "text_bytes"):
            if earlier[key] != result[key]:
                raise SystemExit(f"--resume: {key} was {earlier[key]}, and is {result[key]}")
        runs.take(earlier["curves"])

    def after_run(method: str, run: dict[str, Any]) -> None:
        say(f"{method}, seed {run['seed']}: {run['loss'][-1]:.4f} in {run['seconds'][-1]:.0f} s")
        if method == "ddp" and len(runs.done["ddp"]) == arguments.seeds:
            row = runs.rows()[0]
            say(
                f"uncompressed: loss {row['final_loss']:.4f} after {steps} steps, spread of "
                f"{arguments.seeds} seeds {100 * row['spread']:.2f} %",
                flush=True,
            )
        result["curves"] = runs.rows()
        # Each time, so that a job that is cut off has what it has done.
        torch_job.write_report(result, arguments.json)

    if not curves.train(runs, size, text, device, steps, arguments.budget, after_run):
        left = ", ".join(f"{method} {seed}" for method, seed in runs.missing())
        say(f"the budget is used up; left (--resume goes on with them): {left}")
    rows = result["curves"] = runs.rows()
    if not rows:
        return rows
    target = curves.compare(rows, arguments.target)
    say(
        f"{'method':<24} {'loss':>8} {'gap':>8} {'spread':>8} {'sent MB':>9} {'s to ':>5}"
        f"{target:.4f}"
    )
    for row in rows:
        say(_curve_line(row))
    return rows


def _speed_line(row: dict[str, Any]) -> str:
    if "not_here" in row:
        return f"{row['method']:<18} not here: {row['not_here']}"
    method = row["method"].replace("auto", f"auto={row['codec']}")
    return (
        f"{method:<18} {row['step_ms']:>9.2f} {row['compute_ms']:>9.2f} "
        f"{100 * row['exposed']:>7.1f}% {row['sent_bytes'] / 1e6:>9.3f} {row['ratio']:>7.1f} "
        f"{row['predicted_ms']:>9.2f} {row['tokens_per_second']:>10.0f}"
    )


def _curve_line(row: dict[str, Any]) -> str:
    if "not_here" in row:
        return f"{row['method']:<24} not here: {row['not_here']}"
    seconds = row["seconds_to_target"]
    return (
        f"{row['method']:<24} {row['final_loss']:>8.4f} {100 * row['gap']:>+7.2f}% "
        f"{100 * row['spread']:>7.2f}% {row['runs'][0]['sent_bytes'] / 1e6:>9.1f} "
        f"{'never' if seconds is None else f'{seconds:.1f}':>7} ({row['reached_target']} runs)"
    )


if __name__ == "__main__":
    main()
