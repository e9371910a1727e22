"""Coefficients are found on models whose best point is known; points in a batch are models of their own."""

import json
from dataclasses import replace

import pytest
import torch

from trimtab.errors import ConfigError, KnobError
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.knob import Knob
from trimtab.testing import random_vector, tiny_lm
from trimtab.vectors.preference import Preference, Question, preferences, read_questions
from trimtab.vectors.search import Trials, by_grid, by_sampler, coarse_to_fine, grid

A, B = Knob("a", 0.0, -1, 1), Knob("b", 0.0, 0, 2)
QUESTIONS = [
    Question("x", (1, 2, 3), {"low": (4, 5), "high": (6,)}),
    Question("y", (7,), {"low": (8, 9, 10), "high": (1, 1)}),
    Question("x", (2,), {"low": (3,), "high": (5, 6, 7)}),
]


def test_points_in_one_batch_are_models_of_their_own():
    base = tiny_lm()
    one, two = random_vector(base, "one"), random_vector(base, "two", seed=4)
    points = [{"a": -0.5, "b": 1.5}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.25}]
    for tokens in (1, 13, 2048):
        found = preferences(base + A * one + B * two, QUESTIONS, points, tokens=tokens)
        for point, each in zip(points, found, strict=True):
            twin = replace(base, trunk=base.trunk.merged({one: point["a"], two: point["b"]}))
            leads = []
            for question in QUESTIONS:
                low, high = (
                    float(sequence_log_probs(twin, [question.prompt], [question.answers[level]])[0].mean())
                    for level in ("low", "high")
                )
                leads.append(low - high)
            assert each.leads["x"]["low"] == pytest.approx((leads[0] + leads[2]) / 2, abs=1e-4)
            assert each.leads["y"]["high"] == pytest.approx(-leads[1], abs=1e-4)
            assert each.shares["x"] == {
                "low": ((leads[0] > 0) + (leads[2] > 0)) / 2,
                "high": ((leads[0] < 0) + (leads[2] < 0)) / 2,
            }


def test_a_score_is_the_mean_share_and_leads_break_ties():
    found = Preference(
        {"x": {"low": 0.75, "high": 0.25}, "y": {"low": 0.5, "high": 0.5}},
        {"x": {"low": 0.3, "high": -0.3}, "y": {"low": 7.0, "high": -7.0}},
    )
    assert found.score({"x": "low", "y": "low"}) == pytest.approx(0.625 + 1e-3 * (0.3 + 1.0) / 2)
    assert found.reaches({"x": "low", "y": "high"}) and not found.reaches({"x": "high", "y": "high"})


def hill(points):
    """Preferences of a made-up model: "high" in x for a over 0.4, in y for b from 0.9 to 1.1 alone."""
    found = []
    for point in points:
        x, y = float(point["a"] > 0.4), max(0.0, 1.0 - abs(point["b"] - 1.0))
        leads = {"x": {"high": x - 0.5, "low": 0.5 - x}, "y": {"high": y - 0.9, "low": 0.9 - y}}
        shares = {"x": {"high": x, "low": 1 - x}, "y": {"high": float(y > 0.9), "low": float(y <= 0.9)}}
        found.append(Preference(shares, leads))
    return found


BOTH = {"x": "high", "y": "high"}
ALL = [{"x": x, "y": y} for x in ("low", "high") for y in ("low", "high")]


def trials(path, measure=hill):
    return Trials(path / "run" / "trials.jsonl", {"policy": "p"}, measure)


def test_grids():
    assert grid([A, B], 3)[:4] == [{"a": -1, "b": 0}, {"a": -1, "b": 1}, {"a": -1, "b": 2}, {"a": 0, "b": 0}]
    with pytest.raises(ConfigError, match="at least 2"):
        grid([A], 1)
    with pytest.raises(ConfigError, match="both ends"):
        grid([Knob("open")], 3)


