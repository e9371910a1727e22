import csv
import hashlib
from pathlib import Path

import pytest

from trimtab.assets import movie_reviews, review_prompts
from trimtab.assets.datasets import openings
from trimtab.errors import ConfigError

REVIEWS = [(f"review {n} has quite a few words in it", n % 2) for n in range(200)]


def store(monkeypatch: pytest.MonkeyPatch, home: Path, rows: list[tuple[str, int, str]]) -> None:
    folder = home / "data" / "movie-reviews"
    folder.mkdir(parents=True)
    with (folder / "combined_movie_reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "source"), *rows])
    monkeypatch.setenv("TRIMTAB_HOME", str(home))


def test_the_splits_share_nothing_and_lose_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store(monkeypatch, tmp_path, [(text, label, "imdb") for text, label in REVIEWS])
    train, test = movie_reviews("imdb", "train"), movie_reviews("imdb", "test")
    found = list(zip(train.texts + test.texts, train.labels + test.labels, strict=True))
    assert sorted(found) == sorted(REVIEWS)
    # By definition: the test texts are those whose SHA-256, read as a number, is divisible by 5.
    divisible = {text for text, _ in REVIEWS if int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0}
    assert set(test.texts) == divisible
    assert 0 < len(divisible) < 80


def test_the_order_is_that_of_the_hashes_whatever_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [(text, label, "imdb") for text, label in REVIEWS]
    with monkeypatch.context() as patch:
        store(patch, tmp_path / "one", rows)
        first = movie_reviews("imdb", "train")
    store(monkeypatch, tmp_path / "two", rows[::-1])
    assert movie_reviews("imdb", "train") == first
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in first.texts]
    assert hashes == sorted(hashes)


def test_a_text_is_there_once_and_only_in_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        ("twice, with\na line break", 1, "imdb"),
        ("twice, with\na line break", 0, "imdb"),
        ("x", 0, "rotten_tomatoes"),
    ]
    store(monkeypatch, tmp_path, rows)
    reviews = [movie_reviews("imdb", split) for split in ("train", "test")]
    assert [text for part in reviews for text in part.texts] == ["twice, with\na line break"]
    assert [label for part in reviews for label in part.labels] == [1], "the first label counts"


@pytest.mark.parametrize(("source", "split"), [("imdb", "dev"), ("rt", "train")])
def test_an_unknown_source_or_split_is_refused(source: str, split: str) -> None:
    with pytest.raises(ConfigError, match="rotten_tomatoes"):
        movie_reviews(source, split)  # type: ignore[arg-type]


def test_openings_have_four_to_eight_words_and_no_markup() -> None:
    texts = ("too few words", "<br />Markup near the beginning of it", *(text for text, _ in REVIEWS))
    found = openings(texts)
    assert len(found) == len(set(found)) == 200
    assert {opening.count(" ") + 1 for opening in found} == {4, 5, 6, 7, 8}
    assert all(text.startswith(opening) for opening, (text, _) in zip(found, REVIEWS, strict=True))


def test_no_test_prompt_is_a_training_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # 300 reviews with 3 openings of 4 words: every opening of the test split is also one of the training split.
    common = [(f"{word} film is a {n}", n % 2, "imdb") for n in range(100) for word in ("this", "that", "our")]
    unlike = [(text, label, "imdb") for text, label in REVIEWS]
    store(monkeypatch, tmp_path, common + unlike)
    train, test = review_prompts("train"), review_prompts("test")
    assert "this film is a" in train
    assert "this film is a" in openings(movie_reviews("imdb", "test").texts)
    assert test and not set(train) & set(test)


@pytest.mark.slow
@pytest.mark.network
def test_the_real_reviews() -> None:
    sizes = {(s, p): len(movie_reviews(s, p).texts) for s in ("imdb", "rotten_tomatoes") for p in ("train", "test")}  # type: ignore[arg-type]
    assert sizes == {
        ("imdb", "train"): 19926,
        ("imdb", "test"): 4978,
        ("rotten_tomatoes", "train"): 6836,
        ("rotten_tomatoes", "test"): 1694,
    }
    assert len(review_prompts("test")) > 4000
