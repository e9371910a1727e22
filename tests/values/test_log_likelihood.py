"""The policy's own log-probabilities are summed up while tokens are picked, and DeAL adds them to a value."""

import math

import pytest
import torch

from trimtab.decoding.boundary import Texts, Uncertain
from trimtab.decoding.search import search
from trimtab.decoding.shape import Shape, chunk_beam, deal
from trimtab.errors import ConfigError
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm, with_lora
from trimtab.values import LogLikelihood, PerToken, RewardValue, Sum

BASE = Table.random(6, seed=0, name="base")
GUIDED = BASE * Table.random(6, seed=1, name="guide") ** 0.7
LENGTH = RewardValue(lambda completions, **_: [float(text.count("t1")) for text in completions])


@pytest.mark.parametrize("chunk", [2, None, Texts(("t0", "t3")), Uncertain(1.4)], ids=str)
@pytest.mark.parametrize("policy", [BASE, GUIDED], ids=["leaf", "product"])
def test_it_is_the_sum_of_the_policys_log_probs(policy, chunk):
    """At temperature 1 and before warping, whatever is sampled from."""
    shape = Shape(2, 3, chunk)
    found = search(policy, ["t1 t2", "t3"], LogLikelihood(), shape, max_new_tokens=7, temperature=0.6, top_k=4, seed=0)
    for each in found:
        for answer, score in each.hypotheses:
            expected = float(policy.log_probs(answer.prompt, " " + answer.text).sum())
            assert score == pytest.approx(expected, abs=1e-4) == pytest.approx(sum(answer.log_probs), abs=1e-4)


def test_it_runs_nothing_on_a_transformer():
    base = tiny_lm()
    policy = base * with_lora(base) ** 0.5
    (found,) = search(policy, "t1 t2", LogLikelihood(), chunk_beam(3, 2, Uncertain(1.5)), max_new_tokens=8, seed=0)
    for answer, score in found.hypotheses:
        assert score == pytest.approx(sum(answer.log_probs), abs=1e-4)


def test_deal_adds_it_to_the_value():
    """Scores are those of the sum, and the kept are the best by them."""
    for weight in (0.0, 0.5, 2.0):
        (found,) = search(GUIDED, "t1", LENGTH, deal(2, 4, 3, weight), max_new_tokens=9, seed=0)
        for answer, score in found.hypotheses:
            expected = answer.text.count("t1") + weight * sum(answer.log_probs)
            assert score == pytest.approx(expected, abs=1e-4)
    both = Sum(((1.0, LENGTH), (2.0, LogLikelihood())))
    (same,) = search(GUIDED, "t1", both, chunk_beam(2, 4, 3), max_new_tokens=9, seed=0)
    assert same == found


def test_the_weight_decides_between_likely_and_liked():
    """Five tokens: "dull" has 0.9, "fine" 0.1 and a value of 1; a fine one gains 1 and costs weight * log 9 = 2.197."""
    words = Table.of({"": {"dull": 0.9, "fine": 0.1}})
    fine = RewardValue(lambda completions, **_: [float(text.count("fine")) for text in completions])
    settings = {"max_new_tokens": 5, "seed": 0}
    (liked,) = search(words, "dull", fine, deal(1, 64, 1, likelihood=0.4), **settings)  # costs 0.88
    (likely,) = search(words, "dull", fine, deal(1, 64, 1, likelihood=0.5), **settings)  # costs 1.10
    assert liked.best.text == "fine fine fine fine fine" and likely.best.text == "dull dull dull dull dull"
    assert likely.hypotheses[0][1] == pytest.approx(0.5 * 5 * math.log(0.9), abs=1e-4)


def test_it_may_be_a_mean_and_is_additive_alone():
    (found,) = search(BASE, "t1", PerToken(LogLikelihood()), chunk_beam(2, 2, 2), max_new_tokens=6, seed=0)
    for answer, score in found.hypotheses:
        assert score == pytest.approx(sum(answer.log_probs) / len(answer.log_probs), abs=1e-4)
    value = LogLikelihood()
    assert value.additive and value.granularity == "token" and value.watched([BASE]) == ()


def test_greedy_one_branch_agrees_with_the_answer():
    (found,) = search(BASE, "t2", LogLikelihood(), Shape(1, 1, 2), max_new_tokens=5, temperature=0, seed=0)
    with torch.no_grad():
        expected = float(BASE.log_probs("t2", " " + found.best.text).sum())
    assert found.hypotheses[0][1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_sense(weight):
    with pytest.raises(ConfigError, match="likelihood"):
        deal(likelihood=weight)
