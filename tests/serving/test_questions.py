"""Bodies: OpenAI's fields, strictly; whatever cannot be done is refused and not dropped."""

import json

import pytest
from pydantic import ValidationError

from trimtab.errors import ConfigError
from trimtab.serving.questions import ChatQuestion, CompletionQuestion, TokenizeQuestion, explained

HELLO = [{"role": "user", "content": "hi"}]


def completion(**fields):
    return CompletionQuestion.model_validate_json(json.dumps({"model": "m", "prompt": "a", **fields}))


def chat(**fields):
    return ChatQuestion.model_validate_json(json.dumps({"model": "m", "messages": HELLO, **fields}))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_are_texts_or_ids(prompt, prompts):
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "fields",
    [
        *({"prompt": each} for each in ("", [], [""], [[]], [-1], [1.5], ["a", 1], None, {}, [[1], "a"], 3)),
        *({"n": each} for each in (0, -1, "1", 1.0, True, [1])),
        *({"temperature": each} for each in (-1, 101, "1", [])),
        *({"top_p": each} for each in (0, 1.01, -1)),
        *({"max_tokens": each} for each in (0, -1, 1.5, "8")),
        *({"seed": each} for each in (2**63, 1.5, "a")),
        *({"stop": each} for each in (1, {"a": 1}, [1])),
        *({"logprobs": each} for each in (True, -1, "2")),
        *({"stream": each} for each in (1, "true")),
        *({"knobs": each} for each in ([], {"a": "1"}, {"a": True}, {"a": None}, {"x" * 81: 1.0})),
        *({"trimtab": each} for each in ([], {"knob": {}}, {"details": -1}, {"policy": ""}, {"search": {"beam": 1}})),
        {"trimtab": {"search": {"method": "magic"}}},
        {"echo": True},
        {"suffix": "a"},
        {"best_of": 2},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"logit_bias": {"1": 5}},
    ],
)
def test_wrong_and_unsupported_fields_are_refused(fields):
    with pytest.raises(ValidationError) as caught:
        completion(**fields)
    assert len(str(explained(caught.value))) < 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 2},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}]},
        {"messages": [{"role": "user", "content": None}]},
    ],
)
def test_chats_that_cannot_be_answered_are_refused(fields):
    with pytest.raises(ValidationError):
        chat(**fields)


def test_neutral_values_of_unsupported_fields_are_fine():
    completion(echo=False, suffix="", best_of=1, presence_penalty=0, logit_bias={}, stop=None, seed=-5)
    chat(tools=[], response_format={"type": "text"}, top_logprobs=None)


def test_unknown_fields_are_told():
    assert completion(user="me", metadata={"a": 1}).ignored == ["metadata", "user"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ['"temperature": {}', '"knobs": {{"strength": {}}}', '"min_p": {}'])
def test_numbers_are_finite(field, number):
    with pytest.raises(ValidationError):
        CompletionQuestion.model_validate_json('{"model": "m", "prompt": "a", ' + field.format(number) + "}")


def test_knobs_may_stand_at_the_top():
    assert completion(knobs={"a": 1}, trimtab={"knobs": {"b": 2}}).steering.knobs == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match="'a'"):
        completion(knobs={"a": 1}, trimtab={"knobs": {"a": 1}}).steering  # noqa: B018


def test_log_probabilities_are_asked_for_in_two_ways():
    assert (completion().alternatives, completion(logprobs=0).alternatives) == (None, 0)
    assert (chat().alternatives, chat(logprobs=True).alternatives) == (None, 0)
    assert chat(logprobs=True, top_logprobs=3).alternatives == 3


def test_parts_of_a_message_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "ab"


@pytest.mark.parametrize("body", ['{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}', "{}"])
def test_either_a_text_or_a_chat_is_cut(body):
    with pytest.raises(ValidationError):
        TokenizeQuestion.model_validate_json(body)


def test_a_huge_number_is_told_short():
    with pytest.raises(ValidationError) as caught:
        CompletionQuestion.model_validate_json('{"model": "m", "prompt": "a", "n": -' + "9" * 4200 + "}")
    assert len(explained(caught.value).given) < 200
