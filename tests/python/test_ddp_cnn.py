"""bench/ddp_cnn.py on two CPU ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
DATA = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DATA.is_dir(), reason="no dataset-fashion-mnist here")
def test_every_method_learns_and_is_compared(tmp_path):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", BENCH / "ddp_cnn.py", "--device", "cpu"),
            *("--methods", "ddp,thinwire:sign", "--seeds", "1", "--epochs", "1"),
            *("--samples", "4000", "-J", report),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plain, sign = json.loads(report.read_text())["rows"]
    assert plain["points"] == 0.0
    assert sign["points"] == pytest.approx(sign["accuracy"] - plain["accuracy"])
    assert min(plain["accuracy"], sign["accuracy"]) > 30  # a tenth is chance
    # 31 steps of 2 ranks: the gradient once.
    assert plain["runs"][0]["sent_bytes"] == 31 * 4 * 421_642
    assert sign["runs"][0]["sent_bytes"] < plain["runs"][0]["sent_bytes"] / 20
    assert "thinwire:sign" in done.stdout
