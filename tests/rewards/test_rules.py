"""The rewards that are rules: keywords, length, repetition, regex."""

import pytest

from trimtab.errors import ConfigError
from trimtab.rewards import Keywords, Length, Regex, Repetition


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["sun", "sea"], "The SUN over the sea.", 1.0),
        (["sun", "sea"], "sunny seasons", 0.0),
        (["open air", "C++"], "in the open air", 0.5),
        (["C++"], "we wrote C++, then left", 1.0),
        (["a.b"], "axb", 0.0),
        (["été"], "un été chaud", 1.0),
        (["sun"], "", 0.0),
    ],
)
def test_keywords_are_whole_words(words, text, expected):
    assert Keywords(words)(["p"], [text]) == [expected]


@pytest.mark.parametrize(("count", "expected"), [(0, 0.0), (1, 0.25), (4, 1.0), (6, 0.5), (8, 0.0), (100, 0.0)])
def test_length_falls_linearly_on_both_sides(count, expected):
    assert Length(4)(["p"], [" word" * count]) == [expected]


@pytest.mark.parametrize(
    ("n", "text", "expected"),
    [
        (1, "a a a a", 1 / 4),
        (2, "a b a b a", 2 / 4),  # ab ba ab ba: 2 of 4 differ
        (3, "The cat. The cat.", 3 / 4),  # the-cat-. cat-.-the .-the-cat the-cat-.: 3 of 4 differ
        (1, "! ! ! !", 1 / 4),
        (3, "two words", 1.0),
        (3, "", 1.0),
    ],
)
def test_repetition_is_the_share_of_different_ngrams(n, text, expected):
    assert Repetition(n)(["p"], [text]) == [expected]


def test_regex_is_found_anywhere():
    assert Regex(r"(?i)\bfilm$")(["p"] * 3, ["A FILM", "film!", "microfilm"]) == [1.0, 0.0, 0.0]


def test_names_tell_the_options_apart():
    rewards = [
        Keywords(["a"]),
        Keywords(["b"]),
        Length(3),
        Length(4),
        Repetition(2),
        Repetition(3),
        Regex("a"),
        Regex("b"),
    ]
    assert len({reward.name for reward in rewards}) == len(rewards)
    assert all(reward.origins == {reward.name} for reward in rewards)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keywords([]),
        lambda: Keywords("sun"),
        lambda: Keywords(["sun", " "]),
        lambda: Keywords(5),
        lambda: Length(0),
        lambda: Length(2.5),
        lambda: Length("20"),
        lambda: Repetition(0),
        lambda: Repetition(None),
        lambda: Regex("(unclosed"),
        lambda: Regex(7),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError):
        make()
