"""Rejection keeps the first that passes, with the exact distribution; finished answers meet the whole threshold."""

import math

import numpy as np
import pytest

from trimtab.decoding.boundary import Uncertain
from trimtab.decoding.search import search
from trimtab.decoding.shape import Accept, Candidate, Shape, rejection
from trimtab.errors import ConfigError
from trimtab.policies.toy import Table
from trimtab.values import LogRatio, RewardValue

COIN = Table.of({"": {"a": 0.25, "b": 0.75}})
IS_A = RewardValue(lambda completions, **_: [float(text == "a") for text in completions])
BASE = Table.random(6, seed=0, end="t5", name="base")
VALUE = LogRatio(*(Table.random(6, seed=seed, end="t5", name=f"table{seed}") for seed in (1, 2)))


def share_of_a(shape, count=2000):
    """Return how often a is accepted: the same prompt many times, each with random numbers of its own."""
    found = search(COIN, ["a"] * count, IS_A, shape, max_new_tokens=1, seed=0, max_rows=count * shape.rows)
    assert all(len(each.hypotheses) == 1 for each in found)
    return sum(each.best.text == "a" for each in found) / count


@pytest.mark.parametrize(
    ("tries", "temperature", "expected"),
    [
        # One try passes with A = 0.25 * 1 + 0.75 * exp(-1) = 0.5259. a is found if it passes at once or after a
        # rejection, which it always does: 0.25 * (1 + (1 - A)). What is rejected is always b, and so is the best of it.
        (2, 1.0, 0.25 * (2 - 0.25 - 0.75 * math.exp(-1))),
        # A geometric series instead of two terms: 0.25 * (1 - (1 - A)^8) / A, close to the tilted 0.25 / A.
        (8, 1.0, 0.25 * (1 - (0.75 - 0.75 * math.exp(-1)) ** 8) / (0.25 + 0.75 * math.exp(-1))),
        # Nothing but a passes: b is found if both are b.
        (2, 0.0, 1 - 0.75**2),
        (1, 1.0, 0.25),
    ],
)
def test_whole_answers_have_the_exact_distribution(tries, temperature, expected):
    """A share of 2,000 has a standard error of at most 0.011."""
    assert share_of_a(rejection(1.0, tries, None, temperature)) == pytest.approx(expected, abs=0.035)


def candidate(score, *, first=0.0, progress=1.0):
    return Candidate(score, 0.0, -1, progress == 1.0, first, progress)


def test_the_first_that_passes_is_kept_and_else_the_best():
    random = np.random.default_rng(0)
    hard = Accept(2.0, 0.0)
    assert hard.pick([candidate(s) for s in (1.0, 2.0, 5.0)], 1, random) == [1]
    assert hard.pick([candidate(s) for s in (1.0, 1.9, 1.9)], 1, random) == [1]
    soft = Accept(2.0, 0.5)
    picked = [soft.pick([candidate(1.5), candidate(9.0)], 1, random)[0] for _ in range(4000)]
    assert picked.count(0) / 4000 == pytest.approx(math.exp(-1), abs=0.03)  # exp((1.5 - 2) / 0.5)
    assert soft.pick([candidate(-1e9), candidate(-1e8)], 1, random) == [1]  # no overflow, however bad


@pytest.mark.parametrize(
    ("score", "first", "progress", "passes"),
    [
        (5.0, 0.0, 0.5, True),  # half way from 0 to 10
        (4.99, 0.0, 0.5, False),
        (5.0, 0.0, 1.0, False),  # finished answers are held to 10
        (10.0, 0.0, 1.0, True),
        (4.0, -2.0, 0.5, True),  # half way from -2 to 10
        (10.0, 50.0, 0.1, True),  # a threshold above 10 is none
        (9.99, 50.0, 0.1, False),
    ],
)
def test_the_threshold_rises_from_the_first_score(score, first, progress, passes):
    tried = [candidate(score, first=first, progress=progress), candidate(99.0, first=first, progress=progress)]
    assert Accept(10.0, 0.0).pick(tried, 1, np.random.default_rng(0)) == [0 if passes else 1]


