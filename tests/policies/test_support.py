"""Cutting supports: the nucleus and the plausible tokens."""

import math

import pytest
import torch

from trimtab.errors import ConfigError, PolicyError, VocabularyError
from trimtab.policies.knob import Knob
from trimtab.policies.support import plausible, top_k, within
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm

BASE = Table.of({"": {"a": 0.5, "b": 0.25, "c": 0.125, "d": 0.125}}, name="base")
OTHER = Table.of({"": {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}}, name="other")


def probs(policy, **knobs):
    return policy.next_log_probs(["a"], knobs or None).exp()[0].tolist()


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [1, 0, 0, 0]),
        (0.5, [1, 0, 0, 0]),  # a alone holds at least 0.5
        (0.51, [2 / 3, 1 / 3, 0, 0]),
        (0.75, [2 / 3, 1 / 3, 0, 0]),
        (0.76, [4 / 7, 2 / 7, 1 / 7, 0]),  # of the equals c and d the lower id comes first
        (0.9, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_the_nucleus_by_hand(top_p, expected):
    assert probs(within(BASE, top_p)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (1.0, [1, 0, 0, 0]),
        (0.51, [1, 0, 0, 0]),
        (0.5, [2 / 3, 1 / 3, 0, 0]),  # 0.25 is exactly half of 0.5
        (0.2, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_plausible_tokens_by_hand(alpha, expected):
    assert probs(plausible(BASE, alpha)) == pytest.approx(expected)


def test_another_policy_may_decide():
    # the nucleus of other at 0.6 is d, c: base there is 0.125 each
    assert probs(within(BASE, 0.6, of=OTHER)) == pytest.approx([0, 0, 0.5, 0.5])
    # other from 0.5 * 0.4 on: b, c, d; base there 0.25 : 0.125 : 0.125
    assert probs(plausible(BASE, 0.45, of=OTHER)) == pytest.approx([0, 0.5, 0.25, 0.25])


def test_a_top_p_of_1_is_the_policy_itself():
    assert within(BASE, 1.0) is BASE


def test_the_cut_is_a_policy():
    cut = within(BASE, 0.75)
    assert cut.reference == BASE
    assert cut.leaves({}) == (BASE,)
    assert within(BASE, 0.75, of=OTHER).leaves({}) == (BASE, OTHER)
    # (2/3, 1/3) * (0.1, 0.2): 1 : 1
    assert probs(cut * OTHER) == pytest.approx([0.5, 0.5, 0, 0])
    # a cut in the denominator adds no support, and does not kill either: it floors what it dropped
    assert probs(BASE / cut)[2:] == pytest.approx([0.5, 0.5], abs=1e-5)
    assert str(cut * OTHER**0.5) == "within(base, 0.75) * other^0.5"
    assert str(plausible(BASE * OTHER, 0.1, of=BASE)) == "plausible(base * other, 0.1, base)"
    assert cut.generate("a", max_new_tokens=2, temperature=0)[0].text == "a a"


def test_cuts_of_cuts_look_at_each_once():
    """Looking twice at every level would be 2^40 looks."""
    cut = BASE
    for level in range(40):
        cut = within(cut, 1 - 1e-6 * (level + 1))
    torch.testing.assert_close(cut.next_log_probs(["a"]), BASE.next_log_probs(["a"]))
    assert str(cut).count("within(") == 40 and cut.reference == BASE


def test_knobs_inside_a_cut_are_bound():
    cut = within(BASE * OTHER ** Knob("w"), 0.5)
    assert [knob.name for knob in cut.knobs] == ["w"]
    assert probs(cut, w=0.0) == pytest.approx([1, 0, 0, 0])
    # at w = 2: 0.005 : 0.01 : 0.01125 : 0.02, sum 0.04625; d, c hold 0.68
    assert probs(cut, w=2.0) == pytest.approx([0, 0, 0.36, 0.64])


def test_rows_are_cut_one_by_one():
    sharp = Table.of({"": {"a": 0.5, "b": 0.5}, "b": {"a": 0.9, "b": 0.1}}, name="sharp")
    together = within(sharp, 0.8).init([[0], [1]])[0].exp()
    torch.testing.assert_close(together, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, math.nan, math.inf])
def test_shares_out_of_range(share):
    with pytest.raises(ConfigError, match="top_p"):
        within(BASE, share)
    with pytest.raises(ConfigError, match="alpha"):
        plausible(BASE, share)


def test_a_cut_that_leaves_nothing():
    left = Table.of({"": {"a": 1.0, "b": 0.0}}, name="left")
    right = Table.of({"": {"a": 0.0, "b": 1.0}}, name="right")
    with pytest.raises(PolicyError, match="leaves no possible token"):
        within(left, 0.9, of=right).next_log_probs(["a"])


@pytest.mark.parametrize(
    "build",
    [lambda p, of: within(p, 0.9, of), lambda p, of: plausible(p, 0.1, of), lambda p, of: top_k(p, 2, of)],
)
def test_nan_names_the_policy(build):
    bad = Table.of({"": {"a": math.nan, "b": 0.2, "c": 0.3, "d": 0.4}}, name="bad")
    for policy, of in ((bad, None), (BASE, bad), (bad, BASE)):
        with pytest.raises(PolicyError, match="from bad"):
            build(policy, of).next_log_probs(["a"])


def test_other_tokens_are_refused():
    other = Table.of({"": {"x": 1.0}}, name="other")
    for top_p in (0.5, 1.0):
        with pytest.raises(VocabularyError):
            within(BASE, top_p, of=other)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [1, 0, 0, 0]),
        (2, [2 / 3, 1 / 3, 0, 0]),
        (3, [4 / 7, 2 / 7, 1 / 7, 0]),  # of the equals c and d the lower id comes first
    ],
)
def test_the_likeliest_tokens_by_hand(k, expected):
    assert probs(top_k(BASE, k)) == pytest.approx(expected)


