"""Numbers of the experiment with preference vectors, from measurements written by hand."""

import pytest

from trimtab.evaluation.level_results import Attempt, Curves, Measured, Speed, Way, leakage
from trimtab.evaluation.levels_charts import draw_combinations, draw_curves
from trimtab.vectors.preference import Preference

LEVELS = ("expert", "generic", "avoidance")


def found(**shares):
    """Return preferences from three shares a domain."""
    named = {domain: dict(zip(LEVELS, each, strict=True)) for domain, each in shares.items()}
    return Preference(named, {domain: dict.fromkeys(LEVELS, 0.0) for domain in named})


BASE = found(medical=(0.2, 0.5, 0.3), legal=(0.0, 1.0, 0.0))
CURVES = Curves(
    points={
        "medical": (
            Measured(at={"medical": -1.0, "legal": 0.0}, found=found(medical=(0, 0, 1), legal=(0, 0.5, 0.5))),
            Measured(at={"medical": 0.0, "legal": 0.0}, found=BASE),
            Measured(at={"medical": 1.0, "legal": 0.0}, found=found(medical=(1, 0, 0), legal=(0.25, 0.75, 0))),
        ),
        "legal": (
            Measured(at={"medical": 0.0, "legal": 0.0}, found=BASE),
            Measured(at={"medical": 0.0, "legal": 1.0}, found=found(medical=(0.1, 0.9, 0), legal=(0.5, 0.5, 0))),
        ),
    },
    seconds=1.0,
)


def test_leakage_is_what_a_vector_changes_elsewhere():
    changes = leakage(CURVES, 1.0, "expert")
    assert changes["medical"] == pytest.approx({"medical": 0.8, "legal": 0.25})
    assert changes["legal"] == pytest.approx({"medical": -0.1, "legal": 0.5})
    assert CURVES.base() == BASE


def test_an_attempt_is_judged_by_all_its_domains():
    target = {"medical": "expert", "legal": "generic"}
    # 0.4 is less than 0.5 in the medical domain, so it is not reached; the accuracy is (0.4 + 1) / 2.
    missed = Attempt(target=target, at={}, found=found(medical=(0.4, 0.5, 0.1), legal=(0, 1, 0)))
    assert not missed.reached and missed.accuracy == pytest.approx(0.7)
    tie = Attempt(target=target, at={}, found=found(medical=(0.5, 0.5, 0), legal=(0, 1, 0)))
    assert tie.reached
    way = Way(attempts=(missed, tie), preparing=0, measuring=0, prompt_tokens=7)
    assert way.reached == 1 and way.accuracy == pytest.approx((0.7 + 0.75) / 2)


def test_speed_compares_all_of_the_slow_manner():
    assert Speed(points=3, together=2.0, merging=5.0, reloading=4.0, measuring=1.0, difference=0).ratio == 5


def test_pictures_are_drawn_where_rivals_miss_combinations(tmp_path):
    attempts = [Attempt(target={"medical": a, "legal": b}, at={}, found=BASE) for a in LEVELS for b in LEVELS]
    full = Way(attempts=tuple(attempts), preparing=0, measuring=0, prompt_tokens=7)
    few = full.model_copy(update={"attempts": tuple(attempts[4:5])})
    grid = draw_combinations({"full": full, "few": few}, ["medical", "legal"], tmp_path / "grid.svg").read_text()
    assert ">EE<" in grid and ">AG<" in grid and ">few<" in grid
    lines = draw_curves(CURVES, CURVES, tmp_path / "curves.svg").read_text()
    assert "vector: medical" in lines and "questions: legal" in lines
