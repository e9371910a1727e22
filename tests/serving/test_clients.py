"""Real clients: OpenAI's library, curl, and what a chat front end sends."""

import asyncio
import json
import shutil
import subprocess
from dataclasses import replace

import openai
import pytest

from trimtab import LM

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def chatty(tiny_lm_folder, living):
    """Return a server of chats, with a key."""
    model = LM.load(tiny_lm_folder)
    model.vocabulary.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    with living(models={"base": model, "guide": replace(model, label="again")}, keys=[KEY]) as made:
        yield made


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def chat(chatty):
    with openai.OpenAI(base_url=f"{chatty.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["kind", "reference"]
    assert client.models.retrieve("kind").owned_by == "trimtab"


def test_completions(client, live):
    told = client.completions.create(
        model="kind",
        prompt=["t0", "t1"],
        n=2,
        max_tokens=6,
        seed=1,
        logprobs=2,
        stop=["t3"],
        temperature=0.9,
        extra_body={"trimtab": {"knobs": {"strength": 2.0}, "details": 1}},
    )
    assert [choice.index for choice in told.choices] == [0, 1, 2, 3]
    assert all("t3" not in choice.text for choice in told.choices)
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    assert len(told.choices[0].logprobs.tokens) == len(told.choices[0].logprobs.top_logprobs)
    assert told.trimtab["knobs"] == {"strength": 2.0} and told.choices[0].trimtab["tokens"]


def test_streams(client):
    asked = {"model": "kind@strength=2", "prompt": "t0", "max_tokens": 9, "seed": 5, "n": 2}
    whole = client.completions.create(**asked)
    texts, usage = {0: "", 1: ""}, None
    for piece in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = piece.usage or usage
        for choice in piece.choices:
            texts[choice.index] += choice.text
    assert [texts[0], texts[1]] == [choice.text for choice in whole.choices] and usage == whole.usage


def test_chats(chat):
    asked = {"model": "kind", "messages": [{"role": "user", "content": "w3"}], "max_completion_tokens": 8, "seed": 2}
    told = chat.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    (choice,) = told.choices
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    assert {len(token.top_logprobs) for token in choice.logprobs.content} == {2}
    pieces = [piece for piece in chat.chat.completions.create(**asked, stream=True) if piece.choices]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == choice.message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    with chat.chat.completions.stream(**asked) as stream:  # the library's own accumulator
        stream.until_done()
        assert stream.current_completion_snapshot.choices[0].message.content == choice.message.content


def test_many_chats_at_once(chatty):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{chatty.url}/v1", api_key=KEY) as made:

            async def one(seed):
                messages = [{"role": "user", "content": f"w{seed % 9}"}]
                told = await made.chat.completions.create(model="kind", messages=messages, seed=seed, max_tokens=8)
                stream = await made.chat.completions.create(
                    model="kind", messages=messages, seed=seed, max_tokens=8, stream=True
                )
                text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
                return text == told.choices[0].message.content

            return await asyncio.gather(*[one(seed) for seed in range(20)])

    assert asyncio.run(main()) == [True] * 20


def test_errors_are_the_librarys(client, chatty):
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="kind@strength=9", prompt="t0")
    assert bad.value.code == "KnobError" and "given: strength=9" in bad.value.body["message"]
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4", prompt="t0")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="kind", messages=[{"role": "user", "content": "t0"}])
    with (
        openai.OpenAI(base_url=f"{chatty.url}/v1", api_key="wrong-horse-battery") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_full_server_is_asked_again(serve, tables):
    served = serve(models=tables[2], rows=1, waiting=1)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        with made.completions.with_streaming_response.create(
            model="kind", prompt="t0", n=2, max_tokens=2000, stream=True
        ) as held:
            served.running(2)
            with pytest.raises(openai.APIStatusError) as full:
                made.completions.create(model="kind", prompt="t0")
            assert full.value.status_code == 503 and full.value.response.headers["retry-after"] == "2"
            assert held.status_code == 200
        served.idle(2.0)  # closing the response in mid-stream has freed its rows
        asked = made.with_options(max_retries=2).completions
        with made.completions.with_streaming_response.create(
            model="kind", prompt="t0", n=2, max_tokens=150, stream=True
        ):
            served.running(2)
            assert asked.create(model="kind", prompt="t0", max_tokens=2).choices  # after a wait, once there is room


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_reads_a_stream_as_it_comes(slow_live):
    body = json.dumps({"model": "kind", "prompt": "t0", "max_tokens": 100, "stream": True})
    command = ["curl", "-sN", f"{slow_live.url}/v1/completions", "-H", "content-type: application/json", "-d", body]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        first = curl.stdout.readline()
        assert slow_live.runner.open == 1  # it was read before the answer ended
        rest = curl.stdout.read()
    assert json.loads(first.removeprefix("data: "))["object"] == "text_completion"
    assert rest.endswith("data: [DONE]\n\n") and curl.returncode == 0
    slow_live.idle()


def test_a_chat_front_end_is_served(chatty):
    """What Open WebUI sends: the list of models, then streamed chats with fields of its own."""
    with chatty.client(KEY) as browser:
        model = browser.get("/v1/models").json()["data"][0]["id"]
        body = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}],
            "params": {},
            "user": {"name": "me", "id": "1", "email": "me@example.org", "role": "admin"},
            "metadata": {"chat_id": "1"},
            "features": {"web_search": False},
            "chat_id": "1",
            "session_id": "2",
            "id": "3",
            "background_tasks": {"title_generation": True},
            "tool_ids": None,
            "keep_alive": "5m",
        }
        told = browser.post("/v1/chat/completions", json=body)
    assert told.status_code == 200 and told.headers["content-type"].startswith("text/event-stream")
    ignored = {"params", "user", "metadata", "features", "chat_id", "session_id", "id", "background_tasks", "tool_ids"}
    assert {*told.headers["x-trimtab-ignored"].split(", ")} == {*ignored, "keep_alive"}
    lines = [line for line in told.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["usage"]["completion_tokens"] >= 1