def test_as_many_tokens_as_there_are_is_the_policy_itself():
    assert top_k(BASE, 4) is BASE and top_k(BASE, 100) is BASE
    lm = tiny_lm()
    almost = top_k(lm, 12).next_log_probs(["t1"])
    assert torch.isneginf(almost).sum() == 1 and almost.exp().sum() == pytest.approx(1)


def test_a_product_ranks_the_likeliest_tokens_anew_and_adds_none():
    # (2/3, 1/3) * (0.1, 0.2): 1 : 1, and d, which OTHER likes best, stays impossible
    assert probs(top_k(BASE, 2) * OTHER) == pytest.approx([0.5, 0.5, 0, 0])
    assert probs(top_k(BASE, 2, of=OTHER)) == pytest.approx([0, 0, 0.5, 0.5])
    assert str(top_k(BASE, 2) * OTHER**0.5) == "top_k(base, 2) * other^0.5"


def test_answers_carry_the_mass_that_is_covered_and_the_kl_to_the_uncut_base():
    varied = Table.of({"": {"a": 0.5, "b": 0.3, "c": 0.2}, "b": {"a": 0.6, "b": 0.3, "c": 0.1}}, name="varied")
    guide = Table.of({"": {"a": 0.1, "b": 0.8, "c": 0.1}}, name="guide")
    for policy in (top_k(varied, 2), top_k(varied, 2) * guide):
        (answer,) = policy.generate("a", max_new_tokens=6, seed=0)
        mass = {0: 0.8, 1: 0.9}  # after a, after b
        assert answer.covered == pytest.approx([mass[token] for token in (0, *answer.token_ids[:-1])])
        # KL to the base = KL to what is left of it - log m
        inner = [
            float((p.exp() * (p - q)).nan_to_num().sum())
            for p, q in (
                (
                    policy.init([[0, *answer.token_ids[:i]]])[0][0],
                    top_k(varied, 2).init([[0, *answer.token_ids[:i]]])[0][0],
                )
                for i in range(6)
            )
        ]
        assert answer.kl == pytest.approx(
            [k - math.log(m) for k, m in zip(inner, answer.covered, strict=True)], abs=1e-5
        )
    assert (varied * guide).generate("a", max_new_tokens=2, seed=0)[0].covered == ()


@pytest.mark.parametrize("draft_tokens", [1, 3])
def test_drafted_tokens_carry_the_mass_too(draft_tokens):
    policy = top_k(BASE, 2) * OTHER
    (answer,) = policy.generate("a", max_new_tokens=9, seed=0, draft=BASE, draft_tokens=draft_tokens)
    assert answer.covered == pytest.approx([0.75] * 9)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, math.nan])
def test_numbers_of_tokens_out_of_range(k):
    with pytest.raises(ConfigError, match="k="):
        top_k(BASE, k)
