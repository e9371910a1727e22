"""Real servers on a loopback port, over small tables or tiny transformers."""

import contextlib
import threading
import time
from dataclasses import dataclass

import httpx2
import pytest
import uvicorn

from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.toy import Table
from trimtab.serving.app import build_app
from trimtab.serving.keys import Keys
from trimtab.serving.limits import Limits
from trimtab.serving.menu import Menu
from trimtab.serving.serve import local_service

FILE = {
    "models": {"base": "base", "guide": "guide"},
    "knobs": {"strength": {"default": 1.0, "min": 0.0, "max": 3.0}},
    "policy": "base * (guide / base)^strength",
    "decoding": {"max_new_tokens": 8},
    "search": {"method": "chunk_beam", "value": "guide / base", "beams": 2, "branches": 2, "chunk": 2},
}


class Slow(Table):
    """A table that takes its time, so that answers are caught in the middle."""

    def row(self, prefix):
        time.sleep(0.002)
        return super().row(prefix)


def slow(seed):
    """Return a slow table whose answers only their length ends."""
    table = Table.random(6, seed=seed, name=f"slow{seed}")
    return Slow(table.tokens, table.rows, table.label)


MODELS = {
    "base": Table.random(6, seed=1, end="t5", name="base"),
    "guide": Table.random(6, seed=2, end="t5", name="guide"),
}
SLOW = {"base": slow(1), "guide": slow(2)}


@dataclass
class Live:
    """A server that runs in a thread."""

    service: object
    server: uvicorn.Server
    port: int
    app: object

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def runner(self):
        return self.service.runner

    def client(self, key=None, **options):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def post(self, path="/v1/completions", key=None, **body):
        with self.client(key) as client:
            return client.post(path, json={"model": "kind", "prompt": "t0", **body})

    def idle(self, seconds=5.0):
        """Wait until nothing runs and nothing waits; returns the steps that it took."""
        before, end = self.runner.steps, time.monotonic() + seconds
        while self.runner.open:
            assert time.monotonic() < end, f"{self.runner.open} answers are still open"
            time.sleep(0.001)
        return self.runner.steps - before

    def running(self, answers=1, seconds=5.0):
        """Wait until so many answers are open and steps are made."""
        end = time.monotonic() + seconds
        while self.runner.open < answers:
            assert time.monotonic() < end
            time.sleep(0.001)
        steps = self.runner.steps
        while self.runner.steps < steps + 2:
            assert time.monotonic() < end
            time.sleep(0.001)


@contextlib.contextmanager
def _living(file=FILE, models=MODELS, *, keys=(), hosts=None, reward=None, log_prompts=False, **limits):
    menu = Menu.load("kind", PolicyFile.model_validate(file), lambda name: models[name], Limits(**limits), vectors={})
    menu.reward = None if reward is None else reward.name
    service = local_service(menu, reward)
    app = build_app(service, keys=Keys.of(keys), hosts=hosts, log_prompts=log_prompts)
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Live(service, server, server.servers[0].sockets[0].getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def live():
    """Return a server that stays as it is; tests leave nothing open."""
    with _living(reward=None) as made:
        yield made


@pytest.fixture(scope="session")
def slow_live():
    """Return a server whose answers take seconds."""
    with _living(models=SLOW) as made:
        yield made


@pytest.fixture(scope="session")
def locked():
    """Return a server with a key."""
    with _living(keys=["correct-horse-battery"], body_bytes=2000) as made:
        yield made


@pytest.fixture
def serve():
    """Return a function that starts a server of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **options: stack.enter_context(_living(*given, **options))


@pytest.fixture(scope="session")
def living():
    """Return what starts and stops a server."""
    return _living


@pytest.fixture
def tables():
    """Return the file, the tables of it, and the slow ones."""
    return FILE, MODELS, SLOW
