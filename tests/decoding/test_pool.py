"""The row pool on toy policies: lengths, stops, seeds, meters, and requests that cannot be served."""

import math

import pytest
import torch

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.errors import ConfigError, KnobError, PolicyError, PromptError
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm

CHAIN = Table.of({"": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"<end>": 1.0}}, end="<end>")
COIN = Table.of({"": {"heads": 0.75, "tails": 0.25}}, name="coin")
BIASED = Table.of({"": {"heads": 0.25, "tails": 0.75}}, name="biased")


def test_an_end_token_ends_the_answer_and_is_not_in_its_text():
    (answer,) = CHAIN.generate("a", seed=0)
    assert (answer.text, answer.finish_reason, len(answer.token_ids)) == ("b c", "end", 3)


def test_the_longest_answer_is_as_long_as_asked():
    (answer,) = CHAIN.generate("a", max_new_tokens=2, seed=0)
    assert (answer.text, answer.finish_reason) == ("b c", "length")


def test_a_stop_text_is_cut_off():
    (answer,) = CHAIN.generate("a", stop=["c"], seed=0)
    assert (answer.text, answer.finish_reason) == ("b ", "stop")


def test_an_answer_cannot_end_before_its_minimum():
    early = Table.of({"": {"x": 0.01, "<end>": 0.99}}, end="<end>")
    for answer in early.generate("x", min_new_tokens=4, max_new_tokens=8, n=20, seed=0):
        assert len(answer.token_ids) >= 5 or answer.finish_reason == "length"
        assert all(token == 0 for token in answer.token_ids[:4])


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 0.5}, {"temperature": 0}])
def test_the_minimum_length_comes_before_the_cuts(cut):
    # P(end) = .99: after top-k or top-p only the end would be left, and masking it would leave nothing
    early = Table.of({"": {"x": 0.0001, "y": 0.0099, "<end>": 0.99}}, end="<end>")
    (answer,) = early.generate("x", min_new_tokens=3, max_new_tokens=5, seed=0, **cut)
    assert answer.text.split()[:3] == ["y"] * 3 and answer.finish_reason == "end"


def test_a_row_that_can_only_end_cannot_be_made_longer():
    over = Table.of({"": {"x": 0.0, "<end>": 1.0}}, end="<end>")
    with pytest.raises(PolicyError, match="lower min_new_tokens"):
        over.generate("x", min_new_tokens=2, seed=0)


def test_nan_is_an_error_that_names_the_policy():
    broken = Table.of({"": {"x": math.nan, "y": 0.5}}, name="broken")
    with pytest.raises(PolicyError, match="broken"):
        broken.generate("x", seed=0)


def test_token_ids_stop_an_answer_and_are_cut_off():
    (answer,) = CHAIN.generate("a", stop=2, seed=0)  # id 2 is c
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("b", "stop", (1, 2))


def test_one_stop_text_is_not_a_list_of_letters():
    (answer,) = CHAIN.generate("a", stop="bc", seed=0)
    assert answer.text == "b c"


def test_stop_texts_count_only_after_the_minimum():
    again = Table.of({"": {"a": 0, "b": 1.0, "stop": 0}, "b": {"stop": 1.0}, "stop": {"b": 1.0}})
    (answer,) = again.generate("a", stop=["stop"], min_new_tokens=3, max_new_tokens=9, seed=0)
    assert (answer.text.strip(), answer.finish_reason, len(answer.token_ids)) == ("b stop b", "stop", 4)


def test_rows_with_other_knobs_can_be_admitted_later():
    """The first rows need no guide, those admitted later do: both evaluate the same leaves, so their states join."""
    policy = COIN * (BIASED / COIN) ** Knob("w", 1.0, min=0, max=1)
    ends = Table.random(5, seed=3, end="t4") * Table.random(5, seed=4) ** Knob("w", 0.0)
    requests = [Request((0,), n=1, knobs={"w": float(i >= 8)}, occurrence=i) for i in range(16)]
    for each in (policy, ends):
        settings, four = Settings(max_new_tokens=7, seed=0), Bounds(rows=4)
        together = decode(each, requests, settings, bounds=four)
        alone = [decode(each, [request], settings)[0] for request in requests]
        assert [row.tokens for row in together] == [row.tokens for row in alone]


def test_a_prompt_is_prefilled_once_even_when_its_answers_do_not_fit_together():
    lm, prefilled = tiny_lm(), []
    init = lm.trunk.init

    def counting(leaves, prompts, knobs):
        prefilled.append(len(prompts))
        return init(leaves, prompts, knobs)

    lm.trunk.init = counting
    settings = Settings(max_new_tokens=3, seed=0)
    rows = decode(lm, [Request((1, 2, 3), n=5), Request((4, 5, 6), n=5)], settings, bounds=Bounds(rows=3))
    assert sum(prefilled) == 2 and len(rows) == 10


