"""The door: closed to everybody without a key, whatever they call it."""

import http.client
import json
import logging
import socket

import pytest

from trimtab.serving.guard import HEADERS, LOOPBACK
from trimtab.serving.page import page_files

KEY = "correct-horse-battery"
ROUTES = [
    *("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/kind", "/v1/policies", "/v1/score"),
    *("/tokenize", "/detokenize", "/metrics", "/openapi.json", "/docs", "/redoc", "/v1", "/nothing", "/playground/"),
]
TRICKS = [
    *("//v1/models", "/health/../v1/models", "/v1/models/", "/HEALTH", "/health/", "/health//", "/health;a=1"),
    *("/%76%31/models", "/health%2f..%2fv1/models", "/health%00", "/./v1/models", "/health/..", "/%2e%2e/v1/models"),
    *("/playground/../v1/models", "/playground/%2e%2e/%2e%2e/v1/models", "/v1/models?/health", "/v1/models#/health"),
    *("/health\\..\\v1\\models", "/playground/nothing.js", "/playground/index.html", "/v1/models%20", "*"),
    *("http://127.0.0.1/v1/models", "http://127.0.0.1/health/../v1/models", "//health", "http:/health"),
]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"]


def asked(served, method, target, headers=None, body=b""):
    """Send a request whose target is exactly this; returns the status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"host": "127.0.0.1", "content-length": str(len(body)), **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_route_and_method_needs_a_key(locked, method):
    for path in [*ROUTES, *TRICKS]:
        for given in ({}, {"authorization": "Bearer wrong-horse-battery"}, {"authorization": f"Basic {KEY}"}):
            status, headers, body = asked(locked, method, path, given)
            assert status == 401, (method, path, given)
            assert headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or json.loads(body)["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-original-url": "/health"},
        {"x-rewrite-url": "/health"},
        {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "https", "x-forwarded-host": "localhost"},
        {"x-forwarded-prefix": "/health", "forwarded": "for=127.0.0.1"},
        {"host": "/health"},
        {"host": "127.0.0.1/health?"},
        {"x-http-method-override": "GET"},
        {"cookie": f"authorization=Bearer {KEY}"},
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY},{KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"proxy-authorization": f"Bearer {KEY}"},
    ],
)
def test_no_header_opens_the_door_but_one(locked, headers):
    assert asked(locked, "GET", "/v1/models", headers)[0] in (400, 401)


def test_a_key_in_the_address_opens_nothing(locked):
    assert asked(locked, "GET", f"/v1/models?api_key={KEY}&authorization=Bearer%20{KEY}")[0] == 401


def test_the_key_opens_every_route(locked):
    opened = {"authorization": f"bearer {KEY}"}
    for path in ("/v1/models", "/v1/models/kind", "/v1/policies", "/metrics", "/openapi.json"):
        assert asked(locked, "GET", path, opened)[0] == 200
    assert asked(locked, "GET", "/docs", opened)[0] == 404
    assert asked(locked, "DELETE", "/v1/models", opened)[0] == 405


def test_only_health_and_the_page_are_open(locked):
    assert asked(locked, "GET", "/health")[0] == 200
    for path, (content, kind) in page_files().items():
        status, headers, body = asked(locked, "GET", path)
        assert (status, headers["content-type"], body) == (200, kind, content)


def test_every_answer_has_the_headers_that_keep_pages_in(locked):
    for path, status in (("/", 200), ("/v1/models", 401), ("/health", 200)):
        found = asked(locked, "GET", path)
        assert found[0] == status and HEADERS.items() <= found[1].items()
        assert "access-control-allow-origin" not in found[1] and "server" not in found[1]


def test_pages_from_elsewhere_cannot_call_a_keyless_server(serve):
    served = serve(hosts=LOOPBACK)
    assert asked(served, "GET", "/v1/models", {"host": f"localhost:{served.port}"})[0] == 200
    assert asked(served, "GET", "/v1/models", {"host": "[::1]:80"})[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{served.port}",
        "127.0.0.1.evil.example",
        "localhost@evil",
        "",
        "[::2]",
    ):
        for path in ("/v1/models", "/health", "/"):
            status, _, body = asked(served, "GET", path, {"host": host})
            assert status == 421 and json.loads(body)["error"]["code"] == "misdirected_request", host
    body = json.dumps({"model": "kind", "prompt": "t0"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "", "text/json"):
        sent = {"origin": "http://evil.example", "content-type": kind}
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/score"):
            assert asked(served, "POST", path, sent, body)[0] == 415
    status, headers, _ = asked(served, "OPTIONS", "/v1/completions", {"origin": "http://evil.example"})
    assert status == 405 and not any(name.startswith("access-control") for name in headers)


def test_bodies_that_are_too_large_are_refused_however_they_come(locked):
    opened = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    body = json.dumps({"model": "kind", "prompt": "t0 " * 1000}).encode()
    assert asked(locked, "POST", "/v1/completions", opened, body)[0] == 413
    for length in ("3000", "9" * 25, "-1", "1e3", "+5", "0x10"):
        status = asked(locked, "POST", "/v1/completions", {**opened, "content-length": length})[0]
        assert status in (400, 413)
    with socket.create_connection(("127.0.0.1", locked.port), 10) as raw:
        head = [f"{name}: {value}" for name, value in {**opened, "host": "a", "transfer-encoding": "chunked"}.items()]
        raw.sendall("\r\n".join(["POST /v1/completions HTTP/1.1", *head, "", ""]).encode())
        raw.sendall(b"7d0\r\n" + b" " * 2000 + b"\r\n" + b"7d0\r\n" + b" " * 2000 + b"\r\n0\r\n\r\n")
        assert b" 413 " in raw.recv(100)
    assert asked(locked, "GET", "/health")[0] == 200


def test_websockets_are_turned_away(locked):
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "a", "sec-websocket-version": "13"}
    assert asked(locked, "GET", "/v1/models", upgrade)[0] == 401


def test_keys_and_prompts_are_written_nowhere(serve, caplog):
    served = serve(keys=[KEY])
    caplog.set_level(logging.DEBUG)
    told = ""
    for key in (KEY, "wrong-horse-battery", None):
        for prompt in ("t0 t3 t1", "secretword"):
            told += served.post(key=key, prompt=prompt, max_tokens=2).text
    with served.client(KEY) as client:
        told += client.get("/metrics").text + client.get("/openapi.json").text + client.get("/v1/policies").text
    assert KEY not in told + caplog.text and "wrong-horse" not in told + caplog.text
    assert "t0 t3 t1" not in caplog.text and "secretword" not in caplog.text
    assert '"path": "/v1/completions", "status": 200' in caplog.text


def test_prompts_are_written_where_the_operator_wants_them(serve, caplog):
    served = serve(log_prompts=True)
    caplog.set_level(logging.INFO)
    text = served.post(prompt="t0 t3 t1", seed=0).json()["choices"][0]["text"]
    assert "t0 t3 t1" in caplog.text and text in caplog.text
