#!/usr/bin/env python3
"""thinwire-pipeline from outside: every verb, the files they share, profiles written by Python and by
C++, and what bad input is told.

Usage: cli.py THINWIRE_PIPELINE SAMPLE_PROFILE, the second written by C++.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "pipeline" / "profiles"))
import thinwire_profile  # noqa: E402

TOOL = SAMPLE = None


class Verbs(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def run_tool(self, *arguments, expect=0):
        done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, f"{arguments}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def refusal(self, *arguments):
        return self.run_tool(*arguments, expect=2)

    def profile(self, **changes):
        """The sample profile, changed, in a file written by Python."""
        profile = thinwire_profile.load(SAMPLE)
        for name, value in changes.items():
            setattr(profile, name, value)
        path = self.folder / "profile.json"
        profile.save(path)
        return path

    def schedule(self, name, *arguments, file="schedule.txt"):
        path = self.folder / file
        self.run_tool("generate", name, *arguments, "-o", path)
        return path

    def test_list_names_all(self):
        text = self.run_tool("list")
        for name in ("gpipe", "1f1b", "interleaved", "zb1p", "zbv", "dualpipev", "greedy"):
            self.assertIn(name, text)

    def test_text_and_csv_are_the_same_schedule(self):
        text = self.schedule("zbv", "-p", 3, "-m", 5)
        csv = self.schedule("zbv", "-p", 3, "-m", 5, file="schedule.csv")
        self.assertEqual(self.run_tool("diff", text, csv), "equal\n")
        other = self.schedule("zbv", "-p", 3, "-m", 6, file="other.txt")
        self.assertIn("micro-batches: 5 and 6", self.run_tool("diff", text, other, expect=1))

    def test_validate_shows_the_cycle(self):
        path = self.folder / "stuck.csv"
        path.write_text("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")
        text = self.run_tool("validate", path, expect=1)
        self.assertIn("refused: deadlock", text)
        self.assertIn("rank 0, position 2, 0F1 waits for", text)

    def test_validate_reads_torchs_old_letters(self):
        path = self.folder / "old.csv"
        path.write_text("0F0,0BW0\n1F0,1B0,1W0\n")
        self.assertIn("valid", self.run_tool("validate", path, "--dialect", "torch-old"))
        self.assertIn("unknown kind 'BW'", self.refusal("validate", path))

    def test_simulate_agrees_with_the_closed_form(self):
        path = self.schedule("1f1b", "-p", 4, "-m", 8)
        self.assertIn("step 33", self.run_tool("simulate", path, "--units", "1,1,1"))
        report = json.loads(self.run_tool("simulate", path, "--json"))
        self.assertEqual(report["step_time"], (8 + 4 - 1) * 3)
        for rank in report["ranks"]:
            self.assertAlmostEqual(rank["busy"] + sum(rank["waits"].values()), report["step_time"])

    def test_partition_plan_simulate_and_draw_share_files(self):
        profile, plan = self.profile(), self.folder / "plan.json"
        text = self.run_tool("partition", "--profile", profile, "-p", 2, "-m", 4, "-o", plan)
        self.assertIn("the smallest there is", text)
        predicted = json.loads(plan.read_text())["step_time"]
        simulated = json.loads(self.run_tool("simulate", plan, "--profile", profile, "--json"))
        self.assertEqual(simulated["step_time"], predicted)

        text = self.run_tool("plan", "--profile", profile, "-p", 2, "-b", 8, "--schedule", "auto", "-o", plan)
        self.assertIn("taken: ", text)
        self.assertLessEqual(json.loads(plan.read_text())["step_time"], 2 * predicted)
        self.assertIn("valid", self.run_tool("validate", plan, "--profile", profile))
        picture, trace = self.folder / "plan.svg", self.folder / "trace.json"
        self.run_tool("draw", plan, "--profile", profile, "-o", picture)
        self.run_tool("draw", plan, "--profile", profile, "-o", trace)
        svg = xml.dom.minidom.parse(str(picture))
        cells = [r for r in svg.getElementsByTagName("rect") if r.getElementsByTagName("title")]
        self.assertGreater(len(cells), 16)
        events = json.loads(trace.read_text())["traceEvents"]
        self.assertIn("rank 1", [e["args"]["name"] for e in events if e["ph"] == "M"])

    def test_python_reads_what_it_wrote(self):
        path = self.profile(ranks=[thinwire_profile.Rank(2.0, 1e9)] * 2,
                            lanes=[thinwire_profile.Lane(0, 1, 1e-3, 0.0)])
        self.assertEqual(thinwire_profile.load(path), thinwire_profile.load(path))
        self.assertEqual(thinwire_profile.load(path).ranks[1].speed, 2.0)
        self.run_tool("plan", "--profile", path, "-p", 2, "-b", 4)

    def test_python_refuses_what_cplusplus_refuses(self):
        fields = json.loads(SAMPLE.read_text())
        for change in ({"version": 2}, {"format": "other"}, {"extra": 1}, {"replicas": float("nan")}):
            path = self.folder / "bad.json"
            path.write_text(json.dumps({**fields, **change}))
            with self.assertRaises(ValueError):
                thinwire_profile.load(path)
            self.refusal("plan", "--profile", path, "-p", 2, "-b", 4)

    def test_bad_input_names_rule_and_value(self):
        self.assertIn("m = 7 micro-batches on p = 4", self.refusal("generate", "dualpipev", "-p", 4, "-m", 7))
        self.assertIn("p = 0 ranks", self.refusal("generate", "1f1b", "-p", 0, "-m", 7))
        self.assertIn("unknown schedule 'x'", self.refusal("generate", "x", "-p", 4, "-m", 7))
        self.assertIn("cannot read", self.refusal("validate", self.folder / "nothing.txt"))
        schedule = self.schedule("1f1b", "-p", 2, "-m", 2)
        self.assertIn("forward is nan", self.refusal("simulate", schedule, "--units", "nan,1,1"))
        self.assertIn("forward is -1", self.refusal("simulate", schedule, "--units", "-1,1,1"))
        broken = self.folder / "broken.txt"
        broken.write_text(schedule.read_text().replace("1F0", "1Q0"))
        self.assertIn("unknown kind 'Q'", self.refusal("validate", broken))
        broken.write_text(schedule.read_text().replace("thinwire-schedule 1", "thinwire-schedule 3"))
        self.assertIn("version 3", self.refusal("validate", broken))
        profile = self.profile()
        self.assertIn("9 ranks need at least 9 layers", self.refusal("plan", "--profile", profile, "-p", 9, "-b", 4))
        self.assertIn("at least 9 layers", self.refusal("partition", "--profile", profile, "-p", 9))
        tight = self.profile(ranks=[thinwire_profile.Rank(1.0, 1e6)] * 2)
        self.assertIn("memory cap", self.refusal("partition", "--profile", tight, "-p", 2))
        self.assertIn("no schedule and split fits", self.refusal("plan", "--profile", tight, "-p", 2, "-b", 4))


if __name__ == "__main__":
    TOOL, SAMPLE = sys.argv[1], pathlib.Path(sys.argv[2])
    unittest.main(argv=sys.argv[:1])
