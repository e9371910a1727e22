"""Pieces: one a token, which make the text."""

import json
import math

from trimtab.decoding.answer import Answer, Written
from trimtab.engines.base import Update
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.spelled import Growing, Piece, piece_to_dict

WORDS = Vocabulary.of_pieces(["a", "b", "<end>"], end="<end>")


def written(*tokens):
    return Written(tokens, tuple(-float(token) for token in tokens), (-9.0,) * len(tokens), (0.5,) * len(tokens))


def answer(text, *tokens):
    told = written(*tokens)
    return Answer("", text, tokens, told.log_probs, told.reference_log_probs, told.kl, "end")


def test_pieces_come_once_and_make_the_text():
    growing, text, pieces = Growing(WORDS, True), "", []
    for update in [
        Update(0, 0, "a", written=written(0)),
        Update(0, 0, "a", written=written(0)),
        Update(0, 0, "a b", written=written(0, 1)),
        Update(0, 0, "a b b", answer("a b b", 0, 1, 1, 2)),
    ]:
        new, more = growing.take(update)
        text, pieces = text + new, pieces + more
    assert text == "a b b" == "".join(piece.text for piece in pieces)
    assert [piece.token for piece in pieces] == [0, 1, 1, 2] and pieces[1].log_prob == -1.0


def test_text_that_is_held_comes_later():
    growing = Growing(WORDS, True)
    assert growing.take(Update(0, 0, "", written=written(0)))[0] == ""
    assert growing.take(Update(0, 0, "a b", written=written(0, 1)))[0] == "a b"


def test_tokens_are_left_out_where_nobody_asked():
    growing = Growing(WORDS, False)
    assert growing.take(Update(0, 0, "a", written=written(0))) == ("a", [])


def test_impossible_tokens_can_be_written():
    told = piece_to_dict(Piece("a", 0, -math.inf, -math.inf, math.inf, None), WORDS, 20)
    assert json.loads(json.dumps(told, allow_nan=False))["kl"] is None
