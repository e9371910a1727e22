"""Jobs: what is over a limit, or cannot be, is refused before any work is done for it."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from trimtab.engines.abilities import VLLM
from trimtab.engines.local import LOCAL
from trimtab.errors import ConfigError, TrimtabError
from trimtab.policies.policy_file import PolicyFile
from trimtab.serving.job import as_text, job_of
from trimtab.serving.limits import Limits
from trimtab.serving.menu import Menu
from trimtab.serving.questions import ChatQuestion, CompletionQuestion, Message


@pytest.fixture
def menu(tables):
    file, models, _ = tables
    decoding = {"max_new_tokens": 9, "temperature": 0.5, "top_k": 3, "stop": ["t4"]}
    made = PolicyFile.model_validate({**file, "decoding": decoding})
    return Menu.load("kind", made, models.__getitem__, Limits(max_tokens=20, rows=16), vectors={})


@pytest.fixture
def job(menu):
    def make(abilities=LOCAL, **fields):
        return job_of(CompletionQuestion(**{"model": "kind", "prompt": "t0", **fields}), menu, abilities)

    return make


def test_what_a_request_leaves_out_is_the_policy_files(job):
    made = job()
    assert (made.settings.max_new_tokens, made.settings.stop) == (9, ("t4",))
    assert (made.settings.sampling.temperature, made.settings.sampling.top_k) == (0.5, 3)
    assert job(stop=[]).settings.stop == () and job(top_k=-1).settings.sampling.top_k == 0
    assert job(temperature=0.0).settings.sampling.temperature == 0.0


def test_a_request_has_a_seed_of_its_own_or_a_fresh_one(job):
    assert job(seed=5).settings.seed == 5
    assert job(seed=-1).settings.seed == 2**63 - 1
    assert len({job().settings.seed for _ in range(5)}) == 5


def test_equal_prompts_are_told_apart(job):
    assert [each.occurrence for each in job(prompt=["t0", "t1", "t0"]).requests] == [0, 0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 17},
        {"n": 10**4000},
        {"max_tokens": 21},
        {"max_tokens": 10**4000},
        {"prompt": ["t0"] * 33},
        {"prompt": "unknown words"},
        {"logprobs": 21},
        {"trimtab": {"details": 21}},
        {"stop": ["a"] * 9},
        {"stop": ["a"] * 5, "stop_token_ids": [1] * 4},
        {"stop": "a" * 201},
        {"stop": [""]},
        {"min_tokens": 10, "max_tokens": 5},
        {"trimtab": {"search": {"beams": 17}}},
        {"trimtab": {"search": {"branches": 65}}},
        {"trimtab": {"search": {"beams": 16, "branches": 64}}},
        {"trimtab": {"search": {"chunk": "page"}}},
        {"trimtab": {"search": {"value": "base"}}},
        {"trimtab": {"search": {"method": "args"}}},
        {"trimtab": {"search": True}, "n": 2},
        {"trimtab": {"search": True}, "logprobs": 2},
        {"trimtab": {"knobs": {"strength": 9.0}}},
        {"trimtab": {"knobs": {"other": 1.0}}},
        {"trimtab": {"policy": "base * other"}},
        {"model": "other"},
    ],
)
def test_what_is_over_a_limit_is_refused(job, fields):
    with pytest.raises(TrimtabError) as caught:
        job(**fields)
    assert caught.value.exit_code == 2 and len(str(caught.value)) < 6000


def test_searches_are_the_policy_files_with_what_the_request_changes(job):
    assert job(trimtab={"search": True}).plan.shape.rows == 4
    changed = job(trimtab={"search": {"beams": 3, "branches": 5, "trace": True}})
    assert changed.plan.shape.rows == 15 and changed.trace


def test_engines_that_tell_their_own_tokens_alone_refuse_likely_ones(job):
    with pytest.raises(ConfigError, match="likely tokens"):
        job(VLLM, logprobs=2)
    assert job(VLLM, logprobs=0).alternatives == 0


def test_engines_elsewhere_are_told_who_answers(job):
    assert job(replace(LOCAL, in_memory=False), model="reference").requests[0].knobs
    assert job(model="reference").requests[0].knobs == {}


def test_a_chat_needs_a_format(menu):
    question = ChatQuestion(model="kind", messages=[Message(role="user", content="t0")])
    with pytest.raises(ConfigError, match="no chat template"):
        job_of(question, menu, LOCAL)


class Odd:
    """A tokenizer whose chat template refuses."""

    chat_template = "x"

    def apply_chat_template(self, messages, **_):
        import jinja2

        raise jinja2.TemplateError("roles must alternate")


def test_a_chat_that_its_format_refuses_is_the_clients_mistake(menu):
    with pytest.raises(ConfigError, match="roles must alternate"):
        as_text([Message(role="user", content="a")], replace(menu.vocabulary, tokenizer=Odd()))


def test_a_reply_is_bounded_before_it_is_made(menu, job):
    menu.limits = replace(menu.limits, told=100)
    assert job(max_tokens=20, logprobs=4).answers == 1
    for fields in ({"logprobs": 5}, {"logprobs": 4, "n": 2}, {"trimtab": {"details": 5}}):
        with pytest.raises(ConfigError, match="tokens and alternatives"):
            job(max_tokens=20, **fields)
    assert job(max_tokens=20, n=16).answers == 16


def test_answers_that_could_never_wait_together_are_refused(menu, job):
    menu.limits = replace(menu.limits, rows=4, waiting=4)
    with pytest.raises(ConfigError, match="answers to all prompts: 10"):
        job(prompt=["t0", "t1"], n=5)


def test_the_operators_own_defaults_are_no_mistake_of_clients(tables):
    file, models, _ = tables
    decoding = {"max_new_tokens": 9000, "stop": [f"t{i}" for i in range(9)]}
    search = {"method": "args", "value": "guide / base", "weight": 2.0}
    made = PolicyFile.model_validate({**file, "decoding": decoding, "search": search})
    menu = Menu.load("kind", made, models.__getitem__, Limits(), vectors={})
    plain = job_of(CompletionQuestion(model="kind", prompt="t0"), menu, LOCAL)
    assert (plain.settings.max_new_tokens, len(plain.settings.stop)) == (4096, 9)
    steering = {"search": {"method": "chunk_beam"}}
    assert job_of(CompletionQuestion(model="kind", prompt="t0", trimtab=steering), menu, LOCAL).plan is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [{"name": "f"}]},
        {"guided_json": {"type": "object"}},
        {"ignore_eos": True},
        {"tool_choice": "required"},
        {"add_generation_prompt": False},
    ],
)
def test_fields_that_would_change_the_answer_are_not_left_aside(fields):
    with pytest.raises(ValueError, match="no "):
        CompletionQuestion(model="kind", prompt="t0", **fields)


def test_a_list_of_mistakes_is_not_read_to_its_end():
    body = b'{"model":"m","prompt":[' + b",".join([b"null"] * 100_000) + b"]}"
    with pytest.raises(ValidationError) as caught:
        CompletionQuestion.model_validate_json(body)
    assert caught.value.error_count() < 10
