import math

import pytest

from trimtab.decoding.answer import Answer
from trimtab.errors import UsageError
from trimtab.evaluation.measure import KL, PERPLEXITY, Group
from trimtab.evaluation.metrics import distinct_n, mean_kl, mean_length, perplexity, repetition


def answer(kl, prompt="a", token_ids=None):
    ids = tuple(token_ids or [0] * len(kl))
    return Answer(prompt, "", ids, (-1.0,) * len(ids), (-1.0,) * len(ids), tuple(kl), "length")


def test_distinct_n_counts_over_all_answers_together():
    # bigrams: (1 2) (2 3) and (1 2): two different ones of three
    assert distinct_n([[1, 2, 3], [1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct_n([[1, 2, 3], [1, 2]], 1) == pytest.approx(3 / 5)


def test_distinct_n_splits_texts_into_words():
    # "the film", "film the", "the film": two of three
    assert distinct_n(["the film  the\nfilm"], 2) == pytest.approx(2 / 3)


def test_distinct_n_of_answers_that_are_too_short_is_zero():
    assert distinct_n(["one", ""], 2) == 0.0
    assert distinct_n([], 2) == 0.0


def test_repetition_averages_answers_not_n_grams():
    # "x x x x" has 2 trigrams, both "x x x": half repeats; "a b c" repeats nothing; "a" is too short
    assert repetition(["x x x x", "a b c", "a"], 3) == pytest.approx(0.5 / 3)
    assert repetition([]) == 0.0


def test_perplexity_weighs_tokens_equally():
    # (ln 2 + ln 4 + ln 4) / 3 = (5 / 3) ln 2
    rows = [[-math.log(2)], [-math.log(4), -math.log(4)]]
    assert perplexity(rows) == pytest.approx(2 ** (5 / 3))


def test_perplexity_of_an_impossible_token_is_infinite():
    assert perplexity([[-math.inf, -0.1]]) == math.inf
    assert perplexity([[-800.0]]) == math.inf


def test_mean_kl_and_length_weigh_tokens_and_answers():
    answers = [answer([0.3]), answer([0.0, 0.6, 0.9])]
    assert mean_kl(answers) == pytest.approx(1.8 / 4)  # over tokens
    assert mean_length(answers) == pytest.approx(2.0)  # over answers


def test_what_was_not_measured_is_refused():
    silent = Answer("a", "b", (1, 2), (), (), (), "length")
    with pytest.raises(UsageError, match="answers without KL"):
        mean_kl([silent])
    assert mean_kl([silent, answer([0.2, 0.4])]) == pytest.approx(0.3)
    with pytest.raises(UsageError, match="answers without log-probabilities"):
        perplexity([silent.log_probs])
    assert mean_length([silent]) == 2
    group = Group({}, (silent, answer([0.2])), {})
    assert (KL.tally(group), PERPLEXITY.tally(group)) == ((0.2, 1), (1.0, 1))
