"""How coefficients are chosen, which points soups have, and the pairs of a combination."""

import json
from math import comb

import pytest

from trimtab.policies.lm import LM
from trimtab.tasks.level_files import write_wanted_pairs
from trimtab.tasks.level_ways import chosen, simplex
from trimtab.tasks.levels import Triple
from trimtab.vectors.preference import Preference
from trimtab.vectors.search import Trial


def trial(at, a, b):
    """Return a trial in which the shares of the level x are a and b in two domains."""
    shares = {"A": {"x": a, "y": 1 - a}, "B": {"x": b, "y": 1 - b}}
    return Trial({"k": at}, Preference(shares, {name: {"x": 0.0, "y": 0.0} for name in shares}))


def test_what_reaches_a_target_comes_before_what_fits_on_average():
    target = {"A": "x", "B": "x"}
    lopsided, even = trial(0.5, 1.0, 0.4), trial(1.0, 0.6, 0.6)  # means 0.7 and 0.6, but B prefers y in the first
    assert chosen([lopsided, even], target) is even
    assert chosen([lopsided, trial(1.0, 0.4, 0.4)], target) is lopsided
    near = trial(0.5, 0.6, 0.6)
    assert chosen([trial(-1.0, 0.6, 0.6), near, even], target) is near, "closest to the base"


@pytest.mark.parametrize(("names", "steps"), [("abc", 4), ("ab", 1), ("a", 3)])
def test_soups_are_averages(names, steps):
    points = simplex(list(names), steps)
    # Ways to hand out `steps` equal parts: stars and bars.
    assert len(points) == comb(steps + len(names) - 1, len(names) - 1)
    assert all(sum(point.values()) == pytest.approx(1) and min(point.values()) >= 0 for point in points)
    assert len({tuple(point.items()) for point in points}) == len(points)


def test_pairs_of_a_combination_take_turns(tiny_lm_folder, tmp_path):
    lm = LM.load(tiny_lm_folder)
    lm.vocabulary.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    try:
        triples = {
            "medical": [Triple("w1", "w2", "w3", "w4"), Triple("w5", "w6", "w7", "w8")],
            "legal": [Triple("w9", "w10", "w11", "w12")],
        }
        path = tmp_path / "pairs.jsonl"
        assert write_wanted_pairs(triples, {"medical": "generic", "legal": "avoidance"}, lm, path) == 6
    finally:
        lm.vocabulary.tokenizer.chat_template = None
    rows = [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]
    assert rows == [
        ("w1", "w3", "w2"),
        ("w9", "w12", "w10"),
        ("w1", "w3", "w4"),
        ("w9", "w12", "w11"),
        ("w5", "w7", "w6"),
        ("w5", "w7", "w8"),
    ]