def test_the_search_tells_the_rule_how_far_answers_are(monkeypatch):
    """Four chunks of 2 tokens, 3 tries each: a quarter, a half, three quarters, and all of 8 tokens."""
    seen = []

    def noting(self, candidates, beams, random):
        seen.append([(each.first, each.progress, each.finished) for each in candidates])
        return [0]

    monkeypatch.setattr(Accept, "pick", noting)
    (found,) = search(BASE, "t1", VALUE, rejection(0.0, 3, 2), max_new_tokens=8, min_new_tokens=8, seed=0)
    first = found.trace.nodes[0].score
    assert seen == [[(first, share, share == 1)] * 3 for share in (0.25, 0.5, 0.75, 1.0)]


def test_what_is_found_was_accepted_and_not_the_best_that_was_seen():
    (found,) = search(BASE, "t1", VALUE, rejection(-100.0, 8, None), max_new_tokens=6, seed=1)
    nodes = found.trace.nodes
    assert [node.kept for node in nodes] == [1, 0, 0, 0, 0, 0, 0, 0]  # everything passes, so the first is kept
    assert [score for _, score in found.hypotheses] == [nodes[0].score] and nodes[0].score < max(n.score for n in nodes)
    (plain,) = BASE.generate("t1", max_new_tokens=6, seed=1)
    assert found.best == plain


def test_rejection_goes_chunk_by_chunk():
    """What is accepted at every boundary is above the rising threshold, or the best of all tries."""
    for each in search(BASE, ["t1", "t2 t3"], VALUE, rejection(2.0, 4, Uncertain(1.4), 0.0), max_new_tokens=12, seed=0):
        nodes = each.trace.nodes
        lengths = {None: 0}
        for node in nodes:
            lengths[node.number] = lengths[node.parent] + node.tokens
        for depth in range(max(node.depth for node in nodes) + 1):
            level = [node for node in nodes if node.depth == depth]
            bars = [min(2.0, nodes[0].score + (2.0 - nodes[0].score) * lengths[n.number] / 12) for n in level]
            bars = [2.0 if node.finish else bar for node, bar in zip(level, bars, strict=True)]
            passed = [node for node, bar in zip(level, bars, strict=True) if node.score >= bar]
            (kept,) = (node for node in level if node.kept)
            assert kept == (passed[0] if passed else max(level, key=lambda node: node.score))
        assert len(each.hypotheses) == 1


def test_one_try_is_sampling_and_neighbours_do_not_matter():
    prompts = ["t1 t2", "t3"]
    found = search(BASE, prompts, VALUE, rejection(0.0, 1), max_new_tokens=9, seed=3)
    assert [each.best for each in found] == BASE.generate(prompts, max_new_tokens=9, seed=3)
    together = search(BASE, prompts, VALUE, rejection(0.0, 4, Uncertain(1.4)), max_new_tokens=9, seed=3)
    alone = [search(BASE, p, VALUE, rejection(0.0, 4, Uncertain(1.4)), max_new_tokens=9, seed=3)[0] for p in prompts]
    assert together == alone


def test_tries_that_cannot_be_scored_are_neither_accepted_nor_first():
    def fussy(completions, **_):
        if any(text.startswith("b") for text in completions):
            raise ValueError("not b")
        return [1.0] * len(completions)

    with pytest.warns(UserWarning, match="goes on without it"):
        found = search(COIN, ["a"] * 5, RewardValue(fussy), rejection(1.0, 40, 1), max_new_tokens=2, seed=0)
    assert all(each.best.text.startswith("a") for each in found)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rejection(math.nan),
        lambda: rejection(math.inf),
        lambda: rejection(0.0, temperature=-1.0),
        lambda: rejection(0.0, temperature=math.nan),
        lambda: rejection(0.0, tries=0),
        lambda: Shape(2, 2, 5, Accept(0.0)),
    ],
)
def test_rejections_that_make_no_sense(make):
    with pytest.raises(ConfigError):
        make()
