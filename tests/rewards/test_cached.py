import pytest

from trimtab.errors import ConfigError, RewardError
from trimtab.rewards import Cached, Length, as_reward, score


@pytest.fixture
def asked():
    return []


@pytest.fixture
def counting(asked):
    def count(prompts, completions, **columns):
        asked.append(list(zip(prompts, completions, *columns.values(), strict=True)))
        return [float(len(prompt + text)) for prompt, text in zip(prompts, completions, strict=True)]

    return as_reward(count)


def test_a_row_is_scored_once(counting, asked):
    remembered = Cached(counting)
    assert remembered(["p", "p", "p"], ["a", "bb", "a"]) == [2.0, 3.0, 2.0]
    assert remembered(["p", "q"], ["bb", "bb"]) == [3.0, 3.0]
    assert asked == [[("p", "a"), ("p", "bb")], [("q", "bb")]]


def test_all_remembered_asks_nobody(counting, asked):
    remembered = Cached(counting)
    assert remembered(["p"], ["a"]) == remembered(["p"], ["a"])
    assert len(asked) == 1


def test_rows_with_other_columns_are_other_rows(counting, asked):
    remembered = Cached(counting)
    remembered(["p", "p"], ["a", "a"], answer=["x", "y"])
    remembered(["p"], ["a"], answer=["y"])
    assert asked == [[("p", "a", "x"), ("p", "a", "y")]]


def test_the_least_recently_asked_row_is_forgotten(counting, asked):
    remembered = Cached(counting, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):  # c pushes b out, as a was asked for after it
        remembered(["p"], [text])
    assert [rows[0][1] for rows in asked] == ["a", "b", "c", "b"]
    assert len(remembered.memory) == 2


def test_a_batch_larger_than_the_memory_is_scored_whole(counting):
    assert Cached(counting, size=1)(["p"] * 3, ["a", "bb", "ccc"]) == [2.0, 3.0, 4.0]


def test_failures_are_not_remembered():
    answers = iter([[None], [1.0]])
    remembered = Cached(as_reward(lambda **_: next(answers)))
    with pytest.raises(RewardError):
        score(remembered, ["p"], ["a"])
    assert score(remembered, ["p"], ["a"]) == [1.0]


def test_it_is_the_same_reward_to_a_judge():
    assert (Cached(Length(3)).name, Cached(Length(3)).origins) == ("length(3)", {"length(3)"})


@pytest.mark.parametrize("size", [0, -1, "10"])
def test_a_wrong_size_is_refused(size):
    with pytest.raises(ConfigError):
        Cached(Length(3), size=size)
