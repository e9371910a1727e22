import json

import pytest

from trimtab.benchmarks import speculative
from trimtab.benchmarks.suites import SUITES, pick, run
from trimtab.errors import UsageError

ASKED = {
    "decode": [">= 1.05"] * 6,
    "fused": ["<= 1.35", "<= 1.7", "<= 1.55", ">= 2", ">= 1.6", ">= 1", ">= 1", "<= 0.1"],
    "search": [">= 4", "<= 1.25", "<= 1.02"],
    "knobs": ["<= 1.05", "<= 1.05"],
    "vectors": ["<= 1.5", "<= 1"],
    "prefill": ["<= 1.15"],
}


@pytest.mark.parametrize("name", ASKED)
def test_a_suite_measures_what_was_asked(bench, name):
    ((_, found),) = run(pick([name]), bench)
    assert [str(measure.asked) for measure in found if measure.asked is not None] == ASKED[name]
    assert len({measure.name for measure in found}) == len(found)
    for measure in found:
        low, high = measure.spread
        assert low <= measure.ratio <= high  # one round: all three are equal
        assert measure.ours > 0 and measure.theirs > 0
    json.dumps([measure.to_dict() for measure in found], allow_nan=False)


def test_suites_are_picked_by_name_and_all_by_none():
    assert pick([]) == list(SUITES)
    assert [suite.name for suite in pick(["knobs", "decode", "knobs"])] == ["knobs", "decode"]
    with pytest.raises(UsageError, match="decode, fused, speculative, search, knobs, vectors, prefill"):
        pick(["knobs", "speed"])


def test_suites_are_handed_over_one_by_one(bench, monkeypatch):
    done = []
    answers = speculative._answers
    monkeypatch.setattr(speculative, "_answers", lambda *given: done.append("speculative") or answers(*given))
    stream = run(pick(["prefill", "speculative"]), bench)
    assert next(stream)[0].name == "prefill" and not done
    assert next(stream)[0].name == "speculative" and done
