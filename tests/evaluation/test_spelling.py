import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trimtab.decoding.answer import Answer
from trimtab.evaluation.report import marks
from trimtab.evaluation.spelling import spell
from trimtab.policies.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def bytes_vocabulary():
    """A byte-level tokenizer without merges: every byte is a token, so an emoji is four."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    table = {"<end>": 0, **{character: i for i, character in enumerate(alphabet, 1)}}
    backend = Tokenizer(models.BPE(table, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    return Vocabulary.of_tokenizer(tokenizer, columns=len(table), end_ids=frozenset({0}))


def spelled(vocabulary, text, *, end=False, shift=0.5):
    ids = tuple(vocabulary.encode(text)) + ((0,) if end else ())
    own, reference = (-1.0,) * len(ids), (-1.0 - shift,) * len(ids)
    return Answer("é", text, ids, own, reference, (0.0,) * len(ids), "end" if end else "length")


def test_bytes_of_one_character_stay_together(bytes_vocabulary):
    pieces = spell(spelled(bytes_vocabulary, " a😀é"), bytes_vocabulary)
    assert [piece.text for piece in pieces] == [" ", "a", "😀", "é"]
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 1), (1, 2), (2, 6), (6, 8)]


def test_an_answer_cut_inside_a_character_still_covers_every_token(bytes_vocabulary):
    whole = spelled(bytes_vocabulary, "a😀")
    ids = whole.token_ids[:3]
    cut = Answer("é", "a", ids, (-1.0,) * 3, (-1.0,) * 3, (0.0,) * 3, "length")
    pieces = spell(cut, bytes_vocabulary)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 1), (1, 3)]


def test_the_shift_of_a_piece_is_the_sum_over_its_tokens(bytes_vocabulary):
    found = marks(spelled(bytes_vocabulary, " a😀", shift=0.5), bytes_vocabulary)
    assert [mark.text for mark in found] == ["a", "😀"]  # the space that separates prompt and answer is not shown
    assert [mark.shift for mark in found] == pytest.approx([0.5, 2.0])  # four bytes of 0.5 nats


def test_the_end_of_an_answer_is_marked(bytes_vocabulary):
    assert [mark.text for mark in marks(spelled(bytes_vocabulary, "a", end=True), bytes_vocabulary)] == ["a", " ∎"]


def test_line_ends_can_be_seen(bytes_vocabulary):
    assert [mark.text for mark in marks(spelled(bytes_vocabulary, "a\nb"), bytes_vocabulary)] == ["a", "↵\n", "b"]
