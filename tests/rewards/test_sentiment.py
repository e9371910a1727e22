import pytest

from trimtab.errors import ConfigError
from trimtab.rewards import Sentiment, TfidfClassifier, load_reward


def test_it_is_trained_once_and_stored(small_home, monkeypatch):
    said = []
    reward = load_reward("sentiment", progress=said.append)
    assert len(said) == 1 and "training the sentiment reward" in said[0]
    good, bad = reward(["It is", "It is"], [" good", " bad"])
    assert good > 0.5 > bad

    monkeypatch.setattr(TfidfClassifier, "fit", None)  # a second training would fail
    assert load_reward("sentiment")(["It is", "It is"], [" good", " bad"]) == [good, bad]
    stored = small_home / "classifiers" / "sentiment-imdb-1"
    assert sorted(path.name for path in stored.iterdir()) == ["terms.json", "weights.safetensors"]


def test_the_scope_decides_whether_the_prompt_counts(small_home):
    alone, whole = Sentiment.load(), Sentiment.load(scope="text")
    prompts, completions = ["a good", "a bad"], [" film", " film"]
    assert len(set(alone(prompts, completions))) == 1
    good, bad = whole(prompts, completions)
    assert good > bad
    assert (alone.name, whole.name) == ("sentiment", "sentiment(text)")


def test_an_unknown_scope_is_refused(small_home):
    with pytest.raises(ConfigError, match="completion or text"):
        load_reward({"name": "sentiment", "scope": "prompt"})


def test_nothing_is_stored_when_training_fails(small_home, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(ConfigError, match="eval"):
        load_reward("sentiment")
    assert not (small_home / "classifiers" / "sentiment-imdb-1").exists()


@pytest.mark.slow
@pytest.mark.network
def test_its_accuracy_on_reviews_it_has_not_seen():
    from trimtab.assets import movie_reviews

    reviews = movie_reviews("imdb", "test")
    found = Sentiment.load()([""] * len(reviews.texts), list(reviews.texts))
    right = sum((score > 0.5) == bool(label) for score, label in zip(found, reviews.labels, strict=True))
    assert right / len(found) > 0.89
