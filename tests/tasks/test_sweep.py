"""Sweeps: points equal separate runs, share random numbers, are kept, and go on after a stop."""

import json
from dataclasses import replace

import pytest

from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError, KnobError
from trimtab.evaluation.measure import KL, LENGTH, mean_score
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.rewards import FunctionReward, Length
from trimtab.tasks import sweep as module
from trimtab.tasks.baselines import Contestant
from trimtab.tasks.contest import Conditions, contest
from trimtab.tasks.load import load_task
from trimtab.tasks.sweep import Points, frontier, sweep, tabulated

BASE = Table.of({"": {"good": 0.5, "bad": 0.5}}, name="base")
GUIDE = Table.of({"": {"good": 0.9, "bad": 0.1}}, name="guide")
STEERED = BASE * GUIDE ** Knob("w", 1.0, min=0, max=3)
JUDGE = FunctionReward(lambda completions, **_: [float(text.split().count("good")) for text in completions], "goods")
TASK = replace(load_task("sentiment"), measures=lambda judges: (*map(mean_score, judges), KL, LENGTH))
ROWS = [{"prompt": "good"}, {"prompt": "bad"}, {"prompt": "good"}] * 4
CONDITIONS = Conditions(ROWS, Length(2), [JUDGE], Settings(max_new_tokens=3, seed=3), 2, {})
POLICIES = {"base": BASE, "steered": STEERED}
AXES = {"w": [0.0, 0.5, 2.0]}


def run(tmp_path, name="points.jsonl", **changes):
    arguments = {"policies": POLICIES, "axes": AXES, "conditions": CONDITIONS} | changes
    kept = Points(tmp_path / name, {"seed": 3})
    return sweep(TASK, kept=kept, **arguments)


def test_a_point_is_what_a_contest_at_its_knobs_measures(tmp_path):
    points = run(tmp_path)
    assert [each.name for each in points] == ["base", "steered (w=0)", "steered (w=0.5)", "steered (w=2)"]
    table = tabulated(TASK, ["goods"], points)
    for w in (0.5, 2.0):
        alone = contest(
            TASK, {"base": Contestant(BASE), "steered": Contestant(STEERED)}, replace(CONDITIONS, knobs={"w": w})
        )
        (line,) = [each for each in table.lines if each.name == f"steered (w={w:g})"]
        for name, expected in alone.table.lines[1].numbers.items():
            assert line.numbers[name].mean == pytest.approx(expected.mean, abs=1e-6)


def test_exponent_0_gives_the_very_answers_of_the_base(tmp_path):
    base, zero = run(tmp_path)[:2]
    assert base.tallies == zero.tallies


def test_how_many_points_share_a_batch_changes_nothing(tmp_path, monkeypatch):
    together = run(tmp_path)
    monkeypatch.setattr(module, "ROWS", 1)
    assert [each.tallies for each in run(tmp_path, "apart.jsonl")] == [each.tallies for each in together]


def test_a_sweep_that_was_stopped_goes_on(tmp_path, monkeypatch):
    whole = run(tmp_path, "whole.jsonl")
    path = tmp_path / "points.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote the third point
    told = []
    found = run(tmp_path, progress=told.append)
    assert told == ["steered: 2 of 2 points"]
    assert [(each.name, json.loads(json.dumps(each.tallies))) for each in found] == [
        (each.name, json.loads(json.dumps(each.tallies))) for each in whole
    ]
    told.clear()
    monkeypatch.setattr(module, "decode", None)  # nothing is sampled again
    run(tmp_path, progress=told.append)
    assert told == []


def test_a_folder_of_another_sweep_and_a_damaged_one_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="another seed"):
        Points(tmp_path / "points.jsonl", {"seed": 4})
    (tmp_path / "points.jsonl").write_text("no json\n")
    with pytest.raises(ConfigError, match="damaged"):
        Points(tmp_path / "points.jsonl", {"seed": 3})


def test_knobs_that_no_policy_has_and_values_out_of_range_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'v'"):
        run(tmp_path, axes={"v": [1.0]})
    with pytest.raises(KnobError):
        run(tmp_path, axes={"w": [5.0]})


def test_the_frontier_is_over_the_kl_that_was_measured(tmp_path):
    points = run(tmp_path)
    table = tabulated(TASK, ["goods"], points)
    found = frontier(table, points, "goods")
    assert [each.label for each in found] == ["", "w=0", "w=0.5", "w=2"]
    assert found[0].kl == found[1].kl == 0.0 < found[2].kl < found[3].kl
    assert found[3].score == table.lines[3].numbers["goods"]