@pytest.mark.parametrize(
    "run",
    [
        lambda known: by_grid(known, [A, B], steps=5),
        lambda known: coarse_to_fine(known, [A, B], ALL, steps=3, rounds=1),
        lambda known: by_sampler(known, [A, B], ALL, points=60, seed=0),
    ],
    ids=["grid", "fine", "sampler"],
)
def test_every_way_reaches_every_target(tmp_path, run):
    known = trials(tmp_path)
    run(known)
    for target in ALL:
        assert known.best(target).found.reaches(target)
    assert all(-1 <= trial.point["a"] <= 1 and 0 <= trial.point["b"] <= 2 for trial in known)


def test_fine_search_goes_between_the_points_of_the_grid(tmp_path):
    known = trials(tmp_path)
    coarse_to_fine(known, [A, replace(B, max=1.5)], [BOTH], steps=2, rounds=3)
    assert len(known) < 20 and known.best(BOTH).found.reaches(BOTH)


def test_of_equal_points_the_closest_to_the_base_is_chosen(tmp_path):
    known = trials(tmp_path)
    known.at([{"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 1.0}, {"a": 0.8, "b": 1.0}])
    assert known.best(BOTH).point == {"a": 0.5, "b": 1.0}


def test_what_was_measured_is_never_measured_again(tmp_path):
    seen = []

    def watched(points):
        seen.extend(points)
        return hill(points)

    first = Trials(tmp_path / "t.jsonl", {"policy": "p"}, watched, at_once=4)
    first.at(grid([A, B], 3)[:5])
    again = Trials(tmp_path / "t.jsonl", {"policy": "p"}, watched, at_once=4)
    by_grid(again, [A, B], steps=3)
    assert len(seen) == len(again) == 9
    assert {name: trial.found for name, trial in again._done.items()} == {
        tuple(sorted(point.items())): each for point, each in zip(seen, hill(seen), strict=True)
    }


def test_an_interrupted_search_keeps_what_it_had(tmp_path):
    def broken(points):
        if (tmp_path / "t.jsonl").read_text().count("\n") > 2:
            raise KeyboardInterrupt
        return hill(points)

    with pytest.raises(KeyboardInterrupt):
        Trials(tmp_path / "t.jsonl", {}, broken, at_once=2).at(grid([A, B], 3))
    assert len(Trials(tmp_path / "t.jsonl", {}, hill)) == 2


@pytest.mark.parametrize(
    ("text", "told"), [("{", "damaged"), ('{"about": {"policy": "q"}}\n', "another policy"), ("", "damaged")]
)
def test_files_of_other_searches(tmp_path, text, told):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=told):
        Trials(tmp_path / "t.jsonl", {"policy": "p"}, hill)


def line(**changes):
    return json.dumps({"domain": "x", "prompt": "t1 t2", "answers": {"low": "t3", "high": "t4 t5"}} | changes) + "\n"


def test_questions_are_read(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(line() + "\n" + line(domain="y", prompt="t0"))
    found = read_questions(path, tiny_lm().vocabulary)
    assert found[0] == Question("x", (1, 2), {"low": (3,), "high": (4, 5)}) and found[1].domain == "y"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no questions"),
        ("[]\n", "line 1"),
        (line(answers={"low": "t1"}), "line 1"),
        (line() + line(answers={"low": "t1", "other": "t2"}), "line 2"),
        (line(answers={"low": "", "high": "t2"}), "line 1"),
        (line(prompt=""), "line 1"),
        ('{"domain": "x"}\n', "line 1"),
    ],
)
def test_files_that_are_no_questions(tmp_path, text, told):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_questions(path, tiny_lm().vocabulary)


def test_points_out_of_range_are_refused():
    base = tiny_lm()
    with pytest.raises(KnobError, match="a=3"):
        preferences(base + A * random_vector(base), QUESTIONS, [{"a": 3.0}])


def test_at_zero_it_is_the_base():
    base = tiny_lm()
    with torch.no_grad():
        zero = preferences(base + A * random_vector(base), QUESTIONS, [{"a": 0.0}])
        assert zero == preferences(base, QUESTIONS, [{}])
