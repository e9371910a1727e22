"""Pieces of text, token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trimtab.policies.speller import Speller
from trimtab.policies.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def bytes_vocabulary():
    """Return a vocabulary with a token for each byte, and one special token."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    table = {letter: i for i, letter in enumerate(sorted(letters))} | {"<end>": 256}
    backend = Tokenizer(models.BPE(table, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    return Vocabulary.of_tokenizer(tokenizer, columns=257, end_ids=frozenset([256]))


def test_a_character_comes_with_the_token_that_completes_it(bytes_vocabulary):
    ids = bytes_vocabulary.encode("aé")
    speller = Speller(bytes_vocabulary)
    assert [speller.push([token]) for token in ids] == ["a", "", "é"]
    assert speller.pieces == ["a", "", "é"]


@given(st.text(max_size=20))
def test_pieces_are_the_text_of_all_tokens(bytes_vocabulary, text):
    ids = bytes_vocabulary.encode_answer(text) if text else []
    speller = Speller(bytes_vocabulary)
    assert "".join(speller.push([token]) for token in ids) == text == "".join(speller.pieces)
    assert len(speller) == len(ids)


def test_special_tokens_have_empty_pieces(bytes_vocabulary):
    speller = Speller(bytes_vocabulary)
    speller.push([256, *bytes_vocabulary.encode("a"), 256])
    assert speller.pieces == ["", "a", ""]


def test_half_a_character_at_the_end_is_held_back(bytes_vocabulary):
    speller = Speller(bytes_vocabulary)
    assert speller.push(bytes_vocabulary.encode("né")[:2]) == "n"


def test_words_of_a_toy_are_set_apart():
    speller = Speller(Vocabulary.of_pieces(["the", "end", "<end>"], end="<end>"))
    speller.push([0])
    assert speller.push([1, 2]) == " end"
