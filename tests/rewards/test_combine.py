import math

import pytest

from trimtab.errors import ConfigError, RewardError
from trimtab.rewards import Length, Product, Regex, Repetition, Sum, as_reward, score

PROMPTS, TEXTS = ["p", "p"], ["so so", "so good so good"]
# length(4): 1 - |2 - 4| / 4 = 0.5 and 1; repetition(1): 1 of 2 and 2 of 4 words differ, 0.5 and 0.5; regex: 0 and 1.
PARTS = (Length(4), Repetition(1), Regex("good"))


def test_a_sum_weighs_its_parts():
    assert Sum(PARTS, (1.0, 2.0, -0.5))(PROMPTS, TEXTS) == [1.5, 1.5]
    assert Sum(PARTS)(PROMPTS, TEXTS) == [1.0, 2.5]


def test_a_product_multiplies_its_parts():
    assert Product(PARTS)(PROMPTS, TEXTS) == [0.0, 0.5]
    assert Product(PARTS[:2])(PROMPTS, TEXTS) == [0.25, 0.5]


def test_they_nest_and_their_names_say_how():
    both = Product((Sum(PARTS[:2], (1.0, 0.5)), PARTS[2]))
    assert both.name == "(1*length(4) + 0.5*repetition(1)) * regex(good)"
    assert both(PROMPTS, TEXTS) == [0.0, 1.25]
    assert both.origins == {"length(4)", "repetition(1)", "regex(good)"}


def test_an_error_names_the_part():
    def broken(completions, **_):
        return [math.nan for _ in completions]

    with pytest.raises(
        RewardError, match=r":test_an_error_names_the_part\.<locals>\.broken' gave nan for row 0: 'so so'"
    ):
        score(Sum((PARTS[0], Product((PARTS[1], as_reward(broken))))), PROMPTS, TEXTS)


def test_columns_reach_every_part():
    def wanted(completions, answer, **_):
        return [float(text == each) for text, each in zip(completions, answer, strict=True)]

    assert Product((as_reward(wanted), PARTS[1]))(PROMPTS, TEXTS, answer=["so so", "no"]) == [0.5, 0.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sum(()),
        lambda: Sum(PARTS, (1.0,)),
        lambda: Sum(PARTS[:1], (math.nan,)),
        lambda: Sum(PARTS[:1], ("1",)),
        lambda: Sum("sentiment"),
        lambda: Product(()),
        lambda: Product((Length,)),
    ],
)
def test_wrong_parts_and_weights_are_refused(make):
    with pytest.raises(ConfigError):
        make()
