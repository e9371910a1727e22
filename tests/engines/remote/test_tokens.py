"""From what comes over the wire to ids: exactly, counted, or refused."""

import math

import pytest

from trimtab.engines.remote.tokens import Tokens
from trimtab.engines.remote.wire import positions_of, text_of, top_of
from trimtab.errors import EndpointError, PromptError
from trimtab.policies.vocabulary import Vocabulary

WORDS = Vocabulary.of_pieces(["a", "b", "c"])


class Bytes:
    """A tokenizer of four tokens, two of which are half a character; puts <s> before every text."""

    pieces = ("<s>", "x", "\ufffd", "\ufffd")

    def __call__(self, text):
        return {"input_ids": [0, *(self.pieces.index(letter) for letter in text)]}

    def batch_decode(self, rows):
        return [self.decode(row) for row in rows]

    def decode(self, ids, **_):
        return "".join(self.pieces[i] for i in ids)


HALVES = Vocabulary(4, "halves", Bytes())


def said(top):
    return {"choices": [{"logprobs": {"top_logprobs": [top]}}]}


def test_tokens_that_are_none_or_several_are_counted_and_left_out():
    read = Tokens(HALVES, "text").read([("x", -1.0), ("\ufffd", -1.5), ("y", -2.0)])
    assert (read.ids, read.log_probs, read.unknown) == ((1,), (-1.0,), 2)
    assert read.spoken == 4  # the one text may have stood for two tokens
    read = Tokens(WORDS, "id").read([("token_id:2", -1.0), ("token_id:3", -2.0)])
    assert (read.ids, read.unknown) == ((2,), 1)  # 3 is padding


@pytest.mark.parametrize(
    ("form", "tokens"), [("id", ["a", "b"]), ("text", ["token_id:1", "token_id:2"]), ("id", ["token_id:1", "b"])]
)
def test_tokens_that_change_their_form_are_an_error(form, tokens):
    with pytest.raises(EndpointError, match="before"):
        Tokens(WORDS, form).read([(token, -1.0) for token in tokens])


def test_a_text_that_looks_like_an_id_is_a_text_among_texts():
    assert Tokens(WORDS, "text").read([("a", -1.0), ("token_id:1", -2.0)]).ids == (0,)


def test_a_prefix_becomes_the_text_that_the_endpoint_begins_itself():
    assert Tokens(HALVES, "text").write([0, 1, 1]) == "xx"
    assert Tokens(HALVES, "text").write([1, 1]) == "xx"
    assert Tokens(WORDS, "text").write([2, 0]) == "c a"
    with pytest.raises(PromptError, match="inside a character"):
        Tokens(HALVES, "text").write([0, 1, 2])


def test_log_probs_of_completions_and_of_chats():
    assert top_of(said({"a": -2.0, "b": -1.0})) == [("b", -1.0), ("a", -2.0)]
    assert top_of(said({"a": 0.0, "b": -9999.0})) == [("a", 0.0), ("b", -math.inf)]
    chat = {"message": {"content": "b"}, "logprobs": {"content": [{"top_logprobs": [{"token": "b", "logprob": -1}]}]}}
    assert top_of({"choices": [chat]}) == [("b", -1.0)]
    assert text_of({"choices": [chat]}) == "b" and text_of({"choices": [{"text": None}]}) == ""
    for nothing in (None, {}, {"top_logprobs": None}, {"content": None}, {"top_logprobs": [None]}):
        assert top_of({"choices": [{"logprobs": nothing}]}) == []
    echoed = {"choices": [{"logprobs": {"top_logprobs": [None, {"a": -1.0}, {"b": -1.0}]}}]}
    assert positions_of(echoed) == [[], [("a", -1.0)], [("b", -1.0)]]


@pytest.mark.parametrize(
    "top",
    [
        {"a": 0.5},
        {"a": math.nan},
        {"a": -0.1, "b": -0.2},  # 0.90 + 0.82
        {"a": "high"},
        {"a": None},
        [1],
        3,
    ],
    ids=str,
)
def test_numbers_that_are_no_log_probs_are_errors(top):
    with pytest.raises(EndpointError):
        top_of(said(top))


@pytest.mark.parametrize(
    "answer", [{}, {"choices": []}, {"choices": [1]}, {"choices": [{"logprobs": {"content": [1]}}]}]
)
def test_answers_of_another_form_are_errors(answer):
    with pytest.raises(EndpointError):
        top_of(answer)