def test_every_token_says_what_it_cost():
    # base .75/.25 times guide .25/.75 is fair: log-probability ln .5, KL = .5 ln(.5/.75) + .5 ln(.5/.25) = .1438
    (answer,) = (COIN * BIASED).generate("heads", max_new_tokens=3, seed=0)
    assert answer.log_probs == pytest.approx([math.log(0.5)] * 3)
    assert answer.kl == pytest.approx([0.1438] * 3, abs=1e-4)
    expected = [math.log(0.75 if token == 0 else 0.25) for token in answer.token_ids]
    assert answer.reference_log_probs == pytest.approx(expected)
    assert answer.mean_kl == pytest.approx(0.1438, abs=1e-4)


def test_log_probs_are_those_before_warping():
    (answer,) = COIN.generate("heads", max_new_tokens=2, temperature=0)
    assert answer.log_probs == pytest.approx([math.log(0.75)] * 2)
    assert answer.kl == (0.0, 0.0)


def test_the_same_seed_gives_the_same_answers_and_another_gives_others():
    first, again, other = (COIN.generate("heads", n=4, max_new_tokens=16, seed=s) for s in (1, 1, 2))
    assert [a.token_ids for a in first] == [a.token_ids for a in again] != [a.token_ids for a in other]
    assert len({a.token_ids for a in first}) > 1


def test_no_seed_draws_one():
    assert len({COIN.generate("heads", max_new_tokens=60)[0].token_ids for _ in range(3)}) > 1


def test_repeated_prompts_get_different_answers():
    a, b = COIN.generate(["heads", "heads"], max_new_tokens=32, seed=0)
    assert a.token_ids != b.token_ids


def test_each_prompt_is_prefilled_once_however_many_answers():
    lm, seen = tiny_lm(), []
    init, step = lm.trunk.init, lm.trunk.step

    def prefilling(leaves, prompts, knobs):
        seen.append(len(prompts))
        return init(leaves, prompts, knobs)

    def stepping(state, tokens):
        seen.append(tuple(tokens.shape))
        return step(state, tokens)

    lm.trunk.init, lm.trunk.step = prefilling, stepping
    decode(lm, [Request((1, 2, 3, 4), n=5), Request((5, 6), n=5)], Settings(min_new_tokens=2, max_new_tokens=2))
    assert seen[:2] == [2, (10, 1)]


def test_knobs_are_bound_per_prompt():
    policy = COIN * (BIASED / COIN) ** Knob("w", 1.0, min=0, max=1)
    base, tailored = policy.generate(["heads", "heads"], max_new_tokens=1, temperature=0, knobs=[{"w": 0}, {"w": 1}])
    assert (base.text, tailored.text) == ("heads", "tails")


def test_results_are_in_the_order_of_the_prompts():
    answers = CHAIN.generate(["c", "a", "b"], seed=0)
    assert [a.prompt for a in answers] == ["c", "a", "b"] and [a.text for a in answers] == ["", "b c", "c"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_new_tokens": 0}, ConfigError),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, ConfigError),
        ({"n": 0}, ConfigError),
        ({"stop": [""]}, ConfigError),
        ({"knobs": {"w": 1}}, KnobError),
        ({"knobs": [{}, {}]}, ConfigError),
    ],
)
def test_requests_that_cannot_be_served_are_refused(arguments, error):
    with pytest.raises(error, match="try:"):
        COIN.generate("heads", **arguments)


@pytest.mark.parametrize("prompts", ["", [], ["heads", " "], "edge"])
def test_prompts_without_known_tokens_are_refused(prompts):
    with pytest.raises(PromptError):
        COIN.generate(prompts)


def test_a_prompt_that_does_not_fit_with_its_answer_is_refused():
    lm = tiny_lm()
    with pytest.raises(PromptError, match="64 tokens together"):
        lm.generate("t1 " * 60, max_new_tokens=5)
    with pytest.raises(PromptError, match="at most 64"):
        lm.init([[1] * 65])


def test_a_state_stays_valid_after_it_was_stepped():
    lm = tiny_lm()
    with torch.no_grad():
        _, state = lm.init([[1, 2]])
        first, _ = lm.step(state, torch.tensor([[3]]))
        lm.step(state, torch.tensor([[4]]))
        assert torch.equal(lm.step(state, torch.tensor([[3]]))[0], first)
