"""The laboratory for optimizer rules, for a few steps of each kind."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "loss_rules.py"
RUNS = ["none", "sign+momentum", "topk:0.01+norule"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--workers", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_kind_of_run_has_a_row(tmp_path):
    file = tmp_path / "rows.json"
    done = run("--steps", "16", "--runs", ",".join(RUNS), "-J", str(file))
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["run"] for row in rows] == RUNS
    assert all(len(row["loss"]) == 8 and math.isfinite(row["loss"][-1]) for row in rows)
    assert len({row["loss"][-1] for row in rows}) == len(RUNS)


@pytest.mark.parametrize(("runs", "words"), [("sine", "no codec"), ("sign+luck", "no change")])
def test_unknown_runs_are_refused_by_name(runs, words):
    done = run("--steps", "1", "--runs", runs)
    assert done.returncode != 0
    assert words in done.stderr
