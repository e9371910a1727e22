"""The probe: what counts is what comes back."""

import pytest

from trimtab.engines.remote import probe
from trimtab.engines.remote.probe import MOST
from trimtab.errors import EndpointError, ModelError, VocabularyError
from trimtab.policies.toy import Table
from trimtab.policies.vocabulary import Vocabulary

TABLE = Table.random(30, seed=3, name="table")


def found(service, model="toy", vocabulary=TABLE.vocabulary):
    return probe(service.client(), model, vocabulary)


def test_an_endpoint_that_can_do_everything(serve):
    can = found(serve(TABLE))
    assert (can.models, can.completions, can.chat) == (True, True, True)
    assert (can.top_k, can.chat_top_k) == (20, 20)
    assert (can.token_form, can.token_prompts) == ("id", True)
    assert (can.logit_bias, can.n, can.seed, can.echo, can.context_length) == (30, True, True, True, None)
    assert can.evidence["top_k"] == "20 for 20 asked, and 21 are refused"
    assert set(can.evidence) == {
        *("models", "completions", "chat", "top_k", "chat_top_k"),
        *("token_form", "token_prompts", "logit_bias", "n", "seed", "echo"),
    }


def test_an_endpoint_that_speaks_text_and_only_completions(serve):
    can = found(serve(TABLE, ids=False, chats=False, most=7))
    assert (can.chat, can.chat_top_k, can.top_k) == (False, 0, 7)
    assert (can.token_form, can.token_prompts) == ("text", False)
    assert "404" in can.evidence["chat"] and "a prompt is a text" in can.evidence["token_prompts"]


@pytest.mark.parametrize("most", [1, 2, 19, 99])
def test_the_largest_number_of_log_probs_is_found(serve, most):
    table = Table.random(150, seed=1, contexts=False)
    assert found(serve(table, most=most), vocabulary=table.vocabulary).top_k == most


def test_it_looks_no_further_than_100(serve):
    table = Table.random(150, seed=1, contexts=False)
    can = found(serve(table, most=150), vocabulary=table.vocabulary)
    assert can.top_k == MOST == 100


def keep(count):
    """Return an edit that leaves only some log-probs, or none."""

    def edit(route, body, answer):
        for choice in answer["choices"]:
            said = choice.get("logprobs") or {}
            if count == 0:
                choice.pop("logprobs", None)
            elif "top_logprobs" in said:
                said["top_logprobs"] = [each and dict(list(each.items())[:count]) for each in said["top_logprobs"]]
        return answer

    return edit


def test_what_is_accepted_and_not_done_does_not_count(serve):
    service = serve(TABLE, most=200)
    service.edit = keep(5)
    assert found(service).top_k == 5  # silently fewer than the 100 asked for
    service.edit = keep(0)
    can = found(service)
    assert (can.top_k, can.chat_top_k, can.echo) == (0, 0, False)

    def once(route, body, answer):
        answer["choices"] = answer["choices"][:1]
        return answer

    service.edit = once
    can = found(service)
    assert not can.n and can.evidence["n"] == "1 answers for 2 asked"

    def deaf(route, body, answer):
        answer["choices"][0]["text"] = "t7"
        return answer

    service.edit = deaf
    assert found(service).logit_bias == 0


@pytest.mark.parametrize(("biases", "found_out"), [(5000, 1024), (1024, 1024), (1000, 300), (299, 1), (0, 0)])
def test_the_largest_bias_that_is_obeyed(serve, biases, found_out):
    table = Table.random(1500, seed=1, contexts=False)
    can = found(serve(table, biases=biases, most=1), vocabulary=table.vocabulary)
    assert can.logit_bias == found_out
    assert ("status 400" if found_out == 0 else f"one of {found_out}") in can.evidence["logit_bias"]


def test_a_seed_counts_where_it_repeats_an_answer_and_not_all_of_a_request(serve):
    assert found(serve(TABLE)).evidence["seed"] == "the same twice"
    assert not found(serve(TABLE, seeds=False)).seed
    can = found(serve(TABLE, several=False))
    assert (can.n, can.seed) == (False, True)
    service = serve(TABLE)

    def alike(route, body, answer):
        answer["choices"] = answer["choices"][:1] * len(answer["choices"])
        return answer

    service.edit = alike
    can = found(service)
    assert not can.seed and "several times in one request" in can.evidence["seed"]


def test_log_probs_that_cannot_be_read_are_none(serve):
    service = serve(TABLE)

    def edit(route, body, answer):
        if "chat" in route and "logprobs" in body:
            answer["choices"][0]["logprobs"] = {"content": [{"top_logprobs": [{"token": "a"}]}]}
        return answer

    service.edit = edit
    can = found(service)
    assert (can.top_k, can.chat, can.chat_top_k) == (20, True, 0)
    assert can.evidence["chat_top_k"] == "log-probs of another form"


def test_an_unknown_model_is_named_with_those_there_are(serve):
    with pytest.raises(ModelError, match="gpt") as caught:
        found(serve(TABLE), "gpt")
    assert caught.value.expected == "one of toy"


def test_ids_that_mean_other_tokens_are_refused(serve):
    turned = Vocabulary.of_pieces([f"t{29 - i}" for i in range(30)])
    with pytest.raises(VocabularyError, match="a tokenizer whose ids mean"):
        found(serve(TABLE, most=5), vocabulary=turned)


def test_prompts_of_ids_that_are_read_otherwise_are_not_used(serve):
    table = Table.of({"": {"a": 1.0, "b": 0.0, "c": 0.0}, "a": {"c": 0.5, "b": 0.5}})
    service = serve(table, most=2)
    plain = service.endpoint.answer("completions", {"model": "toy", "prompt": "b", "logprobs": 2})[1]

    def edit(route, body, answer):
        return plain if isinstance(body.get("prompt"), list) else answer

    service.edit = edit
    assert not found(service, vocabulary=table.vocabulary).token_prompts


def test_the_context_is_read_where_it_is_told(serve):
    service = serve(TABLE)
    service.faults.append((200, b'{"data": [{"id": "other", "max_model_len": 9}, {"id": "toy", "max_model_len": 64}]}'))
    assert found(service).context_length == 64
    service.faults.append((404, b""))
    can = found(service)
    assert (can.models, can.context_length) == (False, None) and "404" in can.evidence["models"]


def test_a_client_remembers(serve):
    service = serve(TABLE)
    client = service.client()
    first = probe(client, "toy", TABLE.vocabulary)
    count = len(service.asked)
    assert probe(client, "toy", TABLE.vocabulary) is first
    assert len(service.asked) == count <= 35


def test_answers_of_another_form_are_errors(serve):
    service = serve(TABLE)
    service.edit = lambda route, body, answer: {"hello": 1}
    with pytest.raises(EndpointError, match="without choices"):
        found(service)
