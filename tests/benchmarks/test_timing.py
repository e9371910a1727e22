import gc

import pytest

from trimtab.benchmarks import timing
from trimtab.benchmarks.measure import Asked, Measure, at_least, at_most


def test_sides_take_turns_after_a_round_that_does_not_count():
    calls = []
    times = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(side) for name, side in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_off_while_timing_and_then_as_it_was(collecting):
    seen = []
    if not collecting:
        gc.disable()
    try:
        timing.seconds(lambda: seen.append(gc.isenabled()))
        with pytest.raises(ZeroDivisionError):
            timing.seconds(lambda: 1 / 0)
        assert (seen, gc.isenabled()) == ([False], collecting)
    finally:
        gc.enable()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    return pass_time


def test_prefill_does_not_count_as_a_step(clock):
    # 1 s of prefill and 0.01 s for each of the tokens - 1 steps after it
    times = timing.step_times({"a": lambda tokens: clock(1.0 + 0.01 * (tokens - 1))}, tokens=11, repeats=2)
    assert times["a"] == pytest.approx([0.01, 0.01])


def test_a_step_is_never_free(clock):
    assert timing.step_times({"a": lambda tokens: clock(1.0)}, tokens=5, repeats=1) == {"a": [timing.SHORTEST_STEP]}


def test_ratio_and_spread_go_round_by_round():
    # medians 4 and 2; rounds 2/2, 9/3, 4/1
    measure = Measure.of_times("x", [2.0, 9.0, 4.0], [2.0, 3.0, 1.0], at_most(2.0))
    assert (measure.ours, measure.theirs, measure.unit) == (4000.0, 2000.0, "ms a step")
    assert (measure.ratio, measure.spread, measure.holds) == (2.0, (1.0, 4.0), True)


def test_rates_are_larger_when_times_are_smaller():
    measure = Measure.of_rates("x", [0.5, 1.0, 0.5], [1.0, 1.0, 2.0], tokens=10, asked=at_least(2.5))
    assert (measure.ours, measure.theirs) == (20.0, 10.0)
    assert (measure.ratio, measure.spread, measure.holds) == (2.0, (1.0, 4.0), False)


def test_a_share_is_what_the_part_leaves():
    measure = Measure.of_share("x", [0.010, 0.010], [0.009, 0.008], at_most(0.10))
    # 1 - 8.5 / 10; rounds 1 - 0.9 and 1 - 0.8
    assert measure.ratio == pytest.approx(0.15) and measure.spread == pytest.approx((0.1, 0.2))
    assert measure.holds is False


@pytest.mark.parametrize(
    ("asked", "ratio", "holds"),
    [(at_most(1.5), 1.5, True), (at_most(1.5), 1.51, False), (at_least(2), 2.0, True), (at_least(2), 1.99, False)],
)
def test_a_bound_belongs_to_what_was_asked(asked, ratio, holds):
    assert asked.holds(ratio) is holds


def test_a_measure_is_plain_data():
    found = Measure("x", 1.0, 2.0, "ms", 0.5, (0.4, 0.6), Asked("<=", 1.35)).to_dict()
    assert found["asked"] == "<= 1.35" and found["bound"] == 1.35 and found["holds"] is True
    free = Measure("x", 1.0, 2.0, "ms", 0.5, (0.4, 0.6)).to_dict()
    assert free["asked"] is free["bound"] is free["holds"] is None
