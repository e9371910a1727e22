"""Replies: OpenAI's shapes, whatever the numbers are."""

import json
import math

import pytest

from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.replies import Chosen, Shape
from trimtab.serving.spelled import Piece

WORDS = Vocabulary.of_pieces(["a", "b"])
PIECES = [Piece("a", 0, -1.0, -2.0, 0.5, None), Piece(" b", 1, -math.inf, -math.inf, math.inf, None)]


def shape(kind="completion", alternatives=None, details=False):
    return Shape(kind, "id", 1, "m", "f", WORDS, alternatives, details)


def chosen(pieces=PIECES, kl=math.inf, score=None, found=None):
    return Chosen(0, "a b", "length", pieces, kl, 2, score, found)


@pytest.mark.parametrize("kind", ["completion", "chat"])
@pytest.mark.parametrize("alternatives", [None, 0])
@pytest.mark.parametrize("details", [True, False])
def test_every_reply_is_json(kind, alternatives, details):
    made = shape(kind, alternatives, details)
    found = {"scores": [math.nan, -math.inf]}
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
