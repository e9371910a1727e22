import sys

import pytest

from trimtab.errors import ConfigError
from trimtab.rewards import Cached, Keywords, Length, Product, Regex, Repetition, Sum, load_reward


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory; the import path is restored afterwards."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("repetition", Repetition(3)),
        ({"name": "repetition", "n": 2}, Repetition(2)),
        ({"name": "length", "target": 20}, Length(20)),
        ({"name": "keywords", "words": ["sun", "sea"]}, Keywords(("sun", "sea"))),
        ({"name": "regex", "pattern": "a+"}, Regex("a+")),
        ({"name": "cached", "reward": "repetition", "size": 5}, Cached(Repetition(3), 5)),
        (
            {"name": "product", "parts": ["repetition", {"name": "length", "target": 2}]},
            Product((Repetition(3), Length(2))),
        ),
        ({"name": "sum", "parts": ["repetition"], "weights": [0.5]}, Sum((Repetition(3),), (0.5,))),
    ],
)
def test_built_in_rewards_load_by_name(spec, expected):
    assert load_reward(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("happiness", "one of sentiment, keywords"),
        ("length", "missing a required argument: 'target'"),
        ({"name": "length", "target": 5, "unit": "characters"}, "the options target"),
        ({"name": "sum", "parts": "repetition"}, "as a reward"),
        ({"name": "sum", "parts": []}, "at least one reward"),
        ({"name": "cached", "reward": "happiness"}, "'happiness'"),
        ({"target": 5}, "one of sentiment"),
        ({"name": ["length"]}, "one of sentiment"),
        ({"name": "m:f", "n": 1}, "without options"),
        (None, "one of sentiment"),
        (7, "one of sentiment"),
    ],
)
def test_wrong_specifications_say_what_is_accepted(spec, message):
    with pytest.raises(ConfigError, match=message):
        load_reward(spec)


def test_a_users_function_is_found_in_the_current_directory(here):
    (here / "shouts_trimtab.py").write_text(
        "def loud(prompts, completions, **columns):\n"
        "    import neighbour_trimtab\n"
        "    return [neighbour_trimtab.FULL * text.isupper() for text in completions]\n"
    )
    (here / "neighbour_trimtab.py").write_text("FULL = 1.0\n")
    reward = load_reward("shouts_trimtab:loud")
    assert reward.name == "shouts_trimtab:loud"
    assert reward(["p", "p"], ["LOUD", "soft"]) == [1.0, 0.0]


def test_a_users_reward_object_is_taken_as_it_is(here):
    (here / "objects_trimtab.py").write_text("from trimtab.rewards import Length\nshort = Length(5)\n")
    assert load_reward("objects_trimtab:short") == Length(5)


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        (None, "missing_trimtab:f", "No module named 'missing_trimtab'"),
        ("", "empty_trimtab:f", "has no attribute 'f'"),
        ("import nowhere_trimtab", "chain_trimtab:f", "No module named 'nowhere_trimtab'"),
        ("def f(:", "syntax_trimtab:f", "SyntaxError"),
        ("f = 3", "number_trimtab:f", "3 as a reward"),
        (None, ":f", "Empty module name"),
    ],
)
def test_a_users_mistake_is_a_clear_error(here, source, reference, message):
    if source is not None:
        (here / f"{reference.split(':')[0]}.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        load_reward(reference)
