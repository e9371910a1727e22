"""An engine of text: the endpoint samples whole answers, and what is wrong with one breaks that one alone."""

import httpx2
import pytest

from trimtab.decoding import Constraints, Request, Sampling, SearchPlan, Settings, Texts, best_of_n, chunk_beam, deal
from trimtab.decoding import search as local_search
from trimtab.engines import REMOTE_TEXT, explain, generate, search
from trimtab.engines.base import drain
from trimtab.engines.remote import RemoteEngine
from trimtab.errors import ConfigError, EndpointError, KnobError, PromptError, VocabularyError
from trimtab.policies.toy import Table
from trimtab.values import LogRatio, RewardValue

TABLE = Table.random(8, seed=0, end="t7", name="table")
GUIDE, UNTUNED = (Table.random(8, seed=seed, end="t7", name=f"s{seed}") for seed in (1, 2))
PROMPTS = ["t0 t1", "t2", "t2"]
GREEDY = Settings(Sampling(0.0), max_new_tokens=6)
KINDS = {
    "ids": {"ids": True},
    "text with log-probs": {"ids": False},
    "text alone": {"ids": False, "most": 0},
    "text alone, one a request, no seeds": {"ids": False, "most": 0, "several": False, "seeds": False},
}


def engine_of(service, **settings):
    return RemoteEngine(service.client(**settings), "toy", tokenizer=service.endpoint.policy.vocabulary)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def service(request, serve):
    return serve(TABLE, **request.param)


def test_the_likeliest_answers_are_those_of_the_model(service):
    found = generate(engine_of(service), PROMPTS, GREEDY, n=2)
    expected = TABLE.generate(PROMPTS, n=2, max_new_tokens=6, temperature=0.0)
    for one, other in zip(found, expected, strict=True):
        assert (one.prompt, one.text, one.finish_reason) == (other.prompt, other.text, other.finish_reason)
        by_id = service.endpoint.ids
        assert one.token_ids == (other.token_ids if by_id else tuple(i for i in other.token_ids if i != 7))
        assert one.log_probs == (pytest.approx(other.log_probs, abs=1e-5) if by_id else ())
        assert (one.reference_log_probs, one.kl, one.covered) == ((), (), ())


def test_stops_and_ends_are_told_apart_as_far_as_the_endpoint_does(service):
    chain = Table.of({"": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"<end>": 1.0}}, end="<end>")
    object.__setattr__(service.endpoint, "policy", chain)
    engine = engine_of(service)
    (ended,) = generate(engine, ["a"], Settings(max_new_tokens=9))
    assert (ended.text, ended.finish_reason) == ("b c", "end")
    (cut,) = generate(engine, ["a"], Settings(max_new_tokens=9, stop=("c",)))
    assert (cut.text.strip(), cut.finish_reason) == ("b", "stop")
    (other,) = generate(engine, ["a"], Settings(max_new_tokens=9, stop=("x",)))
    assert (other.text, other.finish_reason) == ("b c", "end" if service.endpoint.ids else "stop")


def test_seeds_repeat_answers_where_the_endpoint_heeds_them(service):
    engine, settings = engine_of(service), Settings(max_new_tokens=6, seed=3)
    first, again = (generate(engine, PROMPTS, settings, n=4) for _ in range(2))
    assert (first == again) == service.endpoint.seeds
    assert len({answer.text for answer in first[:4]}) > 1 and first[4:8] != first[8:]


def test_one_request_a_prompt_where_several_answers_are_given(service):
    engine = engine_of(service)
    before, asked = engine.meter, len(service.asked)
    generate(engine, PROMPTS, Settings(max_new_tokens=6, seed=0), n=4)
    assert (engine.meter - before).calls == (3 if service.endpoint.several else 12)
    assert all(isinstance(prompt, list) == service.endpoint.ids for prompt in service.prompts[asked:])


