import csv

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "dull", "fun", "a"]


@pytest.fixture(scope="session")
def word_tokenizer():
    """A tokenizer of a few words, for models made in a test."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


@pytest.fixture
def small_bert():
    """A function that makes a tiny BERT of a given class with random weights."""
    from transformers import BertConfig

    def make(kind, **settings):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.5,
            **settings,
        )
        return kind(config).eval()

    return make


@pytest.fixture
def small_home(tmp_path, monkeypatch):
    """A home with a few reviews, on which the classifiers are trained at once."""
    folder = tmp_path / "home" / "data" / "movie-reviews"
    folder.mkdir(parents=True)
    rows = [
        (f"{'a good film' if label else 'a bad film'} number {n}", label, source)
        for source in ("imdb", "rotten_tomatoes")
        for n in range(60)
        for label in (0, 1)
    ]
    with (folder / "combined_movie_reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "source"), *rows])
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
