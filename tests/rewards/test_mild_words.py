import pytest

from trimtab.errors import ConfigError
from trimtab.rewards import MildWords, Vader, check_independent


def test_each_harsh_word_costs_by_its_rating():
    reward = MildWords({"idiot": -2.0, "kill": -4.0, "sad": -1.0, "good": 2.0, "can't stand": -2.0, "ain't": -1.5})
    texts = ["Idiot! idiot... good", "KILL it, idiot", "sad and good", "", "idiotic_kill", "It ain\u2019t"]
    # 2/4 + 2/4 = 1; 4/4 + 2/4 = 1.5; nothing; nothing; "kill" after "_" alone; 1.5/4
    expected = [1 / 2, 1 / 2.5, 1.0, 1.0, 1 / 2, 1 / 1.375]
    assert reward(["p"] * 6, texts) == pytest.approx(expected)
    assert MildWords({"idiot": -2.0}, "text")(["idiot"], [" it is"]) == [pytest.approx(1 / 1.5)]


@pytest.mark.parametrize("words", [{}, {"good": 2.0, "sad": -1.0}])
def test_words_of_which_none_is_harsh_are_refused(words):
    with pytest.raises(ConfigError, match="none of them rated"):
        MildWords(words)


def test_the_lexicon_is_not_judged_by_itself():
    reward = MildWords.load()
    bad, sharp, fine = reward(["p"] * 3, [" what a bastard", " what a stupid day", " what a day"])
    assert bad < sharp < fine == 1
    with pytest.raises(ConfigError, match="vader"):
        check_independent(reward, Vader.load())