@pytest.mark.parametrize(
    "shape", [best_of_n(4), chunk_beam(2, 2, 2), chunk_beam(2, 2, Texts(("t1", "t3"), 4))], ids=str
)
def test_searches_are_those_of_the_model(service, shape):
    value = LogRatio(GUIDE, UNTUNED)
    (found,) = search(engine_of(service), "t0 t1", SearchPlan(value, shape), GREEDY)
    (expected,) = local_search(TABLE, "t0 t1", value, shape, temperature=0.0, max_new_tokens=6)
    assert (found.best.text, found.best.finish_reason) == (expected.best.text, expected.best.finish_reason)
    if service.endpoint.ids:  # where the end is no token that is told, its share of the score is missing
        assert found.hypotheses[0][1] == pytest.approx(expected.hypotheses[0][1], abs=1e-5)
    assert [node.text for node in found.trace.nodes] == [node.text for node in expected.trace.nodes]


def test_its_abilities_are_those_of_an_endpoint_of_text(serve):
    assert engine_of(serve(TABLE)).abilities.stops and not engine_of(serve(TABLE, ids=False)).abilities.stops
    assert engine_of(serve(TABLE, ids=False)).abilities == REMOTE_TEXT
    assert explain(TABLE, REMOTE_TEXT).verdict == "exact"
    with pytest.raises(ConfigError, match="the log-probability of an answer"):
        flat = RewardValue(lambda completions, **_: [0.0] * len(completions))
        search(engine_of(serve(TABLE)), "t0", SearchPlan(flat, deal()), GREEDY)


@pytest.mark.parametrize(
    ("sampling", "more", "what"),
    [
        ({"top_k": 3}, {}, "top_k"),
        ({"min_p": 0.1}, {}, "min_p"),
        ({"repetition_penalty": 1.2}, {}, "repetition_penalty"),
        ({}, {"min_new_tokens": 1}, "min_new_tokens"),
        ({}, {"stop_ids": (3,)}, "token ids among the stops"),
    ],
)
def test_settings_that_endpoints_do_not_know_alike_are_refused(service, sampling, more, what):
    engine = engine_of(service)
    asked = len(service.asked)
    with pytest.raises(ConfigError, match=what):
        generate(engine, ["t0"], Settings(Sampling(**sampling), max_new_tokens=4, **more))
    assert len(service.asked) == asked and not engine.busy


def test_requests_that_cannot_be_served_are_refused_and_harm_none(serve):
    service = serve(TABLE)
    service.faults.append((200, b'{"data": [{"id": "toy", "max_model_len": 16}]}'))
    engine = engine_of(service)
    good = engine.submit(Request((0,)), Settings(max_new_tokens=4))
    for request, error in (
        (Request((0,), knobs={"w": 1.0}), KnobError),
        (Request(()), PromptError),
        (Request((8,)), PromptError),
        (Request((0,), keywords=Constraints.of(["t1"])), ConfigError),
        (Request((0,) * 13), PromptError),  # 13 + 4 > 16
    ):
        with pytest.raises(error):
            engine.submit(request, Settings(max_new_tokens=4))
    updates = []
    while engine.busy:
        updates += engine.step()
    assert [(update.ticket, update.error) for update in updates] == [(good, None)]
    assert engine.step() == []


def test_fewer_answers_than_asked_break_those_that_are_missing(serve):
    service = serve(TABLE)
    engine = engine_of(service)

    def fewer(route, body, answer):
        answer["choices"] = answer["choices"][:2]
        return answer

    service.edit = fewer
    (told,) = drain(engine, [(Request((0,), n=3), Settings(max_new_tokens=3))])
    assert [update.error is None for update in told] == [True, True, False]
    assert told[2].error.given == "2 answers from toy, which was asked for 3"
    with pytest.raises(EndpointError, match="2 answers"):
        generate(engine, ["t0"], Settings(max_new_tokens=3), n=3)


