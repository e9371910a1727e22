"""An endpoint over a toy policy that misbehaves on demand: in this process, or as a server on this machine."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from trimtab.engines.remote import Client, Limits, Remote, ToyEndpoint

KEY = "sk-toy-1234567890"


class Service:
    """Answers as a toy endpoint does, but first as it is told to."""

    def __init__(self, policy, **settings):
        self.endpoint = ToyEndpoint(policy, **settings)
        self.asked, self.faults, self.edit = [], deque(), lambda route, body, answer: answer

    def __call__(self, request):
        self.asked.append(request)
        if self.faults:
            fault = self.faults.popleft()
            if isinstance(fault, Exception):
                raise fault
            return httpx2.Response(*fault[:1], content=fault[1], headers=dict(fault[2:]))
        response = self.endpoint(request)
        if response.status_code != 200 or not request.content:
            return response
        body = json.loads(request.content)
        return httpx2.Response(200, json=self.edit(request.url.path, body, response.json()))

    @property
    def prompts(self):
        """What completions were asked to go on from."""
        bodies = [json.loads(request.content) for request in self.asked if request.url.path.endswith("/completions")]
        return [body.get("prompt") for body in bodies]

    def client(self, **settings):
        limits = settings.pop("limits", Limits(pause=0.0, tries=3))
        return Client("http://toy/v1", transport=httpx2.MockTransport(self), limits=limits, **settings)

    def remote(self, **settings):
        settings = {"tokenizer": self.endpoint.policy.vocabulary, "device": "cpu"} | settings
        return Remote(self.client(), "toy", **settings)


@pytest.fixture
def serve():
    """Return what makes such a service in this process."""
    return Service


@pytest.fixture
def key(monkeypatch):
    """Put a key into the environment under TOY_KEY."""
    monkeypatch.setenv("TOY_KEY", KEY)
    return KEY


@pytest.fixture
def listen(monkeypatch):
    """Return what makes a real server, over HTTP, of a function from (route, body) to (status, answer or chunks)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply(None)

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body):
                answer(self, self.path.removeprefix("/v1/"), body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
