"""The client: what is asked again and what is not, what each failure says, and that the key is never shown."""

import json
import logging
import threading
import traceback

import httpx2
import pytest

from trimtab.engines.remote import Client, Limits, Refused
from trimtab.engines.remote.limits import retry_after
from trimtab.errors import ConfigError, EndpointError
from trimtab.policies.toy import Table

TABLE = Table.of({"": {"a": 0.5, "b": 0.3, "c": 0.2}})
BODY = {"model": "toy", "temperature": 0, "prompt": "a", "max_tokens": 1}
REQUEST = httpx2.Request("POST", "http://toy/v1/completions")


@pytest.fixture
def service(serve):
    return serve(TABLE)


def error_of(client, body=BODY):
    with pytest.raises((EndpointError, ConfigError)) as caught:
        client.ask("completions", body)
    return caught.value


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_busy_endpoint_is_asked_again(service, status):
    service.faults += [(status, b"busy"), (status, b"")]
    client = service.client()
    assert client.ask("completions", BODY)["choices"][0]["text"] == "a"
    assert (client.meter.calls, client.meter.retries, len(service.asked)) == (1, 2, 3)


def test_a_refused_connection_is_tried_again(service):
    service.faults += [httpx2.ConnectError("refused", request=REQUEST)]
    client = service.client()
    client.ask("completions", BODY)
    assert client.meter.retries == 1


def test_an_endpoint_that_stays_busy_or_down_is_an_error_that_says_how_often(service):
    service.faults += [(429, b'{"error": {"message": "slow down"}}')] * 3
    error = error_of(service.client())
    assert "status 429" in error.given and "slow down, 3 times" in error.given and "concurrency" in error.hint
    service.faults += [httpx2.ConnectError("refused", request=REQUEST)] * 3
    assert "no connection to http://toy/v1/completions, 3 times" in error_of(service.client()).given
    assert len(service.asked) == 6


def test_it_waits_as_long_as_the_endpoint_asks_but_not_longer_than_allowed(service):
    service.faults += [(429, b"", ("Retry-After", "0.05"))]
    client = service.client()
    client.ask("completions", BODY)
    assert client.meter.seconds >= 0.05
    service.faults += [(429, b"", ("Retry-After", "3600"))]
    assert "status 429" in error_of(client).given
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    "fault",
    [
        (500, b'{"error": {"message": "out of memory"}}'),
        (400, b'{"error": "no"}'),
        (200, b"<html>hello</html>"),
        (200, b"[1]"),
        (302, b"", ("Location", "http://elsewhere/v1/completions")),
        httpx2.ReadTimeout("slow", request=REQUEST),
        httpx2.ConnectTimeout("slow", request=REQUEST),
        httpx2.ReadError("reset", request=REQUEST),
        httpx2.RemoteProtocolError("half an answer", request=REQUEST),
    ],
    ids=str,
)
def test_what_may_have_been_worked_on_is_not_asked_again(service, fault):
    service.faults.append(fault)
    client = service.client()
    assert isinstance(error_of(client), EndpointError)
    assert (len(service.asked), client.meter.retries, client.meter.calls) == (1, 0, 1)


def test_messages_say_what_went_wrong(service):
    def given(*fault):
        service.faults.append(fault)
        return error_of(service.client()).given

    assert given(500, b'{"error": {"message": "out of memory"}}').endswith(
        "status 500 from http://toy/v1/completions: out of memory"
    )
    assert given(400, b'{"error": "no"}').endswith(": no")
    assert given(422, b'{"detail": [1]}').endswith("status 422 from http://toy/v1/completions")
    assert "no JSON object: '<html>" in given(200, b"<html>hello</html>")
    service.faults.append(httpx2.ReadTimeout("slow", request=REQUEST))
    assert "an answer in 7 s" in error_of(service.client(limits=Limits(timeout=7))).expected


def test_only_a_refusal_is_a_refusal(service):
    service.faults += [(500, b"")]
    assert isinstance(error_of(service.client()), Refused)
    service.faults += [(429, b"")] * 3
    assert not isinstance(error_of(service.client()), Refused)


