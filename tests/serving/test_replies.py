"""Replies: OpenAI's shapes, whatever the numbers are."""

import json
import math

import pytest

from trimtab.decoding.detail import Choice, Detail
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.numbers import finite
from trimtab.serving.replies import Chosen, Shape
from trimtab.serving.spelled import Piece

WORDS = Vocabulary.of_pieces(["a", "b"])
PIECES = [Piece("a", 0, -1.0, -2.0, 0.5, None), Piece(" b", 1, -math.inf, -math.inf, math.inf, None)]


def shape(kind="completion", alternatives=None, details=None):
    return Shape(kind, "id", 1, "m", "f", WORDS, alternatives, details)


def chosen(pieces=PIECES, kl=math.inf, score=None, found=None):
    return Chosen(0, "a b", "length", pieces, kl, 2, score, found)


@pytest.mark.parametrize("kind", ["completion", "chat"])
@pytest.mark.parametrize("alternatives", [None, 0])
@pytest.mark.parametrize("details", [0, None])
def test_every_reply_is_json(kind, alternatives, details):
    made = shape(kind, alternatives, details)
    found = finite({"scores": [math.nan, -math.inf]})
    whole = made.whole([chosen(score=math.nan, found=found)], 1, {})
    pieces = [made.first(0), made.piece(0, "a b", PIECES), made.last(chosen()), made.counted(1, 2)]
    for each in [whole, *pieces]:
        assert json.loads(json.dumps(each, allow_nan=False)) == each
    assert whole["choices"][0]["trimtab"]["kl"] is None
    assert whole["choices"][0]["trimtab"]["found"] == {"scores": [None, None]}


def test_log_probabilities_of_none_are_told_as_openai_does():
    told = shape(alternatives=0).whole([chosen()], 1, {})["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["a", " b"],
        "token_logprobs": [-1.0, -9999.0],
        "top_logprobs": None,
        "text_offset": [0, 1],
    }
    content = shape("chat", 0).whole([chosen()], 1, {})["choices"][0]["logprobs"]["content"]
    assert content[1] == {"token": " b", "logprob": -9999.0, "bytes": [32, 98], "top_logprobs": []}
    assert shape().whole([chosen()], 1, {})["choices"][0]["logprobs"] is None


def test_offsets_of_a_stream_go_on():
    made = shape(alternatives=0)
    first, second = (made.piece(0, piece.text, [piece]) for piece in PIECES)
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in (first, second)] == [[0], [1]]
    other = made.piece(1, "a", PIECES[:1])
    assert other["choices"][0]["logprobs"]["text_offset"] == [0]


def test_an_empty_answer_has_empty_lists():
    empty = Chosen(0, "", "end", [], None, 0)
    reply = shape("chat", 0).whole([empty], 1, {})
    assert reply["choices"][0]["message"]["content"] == "" and reply["choices"][0]["logprobs"]["content"] == []
    assert reply["usage"] == {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}


def detail(*tokens):
    """Return a step that picked the last of some tokens, the others being likelier."""
    choices = [Choice(token, -0.5 - place, -1.0, {}) for place, token in enumerate(tokens)]
    return Detail(choices[-1], tuple(choices[:-1]))


def test_of_likely_tokens_that_read_alike_the_likeliest_counts_and_the_picked_one_is_among_them():
    same = Vocabulary(3, "f", None, ("a", "a", "b"))
    piece = Piece("b", 2, -2.5, -1.0, 0.1, detail(0, 1, 2))
    told = Shape("completion", "id", 1, "m", "f", same, 2, None).piece(0, "b", [piece])
    assert told["choices"][0]["logprobs"]["top_logprobs"] == [{"b": -2.5, "a": -0.5}]


def test_details_have_as_many_alternatives_as_they_asked_for_whatever_logprobs_want():
    piece = Piece("b", 1, -1.5, -1.0, 0.1, detail(0, 1))
    told = shape(alternatives=5, details=0).piece(0, "b", [piece])["choices"][0]
    assert told["trimtab"]["tokens"][0]["alternatives"] == [] and len(told["logprobs"]["top_logprobs"][0]) == 2


def test_a_part_of_a_character_has_no_bytes():
    piece = Piece("\N{REPLACEMENT CHARACTER}", 1, -1.5, -1.0, 0.1, None)
    told = shape("chat", alternatives=0).piece(0, "", [piece])["choices"][0]
    assert told["logprobs"]["content"][0]["bytes"] is None
