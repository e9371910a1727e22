"""Faults: clients that vanish, lie or wait, parts that break, more than fits; and everybody else is served."""

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trimtab.policies.toy import Table
from trimtab.rewards.reward import FunctionReward
from trimtab.serving import app, streamed

CLIENT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request("POST", "/v1/completions", sys.argv[2], {"content-type": "application/json"})
answer = connection.getresponse()
answer.read(10)
print("begun", flush=True)
answer.read()
"""


def raw(served, body, *, path="/v1/completions", kind="application/json"):
    """Open a connection and send a request; returns the socket."""
    made = socket.create_connection(("127.0.0.1", served.port), 10)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    made.sendall(head.encode() + body)
    return made


def question(**fields):
    return json.dumps({"model": "kind", "prompt": "t0", "max_tokens": 3000, **fields}).encode()


# -- clients that vanish ---------------------------------------------------------------------------------------------


def test_a_client_killed_in_mid_stream_frees_its_rows(slow_live):
    body = question(stream=True, n=2).decode()
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(slow_live.port), body], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"begun\n" and slow_live.runner.open == 2
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()
    slow_live.idle(2.0)  # of the 3,000 steps that were asked for


@pytest.mark.parametrize("stream", [True, False])
def test_rows_are_free_within_a_step_of_the_news(slow_live, stream, monkeypatch):
    cancelled = []
    cancel = slow_live.runner.cancel

    def noted(ticket):
        cancelled.append(slow_live.runner.steps)
        cancel(ticket)

    monkeypatch.setattr(slow_live.runner, "cancel", noted)
    with raw(slow_live, question(stream=stream, n=3)):
        slow_live.running(3)
    slow_live.idle(2.0)
    freed = slow_live.runner.steps
    # One step may be going on when the news comes; the next one drops the rows, and computes nothing for them.
    assert len(cancelled) == 1 and freed <= cancelled[0] + 2
    time.sleep(0.05)
    assert slow_live.runner.steps <= freed + 1  # the engine itself has nothing left


def test_clients_that_come_and_go_leave_nothing(serve, tables):
    served = serve(models=tables[2])

    def come_and_go(number):
        chosen = random.Random(number)
        with raw(served, question(stream=chosen.random() < 0.5, n=chosen.randint(1, 3), seed=number)):
            time.sleep(chosen.random() * 0.05)

    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(come_and_go, range(80)))) == 80
    served.idle()
    (running,) = served.runner._engines.values()
    deadline = time.monotonic() + 2
    while running.engine.busy:
        assert time.monotonic() < deadline
    served.runner.call(lambda: None).result(2)  # after the step in which the last rows were dropped
    assert running.sinks == {} and running.missing == {} and not (served.runner._controls or served.runner._jobs)
    assert running.engine._open == {} and running.engine._spellers == {}


def test_a_client_that_goes_before_its_body_is_there(live):
    with socket.create_connection(("127.0.0.1", live.port), 10) as made:
        made.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n")
        made.sendall(b"content-length: 100\r\n\r\n{")
    assert live.post().status_code == 200 and live.idle() >= 0


# -- clients that are slow -------------------------------------------------------------------------------------------


def test_clients_that_read_nothing_hold_nobody_up_and_are_let_go(serve, monkeypatch):
    monkeypatch.setattr(streamed, "STALL", 0.5)
    endless = {name: Table.random(6, seed=seed, name=name) for seed, name in enumerate(["base", "guide"])}
    served = serve(models=endless)
    body = question(stream=True, n=8, logprobs=6, max_tokens=1500, trimtab={"details": 6})
    with raw(served, body) as silent:  # it would get more than the kernel keeps
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        served.running(8)
        started = time.perf_counter()
        assert served.post(max_tokens=5).status_code == 200
        assert time.perf_counter() - started < 2
        served.idle(20)
        deadline = time.monotonic() + 10
        with served.client() as client:
            while "trimtab_disconnects_total 1.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert served.post(max_tokens=2).status_code == 200


def test_bodies_that_do_not_come_are_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(app, "SLOWEST", 0.2)
    served = serve()
    with socket.create_connection(("127.0.0.1", served.port), 10) as made:
        made.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n")
        made.sendall(b'content-length: 100\r\n\r\n{"model":')
        assert b" 408 " in made.recv(100)
    assert served.post().status_code == 200


def test_headers_that_do_not_come_hold_nobody_up(live):
    waiting = [socket.create_connection(("127.0.0.1", live.port), 10) for _ in range(50)]
    for each in waiting:
        each.sendall(b"POST /v1/completions HTTP/1.1\r\nx")
    assert live.post().status_code == 200
    for each in waiting:
        each.close()


# -- malformed bodies ------------------------------------------------------------------------------------------------

NASTY = [
    *(
        None,
        True,
        "",
        "t0",
        0,
        -1,
        1.5,
        2**63,
        -(2**70),
        10**30,
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        "\x00",
        "\ud800",
        "é" * 50,
    ),
    *(
        [["t0", 1]],
        [-1],
        [[-1]],
        float("nan"),
        float("inf"),
        "x" * 1000,
        {"": {}},
        [{}] * 40,
        {"strength": "1"},
        [1e308],
    ),
]
FIELDS = ["model", "prompt", "messages", "max_tokens", "n", "temperature", "top_p", "top_k", "min_p", "stop", "seed"]
FIELDS += [
    "stop_token_ids",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "knobs",
    "trimtab",
    "echo",
    "tools",
]
FIELDS += ["response_format", "logit_bias", "best_of", "repetition_penalty", "min_tokens", "tokens", "completions"]
OWN = ["knobs", "policy", "details", "search", "other"]
SEARCH = ["method", "value", "beams", "branches", "chunk", "threshold", "likelihood", "trace", "other"]
ROUTES = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/score"]


def malformed(chosen):
    """Return a body that some route may read, and mostly none should."""
    body = {"model": "kind", "prompt": "t0", "max_tokens": 2}
    for _ in range(chosen.randint(1, 4)):
        body[chosen.choice(FIELDS)] = chosen.choice(NASTY)
    if chosen.random() < 0.4:
        body["trimtab"] = {chosen.choice(OWN): chosen.choice(NASTY) for _ in range(2)}
    if chosen.random() < 0.2:
        body["trimtab"] = {"search": {chosen.choice(SEARCH): chosen.choice(NASTY) for _ in range(2)}}
    text = json.dumps(body).encode()
    match chosen.randint(0, 9):
        case 0:
            return text[: chosen.randint(0, len(text) - 1)]
        case 1:
            return text.replace(b"t0", b"\xff\xfe\xed\xa0\x80")
        case 2:
            return b'{"model": "kind", "prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        case 3:
            digits = b"1" + b"0" * chosen.choice([30, 4000, 6000])
            return b'{"model": "kind", "n": ' + digits + b', "prompt": "t0"}'
        case 4:
            return bytes(chosen.randrange(256) for _ in range(chosen.randint(0, 60)))
        case 5:
            return text[:-1] + b', "n": 0, "max_tokens": 0}'
        case _:
            return text


def bombarded(served, numbers):
    counted = {}
    with served.client() as client:
        for number in numbers:
            chosen = random.Random(number)
            path, body = chosen.choice(ROUTES), malformed(chosen)
            kind = chosen.choices(
                ["application/json", "text/plain", "", "application/json; charset=utf-16"], [9, 1, 1, 1]
            )
            answer = client.post(path, content=body, headers={"content-type": kind[0]})
            counted[answer.status_code] = counted.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (number, path, body[:300], answer.text)
            if answer.status_code >= 400:
                told = answer.json()["error"]
                assert told["message"] and len(answer.content) < 10_000, (number, body[:300])
    return counted


def test_a_thousand_malformed_bodies_are_refused_and_nothing_else(live):
    before = live.post(seed=1, n=3).json()["choices"]
    counted = bombarded(live, range(1000))
    refused = sum(number for status, number in counted.items() if 400 <= status < 500)
    assert refused > 900, counted  # some are well formed by chance
    live.idle()
    assert live.post(seed=1, n=3).json()["choices"] == before


@pytest.mark.slow
def test_ten_thousand_more(live):
    bombarded(live, range(1000, 11_000))
    live.idle()


def test_requests_that_are_not_http(live):
    for sent in (b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"G" * 200_000):
        with socket.create_connection(("127.0.0.1", live.port), 10) as made:
            try:
                made.sendall(sent)
                told = made.recv(1000)
            except ConnectionError:  # it did not read so much
                told = b""
            assert told == b"" or b" 400 " in told or b" 4" in told[:20]
    assert live.post().status_code == 200


# -- parts that break ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(living):
    """Return a server whose guide gives NaN after t3, and whose reward raises."""
    even = {f"t{i}": 1 / 4 for i in range(4)}
    models = {
        "base": Table.of({"": even}, name="base"),
        "guide": Table.of({"": even, "t3": {**even, "t0": math.nan}}, name="guide"),
    }

    def raising(completions, **_):
        raise ValueError("the reward's own words")

    with living(models=models, reward=FunctionReward(raising, "raising")) as made:
        yield made


def test_a_guide_of_nan_breaks_one_request_alone(broken):
    def ask(seed, stream=False):
        return broken.post(prompt="t0", max_tokens=4, seed=seed, stream=stream)

    alone = {seed: ask(seed) for seed in range(40)}
    assert {each.status_code for each in alone.values()} == {200, 500}
    assert all("NaN" in each.json()["error"]["message"] for each in alone.values() if each.status_code == 500)
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(40)))
        told = list(pool.map(lambda seed: ask(seed, stream=True), range(40)))
    for seed in range(40):
        assert together[seed].status_code == alone[seed].status_code
        if alone[seed].status_code == 200:
            assert together[seed].json()["choices"] == alone[seed].json()["choices"]
            assert told[seed].text.endswith("data: [DONE]\n\n")
        elif told[seed].status_code == 200:
            last = told[seed].text.strip().split("\n\n")[-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "PolicyError"
    broken.idle()


def test_a_reward_that_raises_is_told_and_forgotten(broken):
    with broken.client() as client:
        for _ in range(3):
            told = client.post("/v1/score", json={"prompt": "t0", "completions": ["a"]})
            assert told.status_code == 500 and told.json()["error"]["code"] == "RewardError"
    assert broken.post(max_tokens=1).status_code in (200, 500)
    assert broken.runner.alive


def test_what_nobody_thought_of_is_a_500_in_json_without_its_words(serve, monkeypatch, caplog):
    served = serve()

    def broken(*_):
        raise ZeroDivisionError("secret words")

    monkeypatch.setattr(served.service, "own", broken)  # in the middle of writing the reply
    told = served.post()
    assert told.status_code == 500 and told.json()["error"]["code"] == "server_error" and "secret" not in told.text
    monkeypatch.undo()
    assert served.post().status_code == 200 and served.idle() >= 0


def test_a_stream_whose_writing_breaks_frees_its_rows(serve, tables, monkeypatch, caplog):
    served = serve(models=tables[2])

    def broken(*_):
        raise ZeroDivisionError

    from trimtab.serving.replies import Shape

    with monkeypatch.context() as patched:
        patched.setattr(Shape, "piece", broken)
        with raw(served, question(stream=True)) as made:
            while made.recv(1000):
                pass
    served.idle(2.0)
    assert served.post(max_tokens=2).status_code == 200


# -- more than fits --------------------------------------------------------------------------------------------------


def test_a_full_server_says_so_and_recovers(serve, tables):
    served = serve(models=tables[2], rows=2, waiting=2)
    with raw(served, question(n=4)):
        served.running(4)
        for stream in (False, True):
            told = served.post(stream=stream)
            assert told.status_code == 503 and int(told.headers["retry-after"]) >= 1
            assert told.json()["error"]["type"] == "overloaded_error"
        assert served.post(prompt=["t0"] * 3).status_code == 503
    served.idle(2.0)
    assert served.post(max_tokens=2).status_code == 200 and served.idle() >= 0


def test_a_request_that_takes_too_long_is_ended(serve, tables):
    served = serve(models=tables[2], seconds=1)
    told = served.post(max_tokens=4000)
    assert told.status_code == 504 and told.json()["error"]["code"] == "TimeoutExceededError"
    *_, last = served.post(max_tokens=4000, stream=True).text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "TimeoutExceededError"
    search = {"search": {"method": "best_of_n", "branches": 2}}
    assert served.post(max_tokens=4000, trimtab=search).status_code == 504
    assert served.post(max_tokens=4000, trimtab=search, stream=True).status_code == 504
    served.idle(1.0)
    assert served.post(max_tokens=2).status_code == 200


def test_many_policies_at_once_are_all_answered(serve):
    served = serve(policies=2)
    before = {power: served.post(seed=1, trimtab={"policy": f"base * guide^{power}"}).json() for power in range(1, 7)}
    with ThreadPoolExecutor(12) as pool:
        asked = [power for power in range(1, 7) for _ in range(6)]
        for power, told in zip(
            asked,
            pool.map(lambda p: served.post(seed=1, trimtab={"policy": f"base * guide^{p}"}).json(), asked),
            strict=True,
        ):
            assert told["choices"] == before[power]["choices"]
    served.idle()
    assert len(served.service.menu._parsed) == 2 and len(served.runner._engines) <= 6
    served.post()
    assert len(served.runner._engines) <= 3


class Lasting:
    """A vocabulary that takes its time."""

    def encode(self, text):
        return [0] * 40

    def decode(self, ids):
        time.sleep(0.02)
        return "t0"


def test_a_long_text_is_cut_beside_everything_else(serve, monkeypatch):
    served, took = serve(), []
    monkeypatch.setattr(served.service.menu, "vocabulary", Lasting())
    with ThreadPoolExecutor(1) as pool, served.client() as client, served.client() as other:
        cut = pool.submit(client.post, "/tokenize", json={"prompt": "t0"})
        while not cut.done():
            started = time.perf_counter()
            assert other.get("/health").status_code == 200
            took.append(time.perf_counter() - started)
    assert cut.result().json()["count"] == 40 and max(took) < 0.4  # of .8 seconds
