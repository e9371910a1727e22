"""Answers over HTTP are those of the library: the same texts, the same numbers, whatever else runs."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.toy import Table
from trimtab.rewards.reward import FunctionReward
from trimtab.testing import tiny_lm


def events(text):
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def lms():
    return {"base": tiny_lm(seed=1, name="base"), "guide": tiny_lm(seed=2, name="guide")}


@pytest.fixture(scope="module", params=["tables", "transformers"])
def served(request, lms):
    """Return a server over tables, and one over tiny transformers."""
    if request.param == "tables":
        yield request.getfixturevalue("live")
    else:
        with request.getfixturevalue("living")(models=lms) as made:
            yield made


def policy(served):
    return served.service.menu.policy


def test_texts_are_those_of_generate(served):
    reply = served.post(prompt=["t0 t1", "t2", "t2"], n=2, seed=4, max_tokens=10, temperature=0.8, top_p=0.9).json()
    settings = {"max_new_tokens": 10, "temperature": 0.8, "top_p": 0.9, "seed": 4}
    expected = policy(served).generate(["t0 t1", "t2", "t2"], n=2, **settings)
    assert [choice["text"] for choice in reply["choices"]] == [answer.text for answer in expected]
    assert [choice["index"] for choice in reply["choices"]] == list(range(6))
    for choice, answer in zip(reply["choices"], expected, strict=True):
        assert choice["trimtab"]["kl"] == pytest.approx(answer.mean_kl, abs=1e-5)
        assert choice["finish_reason"] == {"end": "stop", "length": "length"}[answer.finish_reason]
    assert reply["usage"]["completion_tokens"] == sum(len(answer.token_ids) for answer in expected)
    assert reply["usage"]["prompt_tokens"] == 4


def test_prompts_may_be_token_ids(served):
    text = served.post(prompt="t0 t1", seed=1).json()["choices"]
    ids = served.post(prompt=served.service.menu.vocabulary.encode("t0 t1"), seed=1).json()["choices"]
    several = served.post(prompt=[[2], [0, 1]], seed=1).json()["choices"]
    assert text == ids and several[1]["text"] == text[0]["text"]


@pytest.mark.parametrize("extra", [{}, {"stop": ["t3", "t1 t4"]}, {"min_tokens": 6}, {"temperature": 0}, {"n": 3}])
def test_a_stream_makes_the_text(served, extra):
    body = {"seed": 2, "max_tokens": 12, "logprobs": 2, "trimtab": {"details": 1}, **extra}
    whole = served.post(**body).json()
    told = events(served.post(stream=True, stream_options={"include_usage": True}, **body).text)
    assert told.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [each["choices"][0] for each in told if each["choices"][0]["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert {each["finish_reason"] for each in mine[:-1]} <= {None}
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert [x for each in mine if each["logprobs"] for x in each["logprobs"][name]] == choice["logprobs"][name]
        tokens = [x for each in mine for x in each.get("trimtab", {}).get("tokens", [])]
        assert tokens == choice["trimtab"]["tokens"]
        assert mine[-1]["trimtab"]["kl"] == choice["trimtab"]["kl"]


def test_pieces_make_the_text_and_their_numbers_are_the_policys(served):
    (choice,) = served.post(seed=3, max_tokens=10, logprobs=3, trimtab={"details": 3}).json()["choices"]
    tokens = choice["trimtab"]["tokens"]
    assert "".join(token["token"] for token in tokens) == choice["text"]
    ids = [token["id"] for token in tokens]
    base, steered = served.service.menu.models["base"], policy(served)
    words, prompt = served.service.menu.vocabulary, "t0"
    steps = [words.decode([*words.encode(prompt), *ids[:i]]) for i in range(len(ids))]
    under, plain = steered.next_log_probs(steps), base.next_log_probs(steps)
    for i, token in enumerate(tokens):
        assert token["logprob"] == pytest.approx(float(under[i, ids[i]]), abs=1e-4)
        assert token["reference_logprob"] == pytest.approx(float(plain[i, ids[i]]), abs=1e-4)
        kl = float((under[i].exp() * (under[i] - plain[i])).sum())
        assert token["kl"] == pytest.approx(kl, abs=1e-4)
        likely = sorted(under[i].tolist(), reverse=True)[:3]
        assert [each["logprob"] for each in token["alternatives"]] == pytest.approx(likely, abs=1e-4)
        assert choice["logprobs"]["token_logprobs"][i] == token["logprob"]
    mean = sum(token["kl"] for token in tokens) / len(tokens)
    assert choice["trimtab"]["kl"] == pytest.approx(mean, abs=1e-6)


def test_a_request_is_what_it_is_alone_whatever_runs_beside_it(served):
    def ask(seed):
        return served.post(
            seed=seed, max_tokens=25, n=1 + seed % 3, knobs={"strength": seed % 5 / 2}, trimtab={"details": 2}
        ).json()["choices"]

    alone = [ask(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone
    served.idle()


def test_an_alias_is_the_same_as_knobs(served):
    alias = served.post(model="kind@strength=2.5", seed=1).json()
    for same in ({"knobs": {"strength": 2.5}}, {"trimtab": {"knobs": {"strength": 2.5}}}):
        assert served.post(seed=1, **same).json()["choices"] == alias["choices"]
    assert alias["trimtab"]["knobs"] == {"strength": 2.5} and alias["model"] == "kind@strength=2.5"
    twice = served.post(model="kind@strength=0.5", seed=1, knobs={"strength": 2.5}).json()
    assert twice["choices"] == alias["choices"]


def test_the_reference_is_the_base_and_so_is_strength_zero(served):
    reference = served.post(model="reference", seed=1, max_tokens=10).json()["choices"]
    base = served.service.menu.models["base"].generate("t0", max_new_tokens=10, seed=1)[0]
    assert reference[0]["text"] == base.text and reference[0]["trimtab"]["kl"] == pytest.approx(0, abs=1e-6)
    assert served.post(model="kind@strength=0", seed=1, max_tokens=10).json()["choices"][0]["text"] == base.text


def test_a_clients_policy_is_the_operators_models_multiplied(served):
    base, guide = served.service.menu.models["base"], served.service.menu.models["guide"]
    expected = (base * guide**0.25).generate("t0", max_new_tokens=9, seed=6)[0]
    asked = served.post(seed=6, max_tokens=9, trimtab={"policy": "base * guide^0.25"}).json()
    assert asked["choices"][0]["text"] == expected.text


def test_texts_are_cut_and_put_together(served):
    with served.client() as client:
        cut = client.post("/tokenize", json={"prompt": "t0 t3"}).json()
        assert cut["count"] == len(cut["tokens"]) and len(cut["token_strs"]) == cut["count"]
        assert client.post("/detokenize", json={"tokens": cut["tokens"]}).json() == {"prompt": "t0 t3"}
        wrong = client.post("/detokenize", json={"tokens": [99]})
        assert wrong.status_code == 400


def test_prompts_have_to_fit(lms, living):
    with living(models=lms) as served:
        refused = served.post(prompt="t0 " * 70)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "PromptError"
        assert served.post(prompt="t0 " * 60, max_tokens=8).status_code == 400
        assert served.post(prompt="t0 " * 60, max_tokens=8, stream=True).status_code == 400
        assert served.post(prompt=["t0", "t0 " * 70], max_tokens=3).status_code == 400
        assert served.post(max_tokens=3).status_code == 200
        served.idle()


def test_impossible_tokens_are_told_in_json(serve, tables):
    never = Table.of({"": {"t0": 1.0, "t1": 0.0, "t2": 0.0}}, name="base")
    often = Table.of({"": {"t0": 0.5, "t1": 0.5, "t2": 0.0}}, name="guide")
    file = {key: each for key, each in tables[0].items() if key not in ("search", "knobs")}
    served = serve({**file, "policy": "mix(0.5, base, 0.5, guide)"}, {"base": never, "guide": often})
    body = {"logprobs": 3, "seed": 0, "n": 4, "trimtab": {"details": 3}}
    reply = served.post(**body)
    assert reply.status_code == 200
    tokens = [token for choice in reply.json()["choices"] for token in choice["trimtab"]["tokens"]]
    assert {token["reference_logprob"] is None for token in tokens if token["token"].strip() == "t1"} == {True}
    likely = [top for choice in reply.json()["choices"] for top in choice["logprobs"]["top_logprobs"]]
    assert all(each.get("t2", each.get(" t2")) == -9999.0 for each in likely)
    assert reply.json()["choices"][0]["trimtab"]["kl"] is None
    assert len(events(served.post(stream=True, **body).text)) > 4


def test_rewards_score_answers(serve):
    served = serve(reward=FunctionReward(lambda completions, **_: [float(len(each)) for each in completions], "length"))
    with served.client() as client:
        told = client.post("/v1/score", json={"prompt": "t0", "completions": ["a", "bcd"]})
        assert told.json() == {"reward": "length", "scores": [1.0, 3.0]}
        assert client.get("/v1/policies").json()["data"][0]["reward"] == "length"


def test_scores_that_wait_are_bounded(serve):
    held = threading.Event()

    def waiting(completions, **_):
        held.wait(10)
        return [0.0] * len(completions)

    served = serve(reward=FunctionReward(waiting, "waiting"), rows=2, waiting=2)
    with served.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/score", json={"prompt": "t0", "completions": ["a"] * 5})
        while not served.service._scoring:
            time.sleep(0.001)
        assert client.post("/v1/score", json={"prompt": "t0", "completions": ["a"]}).status_code == 503
        held.set()
        assert first.result().status_code == 200
        assert client.post("/v1/score", json={"prompt": "t0", "completions": ["a"]}).status_code == 200


def test_without_a_reward_there_are_no_scores(live):
    with live.client() as client:
        assert client.post("/v1/score", json={"prompt": "t0", "completions": ["a"]}).status_code == 404


def test_the_description_says_what_there_is(live, tables):
    with live.client() as client:
        (told,) = client.get("/v1/policies").json()["data"]
        assert told["knobs"] == [{"name": "strength", "default": 1.0, "min": 0.0, "max": 3.0}]
        assert told["expression"] == PolicyFile.model_validate(tables[0]).policy and told["reference"] == "base"
        assert [each["name"] for each in told["factors"]] == ["base", "guide"]
        assert told["searches"] and told["limits"]["n"] == 16 and told["chat"] is False
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["kind", "reference"]
        assert client.get("/v1/models/kind@strength=2").json()["id"] == "kind@strength=2"
        assert client.get("/v1/models/other").status_code == 404


def test_a_chat_is_its_text_continued(living, tiny_lm_folder, tables):
    from dataclasses import replace

    from trimtab import LM

    model = LM.load(tiny_lm_folder)
    model.vocabulary.tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}w1"
    with living(models={"base": model, "guide": replace(model, label="again")}) as served:
        messages = [
            {"role": "developer", "content": "w2"},
            {"role": "user", "content": [{"type": "text", "text": "w3"}]},
        ]
        body = {"model": "kind", "messages": messages, "seed": 1, "max_completion_tokens": 9, "logprobs": True}
        with served.client() as client:
            chat = client.post("/v1/chat/completions", json=body).json()
            told = events(client.post("/v1/chat/completions", json={**body, "stream": True}).text)
        text = served.post(prompt="s w2 u w3 w1", seed=1, max_tokens=9).json()["choices"][0]["text"]
        assert chat["choices"][0]["message"]["content"] == text
        assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in told) == text
        assert "".join(each["token"] for each in chat["choices"][0]["logprobs"]["content"]) == text


def test_a_stream_begins_with_what_it_takes_to_ask_for_it_again(live):
    body = {"model": "kind@strength=1.5", "prompt": "t0", "max_tokens": 5}
    first, *rest = events(live.post(**body, stream=True).text)
    assert first["trimtab"]["knobs"] == {"strength": 1.5} and not any("trimtab" in each for each in rest)
    text = "".join(choice["text"] for each in (first, *rest) for choice in each["choices"])
    assert live.post(**body, seed=first["trimtab"]["seed"]).json()["choices"][0]["text"] == text
