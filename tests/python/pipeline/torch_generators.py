#!/usr/bin/env python3
"""Our schedules against torch's own generators, cell for cell, and torch's files through our reader.

Usage: torch_generators.py THINWIRE_PIPELINE [--full]; --full goes to p = 16, m = 64, v = 4.
"""

import logging
import pathlib
import subprocess
import sys
import tempfile

from torch.distributed.pipelining import schedules as torch_schedules
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime as Runtime

logging.disable(logging.WARNING)
LOWER = Runtime._prepare_schedule_with_comms
TORCH = {
    "gpipe": torch_schedules.ScheduleGPipe,
    "1f1b": torch_schedules.Schedule1F1B,
    "interleaved": torch_schedules.ScheduleInterleaved1F1B,
    "zb1p": torch_schedules.ScheduleInterleavedZeroBubble,
    "zbv": torch_schedules.ScheduleZBVZeroBubble,
    "dualpipev": torch_schedules.ScheduleDualPipeV,
}
CHUNKS = {"interleaved": (2, 3, 4), "zbv": (2,), "dualpipev": (2,)}


class Stage:
    """As much of a stage as a schedule looks at while it is made."""

    def __init__(self, index, ranks, stages):
        self.stage_index, self.group_size, self.num_stages = index, ranks, stages
        self.group_rank, self.submod, self.has_backward = 0, None, True
        self.is_first, self.is_last = index == 0, index == stages - 1


def torch_schedule(name, p, m, v):
    """torch's schedule object, or None where torch refuses (p, m, v)."""
    stages = [Stage(chunk * p, p, p * v) for chunk in range(v)]
    try:
        return TORCH[name](stages[0] if name in ("gpipe", "1f1b") else stages, m, lambda *_: None)
    except (ValueError, AssertionError):
        return None


def cells(order):
    """Compute cells as text, without idle ones (torch adds REDUCE_GRAD to two of its schedules)."""
    return [[str(a) for a in order[rank] if a is not None and a.is_compute_op] for rank in sorted(order)]


def mend_1f1b(rows):
    """torch 2.11 numbers the last rank's forwards of its printed 1F1B from 1; its runtime does not."""
    last = [action for action in rows[-1] if "F" in action]
    assert last and last[0].endswith("F1"), last
    rows[-1] = [f"{a.split('F')[0]}F{int(a.split('F')[1]) - 1}" if "F" in a else a for a in rows[-1]]
    return rows


class Tool:
    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments, expect=0):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def rows(text):
    return [[cell for cell in row.split(",") if cell] for row in text.splitlines()]


def compare_generators(tool, sizes):
    """Every size; lowering is switched off in torch, where it is the slow part."""
    Runtime._prepare_schedule_with_comms = lambda *_, **__: None
    compared = refused = 0
    for p, m in sizes:
        for name in TORCH:
            for v in CHUNKS.get(name, (1,)):
                theirs = torch_schedule(name, p, m, v)
                if theirs is None:
                    refused += 1
                    continue
                ours = tool("generate", name, "-p", p, "-m", m, "-v", v, "--format", "csv")
                expected = cells(theirs.pipeline_order)
                expected = mend_1f1b(expected) if name == "1f1b" else expected
                assert rows(ours) == expected, f"{name} p={p} m={m} v={v}"
                compared += 1
    Runtime._prepare_schedule_with_comms = LOWER
    print(f"{compared} schedules equal torch's; torch refuses {refused} sizes")


def compare_lowering(tool):
    """Sends and receives stand where torch's own pass puts them (which adds UNSHARD and RESHARD)."""
    for name, p, m, v in (("interleaved", 3, 6, 2), ("zb1p", 4, 6, 1), ("zbv", 3, 7, 2), ("dualpipev", 2, 6, 2)):
        schedule = torch_schedule(name, p, m, v)
        order = {r: [a for a in acts if a is not None] for r, acts in schedule.pipeline_order.items()}
        order = {r: torch_schedules._add_reduce_grad(acts, m) for r, acts in order.items()}
        home = schedule.stage_index_to_group_rank
        lowered = torch_schedules._add_send_recv(order, lambda s: home[s], p * v)
        ours = tool("generate", name, "-p", p, "-m", m, "-v", v, "--lower", "--format", "csv")
        assert rows(ours) == [[str(a) for a in lowered[r]] for r in sorted(lowered)], name
    print("sends and receives equal torch's")


def load_torch_files(tool, folder):
    """Both flavours of file as torch writes them are read, proved and simulated."""
    count = 0
    for name, p, m, v in (("interleaved", 4, 8, 2), ("zb1p", 4, 8, 1), ("zbv", 4, 8, 2), ("dualpipev", 4, 10, 2)):
        schedule = torch_schedule(name, p, m, v)
        ours = folder / f"{name}.txt"
        tool("generate", name, "-p", p, "-m", m, "-v", v, "-o", ours)
        for flavour in ("compute_only", "compute_comms"):
            theirs = folder / f"{name}_{flavour}.csv"
            schedule._dump_csv(theirs, format=flavour)
            assert tool("validate", theirs).startswith("valid"), theirs
            assert "step" in tool("simulate", theirs)
            count += 1
        tool("diff", ours, folder / f"{name}_compute_only.csv")
    print(f"{count} files written by torch are valid here")


def main():
    tool = Tool(sys.argv[1])
    if "--full" in sys.argv:
        sizes = [(p, m) for p in range(1, 17) for m in range(1, 65)]
    else:
        sizes = [(p, m) for p in range(1, 7) for m in range(1, 15)] + [(8, 16), (8, 33), (12, 24), (16, 64)]
    compare_generators(tool, sizes)
    compare_lowering(tool)
    with tempfile.TemporaryDirectory() as folder:
        load_torch_files(tool, pathlib.Path(folder))


if __name__ == "__main__":
    main()