def test_a_key_that_is_not_taken_is_an_error_of_usage(service, key):
    service.faults += [(401, f"no: {key}".encode()), (403, b"{}")]
    assert "asked with the key in TOY_KEY" in error_of(service.client(key="TOY_KEY")).given
    assert "asked without a key" in error_of(service.client()).given
    assert service.asked[0].headers["Authorization"] == f"Bearer {key}"
    assert "Authorization" not in service.asked[1].headers


@pytest.mark.parametrize(
    "fault",
    [
        (401, b'{"error": {"message": "bad key sk-toy-1234567890"}}'),
        (400, b'{"error": {"message": "' + b"x" * 290 + b'sk-toy-1234567890"}}'),
        (429, b'{"message": "sk-toy-1234567890"}', ("Retry-After", "99")),
        (200, b"your key sk-toy-1234567890"),
        (200, b"x" * 50 + b"sk-toy-1234567890"),
    ],
    ids=str,
)
def test_the_key_is_in_no_message_log_or_repr(service, key, caplog, fault):
    caplog.set_level(logging.DEBUG)
    service.faults.append(fault)
    client = service.client(key="TOY_KEY")
    error = error_of(client)
    told = "".join(traceback.format_exception(error)) + caplog.text + repr(client) + repr(vars(client)) + repr(error)
    assert "sk-toy" not in told and "TOY_KEY" in told


def test_a_key_that_is_not_in_the_environment_is_not_shown_either(monkeypatch):
    with pytest.raises(ConfigError) as caught:
        Client("http://toy/v1", key="sk-given-by-mistake")
    assert "sk-given" not in str(caught.value)
    for text in ("two words", "two\nlines", "schlüssel"):
        monkeypatch.setenv("TOY_KEY", text)
        with pytest.raises(ConfigError, match="TOY_KEY") as caught:
            Client("http://toy/v1", key="TOY_KEY")
        assert text not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://me:hush@host/v1", "http://h/?key=hush", 3]
)
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(ConfigError) as caught:
        Client(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"timeout": float("nan")}, {"concurrency": 0}, {"tries": 1.5}, {"pause": -1.0}]
)
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)


def test_pauses_double_up_to_the_longest():
    limits = Limits(pause=1.0, longest_pause=3.0, tries=9)
    for attempt, longest in enumerate([1, 2, 3, 3]):
        assert longest / 2 <= limits.pause_after(attempt, None) <= longest
    assert limits.pause_after(0, 2.5) == 2.5 and limits.pause_after(0, 3.1) is None


@pytest.mark.parametrize(("header", "seconds"), [("nan", None), ("-5", 0.0), ("", None), ("2", 2.0)])
def test_odd_wishes_to_wait(header, seconds):
    assert retry_after(header) == seconds


def test_requests_run_at_once_but_not_more_than_allowed(serve):
    meet, lock, running, most = threading.Barrier(2, timeout=30), threading.Lock(), 0, 0

    def handle(request):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meet.wait()  # two must be there at the same time
        with lock:
            running -= 1
        return httpx2.Response(200, json={"prompt": json.loads(request.content)["prompt"]})

    client = Client("http://toy/v1", limits=Limits(concurrency=2), transport=httpx2.MockTransport(handle))
    answers = client.map(lambda prompt: client.ask("completions", {"prompt": prompt}), list(range(6)))
    assert [answer["prompt"] for answer in answers] == list(range(6))
    assert most == 2


def test_the_first_failure_of_several_is_raised(service):
    service.faults += [(500, b"")]
    client = service.client(limits=Limits(concurrency=1))
    with pytest.raises(Refused):
        client.map(lambda body: client.ask("completions", body), [BODY] * 3)


def test_the_meter_counts_tokens_as_the_endpoint_does(service):
    client = service.client()
    before = client.meter
    client.ask("completions", BODY | {"prompt": "a b c"})
    service.faults += [(200, b'{"usage": {"prompt_tokens": null}}'), (200, b'{"usage": 3}')]
    client.ask("completions", BODY)
    client.ask("models")
    used = client.meter - before
    assert (used.calls, used.prompt_tokens, used.completion_tokens, used.retries) == (3, 3, 1, 0)
