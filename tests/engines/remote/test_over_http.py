"""Over a real connection: an endpoint that works, is slow, trickles, breaks off, or is not there."""

import json
import socket
import threading

import pytest

from trimtab.engines.remote import Client, Limits, Remote, ToyEndpoint
from trimtab.errors import EndpointError
from trimtab.policies.support import top_k
from trimtab.policies.toy import Table

TABLE = Table.random(6, seed=0, end="t5", name="table")


def send(handler, status, answer):
    content = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def test_a_policy_over_http_answers_as_the_one_in_memory(listen):
    endpoint, places = ToyEndpoint(TABLE), set()

    def answer(handler, route, body):
        places.add(handler.client_address)
        send(handler, *endpoint.answer(route, body))

    client = Client(listen(answer), limits=Limits(concurrency=3))
    remote = Remote(client, "toy", tokenizer=TABLE.vocabulary, k=3, device="cpu")
    found, expected = (
        policy.generate(["t0", "t1 t2"], n=2, max_new_tokens=4, seed=1) for policy in (remote, top_k(TABLE, 3))
    )
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert len(places) <= 3  # connections are kept
    client.close()


def test_a_slow_endpoint_is_an_error_and_not_asked_again(listen):
    done, asked = threading.Event(), []

    def answer(handler, route, body):
        asked.append(route)
        done.wait(30)

    client = Client(listen(answer), limits=Limits(timeout=0.3))
    with pytest.raises(EndpointError, match="in time"):
        client.ask("models")
    done.set()
    assert asked == ["models"]
    client.close()


def test_an_answer_that_trickles_in_is_given_up(listen):
    done = threading.Event()

    def answer(handler, route, body):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not done.wait(0.05):
            handler.wfile.write(b" ")

    client = Client(listen(answer), limits=Limits(timeout=1.0))
    with pytest.raises(EndpointError, match="in time"):
        client.ask("models")
    done.set()
    client.close()


def test_an_answer_that_breaks_off_is_not_asked_for_again(listen):
    asked = []

    def answer(handler, route, body):
        asked.append(route)
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"data": [')
        handler.close_connection = True

    client = Client(listen(answer), limits=Limits(pause=0.0))
    with pytest.raises(EndpointError, match="a broken connection"):
        client.ask("models")
    assert asked == ["models"]
    client.close()


def test_where_nothing_listens_there_is_no_connection(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/v1", limits=Limits(pause=0.0, tries=2))
    with pytest.raises(EndpointError, match=r"no connection to .*, 2 times"):
        client.ask("models")
    assert client.meter.retries == 1
    client.close()
