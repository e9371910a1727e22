import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trimtab.errors import AssetError, ConfigError
from trimtab.rewards import TfidfClassifier
from trimtab.rewards.tfidf import terms_of

TEXTS = ["a good good film", "good fun, a joy!", "a bad film", "bad, bad and dull", "dull film", "a joy of a film"]
LABELS = [1, 1, 0, 0, 0, 1]
UNSEEN = ["a good joy", "dull dull dull", "nothing known here", "", "good bad good <br /> bad film!"]


@pytest.fixture(scope="module")
def classifier():
    return TfidfClassifier.fit(TEXTS, LABELS, min_count=1)


def test_terms_are_words_and_pairs():
    assert terms_of("It's SO bad?<br />No, I") == ["it", "so", "bad", "?", "no", "it so", "so bad", "bad ?", "? no"]
    assert terms_of("") == terms_of("I") == []


def test_it_computes_what_scikit_learn_computes(classifier):
    vectorizer = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=300).fit(vectorizer.fit_transform(TEXTS), LABELS)
    expected = model.predict_proba(vectorizer.transform(UNSEEN))[:, 1]
    # The classifier keeps float32 and was trained in it; the oracle is float64 throughout.
    assert classifier.probabilities(UNSEEN) == pytest.approx(expected, abs=1e-3)


def test_a_hand_computed_probability():
    columns = {"good": 0, "bad": 1}
    by_hand = TfidfClassifier(columns, np.array([2.0, 1.0], "f4"), np.array([1.0, -1.0], "f4"), 0.5)
    # x = (2 * (1 + ln 1), 1 * (1 + ln 2)) = (2, 1.693147); |x| = 2.620448
    # logit = 0.5 + (2 - 1.693147) / 2.620448 = 0.617100; sigmoid = 0.649559
    assert by_hand.probabilities(["good bad bad"]) == pytest.approx([0.649559], abs=1e-6)


def test_a_text_without_known_terms_gets_the_prior():
    unknown = TfidfClassifier({}, np.zeros(0, "f4"), np.zeros(0, "f4"), 0.0)
    assert unknown.probabilities(["anything", ""]) == [0.5, 0.5]


def test_rare_terms_are_left_out():
    # "film" is in 4 texts; "bad", "dull", "good" and "joy" are in 2 each; every other word and every pair is in 1.
    assert set(TfidfClassifier.fit(TEXTS, LABELS, min_count=3).columns) == {"film"}
    assert set(TfidfClassifier.fit(TEXTS, LABELS, min_count=2).columns) == {"film", "bad", "dull", "good", "joy"}


def test_a_saved_classifier_is_the_same_to_the_bit(classifier, tmp_path):
    classifier.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["terms.json", "weights.safetensors"]
    assert TfidfClassifier.load(tmp_path).probabilities(UNSEEN) == classifier.probabilities(UNSEEN)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no json", "fewer terms", "no weights"])
def test_damaged_files_are_an_asset_error(classifier, tmp_path, damage):
    classifier.save(tmp_path)
    match damage:
        case "missing":
            (tmp_path / "terms.json").unlink()
        case "truncated":
            file = tmp_path / "weights.safetensors"
            file.write_bytes(file.read_bytes()[:-9])
        case "no json":
            (tmp_path / "terms.json").write_text("[")
        case "fewer terms":
            (tmp_path / "terms.json").write_text(json.dumps(["good"]))
        case "no weights":
            save_file({"bias": np.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(AssetError, match="train again"):
        TfidfClassifier.load(tmp_path)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ConfigError, match=r'pip install "trimtab\[eval\]"'):
        TfidfClassifier.fit(TEXTS, LABELS)
