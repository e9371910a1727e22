import math

import pytest

from trimtab.decoding.request import Settings
from trimtab.evaluation.metrics import perplexity
from trimtab.policies.toy import Table
from trimtab.rewards import Length, Likelihood, mean_log_probs, score_known
from trimtab.tasks.baselines import Contestant
from trimtab.tasks.contest import Conditions, contest
from trimtab.tasks.load import load_task

# After a: b with 1/4. After b: 1/2 each.
TABLE = Table.of({"": {"a": 0.5, "b": 0.5}, "a": {"a": 0.75, "b": 0.25}})


def test_ragged_answers_are_read_after_their_prompts():
    # "b a b" after a: 1/4 1/2 1/4, that is 2^-5 over 3 tokens; "b b" after a: 1/4 1/2, 2^-3 over 2; "a" after b: 1/2.
    prompts, answers = ["a", "a", "b", "a"], ["b a b", "b b", "a", ""]
    expected = [-5 / 3 * math.log(2), -3 / 2 * math.log(2), -math.log(2)]
    for rows in (1, 2, 16):
        *found, empty = Likelihood(TABLE, "table", rows)(prompts, answers)
        assert found == pytest.approx(expected)
        assert math.isnan(empty)
    scores = score_known(Likelihood(TABLE, "table"), prompts, answers)
    assert scores.unscored == 1


def test_the_likelihood_under_the_reference_is_the_one_that_answers_keep():
    base, guide = (Table.random(6, seed=seed) for seed in (0, 1))
    answers = (base * guide).generate(["t0", "t1 t2"], max_new_tokens=5, n=3, seed=0)
    prompts = [base.vocabulary.encode(answer.prompt) for answer in answers]
    found = mean_log_probs(base, prompts, [answer.token_ids for answer in answers])
    for mean, answer in zip(found, answers, strict=True):
        assert math.exp(-mean) == pytest.approx(perplexity([answer.reference_log_probs]), rel=1e-5)


def test_a_contest_reports_the_perplexity_under_a_reader():
    reader = Likelihood(Table.of({"": {"a": 0.25, "b": 0.75}}), "reader")
    sure = Table.of({"": {"a": 1.0, "b": 0.0}})
    conditions = Conditions(
        [{"prompt": "b"}, {"prompt": "a"}], Length(3), [Length(2)], Settings(max_new_tokens=3), 2, {}, [reader]
    )
    found = contest(load_task("sentiment"), {"base": Contestant(sure)}, conditions)
    number = found.table.lines[0].numbers["perplexity, reader"]
    assert number is not None
    assert number.mean == pytest.approx(4.0)  # every answer is "a a a", each a with 1/4
    assert "perplexity, reader" in found.markdown()
