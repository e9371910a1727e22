"""What a row tells of its tokens where its request asks for it."""

import math

import pytest
import torch

from trimtab.decoding.generate import to_answer
from trimtab.decoding.pool import Pool
from trimtab.decoding.request import Request, Settings
from trimtab.errors import ConfigError
from trimtab.policies.contributions import contributions, parts
from trimtab.policies.knob import Knob
from trimtab.policies.product import FLOOR
from trimtab.policies.support import within
from trimtab.policies.toy import Table

BASE = Table.random(6, seed=0, name="base")
TUNED, UNTUNED = Table.random(6, seed=1, name="tuned"), Table.random(6, seed=2, name="untuned")
POLICY = BASE * (TUNED / UNTUNED) ** Knob("w", 1.0, min=-2.0, max=2.0)


def rows_of(policy, *requests, **settings):
    pool = Pool(policy)
    for request in requests:
        pool.submit(request, Settings(**{"max_new_tokens": 5, "seed": 3, **settings}))
    rows = []
    while pool.busy:
        rows += pool.step()
    return sorted(rows, key=lambda row: row.place)


def test_details_are_those_of_the_policy_and_its_factors():
    (row,) = rows_of(POLICY, Request((0,), knobs={"w": 1.5}, alternatives=6))
    assert len(row.details) == len(row.tokens) == 5
    prefix = [0]
    for token, detail, own, theirs in zip(row.tokens, row.details, row.log_probs, row.reference_log_probs, strict=True):
        log_probs = POLICY.init([prefix], {"w": 1.5})[0][0]
        each = {leaf.name: leaf.init([prefix])[0][0] for leaf in (BASE, TUNED, UNTUNED)}
        assert (detail.chosen.token, detail.chosen.log_prob) == (token, pytest.approx(own))
        assert detail.chosen.reference_log_prob == pytest.approx(theirs)
        assert [choice.token for choice in detail.alternatives] == log_probs.argsort(descending=True).tolist()
        for choice in detail.alternatives:
            weights = {"base": 1.0, "tuned": 1.5, "untuned": -1.5}
            wanted = {name: w * each[name][choice.token].item() for name, w in weights.items()}
            assert choice.factors == pytest.approx(wanted, abs=1e-5)
            assert choice.log_prob == pytest.approx(log_probs[choice.token].item(), abs=1e-5)
            assert choice.reference_log_prob == pytest.approx(each["base"][choice.token].item(), abs=1e-5)
        # They sum to the log-probability, less a constant that all tokens of the step share.
        gaps = [sum(choice.factors.values()) - choice.log_prob for choice in detail.alternatives]
        assert max(gaps) - min(gaps) < 1e-4
        prefix.append(token)


def test_rows_that_ask_for_none_have_none_and_are_not_changed_by_those_that_do():
    (alone,) = rows_of(POLICY, Request((1,)))
    asks, plain = rows_of(POLICY, Request((0,), alternatives=2), Request((1,)))
    assert (plain.details, plain.tokens) == ((), alone.tokens)
    assert [len(detail.alternatives) for detail in asks.details] == [2] * 5


def test_no_alternatives_still_tell_of_the_picked_token():
    (row,) = rows_of(BASE, Request((0,), alternatives=0))
    assert [(detail.chosen.token, detail.alternatives) for detail in row.details] == [
        (token, ()) for token in row.tokens
    ]
    assert row.details[0].chosen.factors == {"base": pytest.approx(row.log_probs[0])}


def test_rows_join_and_leave_with_their_details():
    short, long = rows_of(POLICY, Request((0,), n=2, alternatives=1), Request((2,), alternatives=1))[:2]
    assert [detail.chosen.token for detail in short.details] == short.tokens
    assert [detail.chosen.token for detail in long.details] == long.tokens


def test_a_stop_text_cuts_the_details_too():
    pool = Pool(POLICY)
    pool.submit(Request((0,), alternatives=1), Settings(max_new_tokens=30, seed=1, stop=("t3",)))
    rows = []
    while pool.busy:
        rows += pool.step()
    assert len(rows[0].details) == len(rows[0].tokens)
    assert len(to_answer(rows[0], "t0", POLICY.vocabulary, Settings(stop=("t3",))).details) == len(rows[0].tokens)


def test_an_exponent_of_0_adds_nothing_and_floors_hold():
    never = Table.of({"": {"a": 1.0, "b": 0.0}}, name="never")
    base = Table.of({"": {"a": 0.5, "b": 0.5}}, name="base")
    policy = base * never ** Knob("w", -1.0)
    said = {leaf: leaf.init([[0]])[0].expand(2, -1) for leaf in (base, never)}
    found = contributions(policy, said, {"w": torch.tensor([0.0, -1.0])}, torch.tensor([[1], [1]]))
    assert found["base"].flatten().tolist() == pytest.approx([math.log(0.5)] * 2)
    assert found["never"].flatten().tolist() == pytest.approx([0.0, FLOOR])


def test_what_is_no_product_is_its_own_factor():
    cut = within(BASE, 0.9)
    assert [str(factor) for factor, _ in parts(cut)] == [str(cut)]
    (row,) = rows_of(cut, Request((0,), alternatives=1))
    assert row.details[0].chosen.factors == {str(cut): pytest.approx(row.log_probs[0])}


@pytest.mark.parametrize(
    "pool", [Pool(POLICY, draft="lookup"), Pool(POLICY, metered=False)], ids=["drafts", "unmetered"]
)
def test_pools_that_cannot_tell_refuse(pool):
    with pytest.raises(ConfigError, match="details of every token"):
        pool.submit(Request((0,), alternatives=1), Settings())


@pytest.mark.parametrize("count", [-1, 21])
def test_numbers_of_alternatives_are_bounded(count):
    with pytest.raises(ConfigError, match="alternatives at each token"):
        Request((0,), alternatives=count)


def test_factors_that_read_alike_are_numbered():
    twins = [Table.random(3, seed=seed, name="twin") for seed in range(3)]
    policy = twins[0] * twins[1] * twins[2] ** 2
    said = {leaf: leaf.init([[0]])[0] for leaf in twins}
    found = contributions(policy, said, {}, torch.tensor([[1]]))
    assert [*found] == ["twin", "twin (2)", "twin (3)"]
    assert found["twin (3)"].item() == pytest.approx(2 * said[twins[2]].log_softmax(-1)[0, 1].item(), abs=1e-6)