def named(**logprobs):
    def edit(route, body, answer):
        for choice in answer["choices"]:
            choice["logprobs"] = choice.get("logprobs", {}) | logprobs
        return answer

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (named(tokens=["t1", "t2", "t3"]), "gave ids of its tokenizer before"),
        (named(tokens=["token_id:1", "token_id:99", "token_id:2"]), "token_id:99"),
        (named(tokens=["token_id:1"]), "a log-probability for each"),
        (named(token_logprobs=[None, None, None]), "a log-probability for each"),
        (named(tokens=None), "without its tokens"),
        (lambda route, body, answer: answer | {"choices": []}, "without choices"),
        (
            lambda route, body, answer: answer | {"choices": [{"text": "t1", "finish_reason": "content_filter"}]},
            "filter",
        ),
    ],
)
def test_answers_that_change_their_form_are_errors(serve, edit, message):
    service = serve(Table.random(8, seed=0, name="endless"))
    engine = engine_of(service)
    service.edit = edit
    (told,) = drain(engine, [(Request((0,), n=2), Settings(max_new_tokens=3))])
    assert all(isinstance(update.error, EndpointError) and message in str(update.error) for update in told)
    assert all(update.answer.finish_reason == "error" for update in told)


def test_words_that_are_none_of_the_tokenizers_are_errors(serve):
    service = serve(TABLE, ids=False)
    engine = engine_of(service)
    service.edit = lambda route, body, answer: answer | {"choices": [{"text": "t1 zebra", "finish_reason": "stop"}]}
    with pytest.raises((PromptError, VocabularyError), match="zebra"):
        generate(engine, ["t0"], Settings(max_new_tokens=3))


def test_half_a_character_is_let_go(serve):
    service = serve(TABLE, ids=False)
    engine = engine_of(service)
    service.edit = lambda route, body, answer: answer | {"choices": [{"text": "t1 \ufffd", "finish_reason": "length"}]}
    (answer,) = generate(engine, ["t0"], Settings(max_new_tokens=3))
    assert (answer.text, answer.token_ids) == ("t1 ", (1,))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ([(500, b"")], EndpointError),
        ([(401, b"")], ConfigError),
        ([(429, b"")] * 3, EndpointError),
        ([httpx2.ReadTimeout("slow", request=httpx2.Request("POST", "http://toy"))], EndpointError),
        ([httpx2.ConnectError("down", request=httpx2.Request("POST", "http://toy"))] * 3, EndpointError),
    ],
    ids=["500", "401", "429", "slow", "down"],
)
def test_an_endpoint_that_fails_breaks_what_it_was_asked(serve, faults, error):
    service = serve(TABLE)
    engine = engine_of(service)
    service.faults += faults
    with pytest.raises(error):
        generate(engine, ["t0"], Settings(max_new_tokens=3), n=2)
    service.faults += [(429, b""), (503, b"")]
    assert len(generate(engine, ["t0"], Settings(max_new_tokens=3), n=2)) == 2  # it lives, and asks again


def test_what_is_cancelled_is_told_as_such(serve):
    engine = engine_of(serve(TABLE))
    first, second = (engine.submit(Request((i,), n=2), Settings(max_new_tokens=3)) for i in range(2))
    engine.cancel(first)
    engine.cancel(99)
    told = engine.step()
    assert [(update.ticket, update.number, update.answer.finish_reason) for update in told] == [
        (first, 0, "cancelled"),
        (first, 1, "cancelled"),
    ]
    assert {update.ticket for update in engine.step()} == {second} and not engine.busy
    engine.close()


def test_an_endpoint_of_chats_cannot_go_on_from_a_text(serve):
    service = serve(TABLE, most=0)
    client = service.client()
    real = service.endpoint

    class Chats:
        def __call__(self, request):
            response = real(request)
            return httpx2.Response(404) if request.url.path.endswith("/v1/completions") else response

    service.endpoint = Chats()
    with pytest.raises(EndpointError, match="a chat cannot go on"):
        RemoteEngine(client, "toy", tokenizer=TABLE.vocabulary)
