"""bench/ddp_gpt2.py on two CPU ranks, and its parts."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def part(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return lambda name: importlib.import_module(f"gpt2.{name}")


def run(tmp_path, *arguments):
    """The program's (JSON, output)."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", BENCH / "ddp_gpt2.py", "--device", "cpu", "--size", "tiny"),
            *("--corpus-mb", "1", "--link-mb", "1", "-J", report, *arguments),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text()), done.stdout


def test_every_method_has_a_row_and_the_bytes_that_it_should(tmp_path, part):
    report, output = run(tmp_path, "--steps", "3")
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == part("methods").ALL
    assert all("not_here" not in row for row in rows.values()), output
    elements = report["size"]["parameters"]
    assert rows["ddp"]["sent_bytes"] == rows["thinwire:none"]["sent_bytes"] == 4 * elements
    assert rows["bf16"]["sent_bytes"] == 2 * elements
    sent = [rows[f"thinwire:{c}"]["sent_bytes"] for c in ("bf16", "int8", "int4", "sign")]
    assert sent == sorted(sent, reverse=True)
    assert rows["thinwire:sign"]["ratio"] > 20
    for method, row in rows.items():
        assert method in output
        assert ("codec" in row) and bool(row["codec"]) == method.startswith("thinwire")
        assert 0 < row["compute_ms"] <= row["predicted_ms"]
        assert row["tokens_per_second"] == pytest.approx(2 * 4 * 64 * 1e3 / row["step_ms"])


def test_without_thinwire_a_method_says_so(part, monkeypatch):
    methods, speed = part("methods"), part("speed")
    monkeypatch.setitem(sys.modules, "thinwire.torch", None)
    monkeypatch.setattr(speed, "slowest", lambda value, device: value)
    attached, reason = speed._try(lambda: methods.attach("thinwire:int4", None), None, None)
    assert attached is None
    assert reason.startswith("thinwire.torch cannot be imported")
    assert reason.endswith("pip install .")


def test_training_starts_alike_learns_and_counts_time(tmp_path):
    arguments = ("--train", "--steps", "40", "--seeds", "2", "--methods", "thinwire:sign")
    report, output = run(tmp_path, *arguments, "--target", "5.0")
    rows = {row["method"]: row for row in report["curves"]}
    assert list(rows) == ["ddp", "thinwire:sign"]
    for row in rows.values():
        assert len(row["runs"]) == 2
        for curve in row["runs"]:
            assert curve["loss"][0] > curve["loss"][-1] > 0
            assert curve["step"][-1] == 40
            assert curve["seconds"] == sorted(curve["seconds"])
        assert row["reached_target"] == "2/2"
        assert 0 < row["seconds_to_target"] <= curve["seconds"][-1] * 2
    # bf16 for 6 of the 40 steps: more than sign alone, much less than fp32.
    sent = [row["runs"][0]["sent_bytes"] for row in rows.values()]
    assert sent[0] / 12 < sent[1] < sent[0] / 8
    assert output.index("uncompressed: loss") < output.index("thinwire:sign, seed")
    assert "plot: " in output or "no plot: matplotlib" in output


def test_the_model_is_gpt2(part):
    model = part("model")
    with torch.device("meta"):
        gpt2 = model.GPT2(model.SIZES["124M"])
    assert (
        sum(p.numel() for p in gpt2.parameters()) == 124_475_904 == 124_439_808 + 47 * 768
    )  # padded
    assert model.embedding_share(gpt2) == pytest.approx(39.38e6 / 124.44e6, rel=1e-3)


def test_the_model_sees_no_later_token(part):
    model = part("model")
    torch.manual_seed(0)
    gpt2 = model.GPT2(model.SIZES["tiny"])
    tokens = torch.randint(0, 256, (1, 16))
    later = tokens.clone()
    later[0, 8:] = (later[0, 8:] + 1) % 256
    ignored = torch.full((1, 8), -100)
    targets = torch.cat([tokens[:, 1:9], ignored], 1)
    assert torch.equal(gpt2(tokens, targets), gpt2(later, targets))


def test_the_text_is_source_and_parts_do_not_meet(part):
    text = part("text").Text(0.5)
    generator = torch.Generator().manual_seed(0)
    tokens, targets = text.batch("train", generator, 2, 100)
    assert tokens.shape == targets.shape == (2, 100)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    assert b"import" in bytes(text._parts["train"].tolist())
    assert len(text._parts["train"]) + len(text._parts["valid"]) == text.bytes == 500_000


def test_a_prediction_by_hand(part):
    link = part("link").Link(gigabits=1.0, latency_us=1000.0)
    # 1 MB takes 8 ms. Behind 30 ms of compute only the last half shows; 10 MB hide nothing more.
    assert link.predicted_ms(30.0, 1_000_000, 0.5) == pytest.approx(30 + 4 + 1)
    assert link.predicted_ms(30.0, 10_000_000, 0.5) == pytest.approx(10 + 80 + 1)


def test_powersgds_bytes_by_hand(part):
    elements = part("methods")._low_rank_elements
    assert elements(torch.nn.Parameter(torch.zeros(100, 50)), 4) == 150 * 4
    assert elements(torch.nn.Parameter(torch.zeros(6, 6)), 2) == 36
    assert elements(torch.nn.Parameter(torch.zeros(70)), 1) == 70


def test_an_earlier_report_is_gone_on_with(tmp_path, part):
    model = part("model")
    size = model.SIZES["tiny"]
    elements = sum(p.numel() for p in model.GPT2(size).parameters())
    old = {"seed": 0, "step": [4], "seconds": [1.0], "loss": [5.0], "sent_bytes": 1}
    report = {
        "ranks": 2,
        "size": {"name": "tiny", "parameters": elements, **dataclasses.asdict(size)},
        "steps": 4,
        "text_bytes": 1_000_000,
        "curves": [{"method": "ddp", "runs": [old]}],
    }
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(report))
    arguments = ("--train", "--steps", "4", "--seeds", "1", "--methods", "bf16")
    later, output = run(tmp_path, *arguments, "--resume", earlier)
    assert [row["method"] for row in later["curves"]] == ["ddp", "bf16"]
    assert later["curves"][0]["runs"] == [old]
    assert "bf16, seed 0" in output
    assert "ddp, seed" not in output


def test_training_ends_with_its_budget(part, monkeypatch):
    curves = part("curves")
    monkeypatch.setattr(curves, "slowest", lambda value, device: value)
    monkeypatch.setattr(curves, "_run", lambda method, seed, *_: {"seed": seed})
    runs = curves.Runs(["ddp", "a"], 2)
    seen = []

    def after_run(method, run):
        seen.append((method, run["seed"]))
        if len(seen) == 3:
            monkeypatch.setattr(curves, "slowest", lambda value, device: 99.0)

    assert not curves.train(runs, None, None, None, 1, 10.0, after_run)
    assert seen == [("ddp", 0), ("ddp", 1), ("a", 0)]
    assert runs.missing() == [("a", 1)]
    assert curves.train(runs, None, None, None, 1, 100.0, lambda *_: None)


def test_runs_come_seed_by_seed_after_the_uncompressed(part):
    runs = part("curves").Runs(["ddp", "a", "b"], 2)
    assert runs.missing() == [
        *(("ddp", 0), ("ddp", 1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)),
    ]
    runs.take([{"method": "a", "runs": [{"seed": 0, "loss": [2.0, 1.0]}]}, {"method": "old"}])
    runs.not_here["b"] = "no"
    assert runs.missing() == [("ddp", 0), ("ddp", 1), ("a", 1)]
    assert [row["method"] for row in runs.rows()] == ["a", "b"]
