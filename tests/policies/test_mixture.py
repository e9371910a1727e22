"""Mixtures in probability space."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import ConfigError, KnobError, PolicyError, VocabularyError
from trimtab.policies.knob import Knob
from trimtab.policies.mixture import mix
from trimtab.policies.toy import Table

PROMPTS = [[0, 1], [2], [1, 1, 0]]
A, B = (Table.random(5, seed=seed, name=name) for seed, name in enumerate("ab"))


def table(name, *probabilities):
    return Table.of({"": dict(zip("xyz", probabilities, strict=False))}, name=name)


P, Q = table("p", 0.5, 0.4, 0.1), table("q", 0.1, 0.5, 0.4)


def test_a_sum_by_hand():
    # (0.5 + 3 * 0.1) : (0.4 + 3 * 0.5) : (0.1 + 3 * 0.4) = 0.8 : 1.9 : 1.3, sum 4
    torch.testing.assert_close(mix((1, P), (3, Q)).next_log_probs(["x"]).exp(), torch.tensor([[0.2, 0.475, 0.325]]))


def test_negatives_are_clipped_and_the_rest_renormalised():
    # 2 p - q = 0.9, 0.3, -0.2 -> 0; sum 1.2
    said = mix((2, P), (-1, Q)).next_log_probs(["x"])
    torch.testing.assert_close(said.exp(), torch.tensor([[0.75, 0.25, 0.0]]))
    assert said[0, 2] == -math.inf


def test_the_tail_does_not_underflow():
    # e^-200 is 0 in single precision; half of it is still exp(-200 - log 2)
    said = {P: torch.tensor([[[0.0, -200.0, -torch.inf]]]), Q: torch.tensor([[[0.0, -torch.inf, -torch.inf]]])}
    mixed = mix((1, P), (1, Q)).combine(said, {})[0, 0]
    assert mixed[1].item() == pytest.approx(-200 - math.log(2), abs=1e-3)
    assert mixed[2] == -math.inf


def test_weight_0_leaves_the_other_bit_for_bit():
    mixture = mix((1 + Knob("a", 0.0), A), (-1 * Knob("a", 0.0), B))
    assert torch.equal(mixture.init(PROMPTS)[0], A.init(PROMPTS)[0])
    assert mixture.leaves({"a": torch.zeros(3)}) == (A,)
    assert mixture.leaves({"a": torch.tensor([0.0, 1.0])}) == (A, B)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-0.5, 2).map(lambda x: round(x, 3)), min_size=3, max_size=3))
def test_rows_with_their_own_knobs_equal_separate_runs_and_plain_arithmetic(values):
    knob = Knob("a")
    mixture = mix((1 + knob, A), (-1 * knob, B))
    together = mixture.init(PROMPTS, [{"a": value} for value in values])[0]
    for row, (prompt, value) in enumerate(zip(PROMPTS, values, strict=True)):
        alone = mixture.init([prompt], {"a": value})[0][0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
        plain = ((1 + value) * A.init([prompt])[0][0].exp() - value * B.init([prompt])[0][0].exp()).clamp(min=0)
        torch.testing.assert_close(alone.exp(), plain / plain.sum(), atol=1e-5, rtol=1e-4)


def test_equal_parts_merge_and_nested_mixtures_stay():
    assert mix((1, A), (2, A), (3, B)) == mix((3, A), (3, B))
    inner = mix((0.5, A), (0.5, B))
    # clipping comes between, so the inner one is not flattened: 1 * (A + B) / 2 - 0.5 * A
    assert mix((1, inner), (-0.5, A)).parts[0][1] == inner


def test_a_mixture_is_a_policy():
    mixture = mix((0.5, P), (0.5, Q))
    # (0.3, 0.45, 0.25) * (0.5, 0.4, 0.1)^1 = 0.15, 0.18, 0.025, sum 0.355
    torch.testing.assert_close(
        (mixture * P).next_log_probs(["x"]).exp(), torch.tensor([[0.15, 0.18, 0.025]]) / 0.355, atol=1e-6, rtol=1e-5
    )
    assert mixture.reference == P
    assert str(mixture**2 / Q) == "mix(0.5, p, 0.5, q)^2 / q"
    assert mixture.generate("x", max_new_tokens=2, temperature=0)[0].text == "y y"


@pytest.mark.parametrize("weights", [(0, 0), (-1, -1), (-1, 0)])
def test_nothing_positive_left(weights):
    with pytest.raises(PolicyError, match="no token keeps a positive probability"):
        mix((weights[0], P), (weights[1], Q)).next_log_probs(["x"])


def test_nothing_positive_left_in_one_row():
    mixture = mix((Knob("a"), A))
    with pytest.raises(PolicyError, match="some row"):
        mixture.init(PROMPTS, [{"a": 1.0}, {"a": -1.0}, {"a": 1.0}])


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_nan_names_the_part(weight):
    bad = table("bad", math.nan, 0.5, 0.5)
    with pytest.raises(PolicyError, match="from bad"):
        mix((1, P), (weight, bad)).next_log_probs(["x"])
    with pytest.raises(PolicyError, match="from bad"):
        mix((1, bad)).next_log_probs(["x"])


def test_bad_arguments():
    with pytest.raises(ConfigError, match="of nothing"):
        mix()
    with pytest.raises(KnobError):
        mix((math.nan, P))
    with pytest.raises(KnobError, match="two different knobs"):
        mix((Knob("a", 1.0), P), (Knob("a", 2.0), Q))
    with pytest.raises(VocabularyError):
        mix((1, P), (1, A))
