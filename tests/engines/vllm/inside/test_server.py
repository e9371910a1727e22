"""vLLM's own server on a policy: real requests to a process of its own, good ones and bad ones."""

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from trimtab.engines.vllm import serve
from trimtab.engines.vllm.layout import lay_out

KNOBS = "{strength: {default: 1.0, min: -1, max: 2}, care: {default: 0.7, min: 0, max: 2}}"
REQUESTS = 1000
FLAGS = shlex.split("--dtype float32 --enforce-eager --max-model-len 160 --max-num-seqs 16 --block-size 32")
FLAGS += shlex.split(f"--no-enable-chunked-prefill --kv-cache-memory-bytes {2**26} --disable-uvicorn-access-log")


class Server:
    """A server that runs until it is told to stop."""

    def __init__(self, command, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, **command.environment}
        words = [*command.words, "--port", str(self.port)]
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, start_new_session=True)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        for _ in range(600):
            assert self.process.poll() is None, log.read_text()[-4000:]
            try:
                if self.client.get("/health").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.5)
        raise AssertionError("the server did not start\n" + log.read_text()[-4000:])

    def ask(self, model="policy", prompt="w1 w2 w3", **fields):
        """Ask for a completion."""
        return self.client.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 4, **fields})

    def stop(self):
        """End it with all of its processes."""
        self.client.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Return a function that serves a policy file; every server is stopped when the test ends."""
    servers = []

    def start(file, *, vectors=False):
        if vectors:  # on a CPU they are refused, for a mistake that the first mixes do not meet
            monkeypatch.setattr(serve, "on_cpu", lambda: False)
        servers.append(Server(serve.command(lay_out(file), "policy", FLAGS), tmp_path / "server.log"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


GOOD = [
    None,
    {},
    {"strength": 0},
    {"strength": 0.5},
    {"strength": -0.3},
    {"strength": 2},
    {"care": 0.0, "strength": 1.5},
]
BAD = [
    {"strength": 2.01},
    {"strength": -1.5},
    {"strength": 1e308},
    {"strength": "0.5"},
    {"strength": ""},
    {"strength": [0.5]},
    {"strength": []},
    {"strenght": 1.0},
    {"": 1.0},
    {"strength": 1.0, "other": 1.0},
    {"care": -0.1},
    {"strength": 10**400},
]


def test_of_a_thousand_requests_bad_ones_get_a_reason_and_good_ones_their_solo_answers(policy_file, serving):
    server = serving(policy_file("base * (guide / untuned)^strength * lora^care", KNOBS))
    draw = random.Random(0)
    plans = []
    for number in range(REQUESTS):
        prompt = " ".join(f"w{draw.randrange(198)}" for _ in range(draw.randint(1, 40)))
        good = draw.random() < 0.5
        plans.append((prompt, draw.choice(GOOD if good else BAD), good, draw.choice([0, 1.0]), number))

    def ask(plan):
        prompt, knobs, _, temperature, seed = plan
        return server.ask(prompt=prompt, vllm_xargs=knobs, temperature=temperature, seed=seed, logprobs=0)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, plans))
    for (_, knobs, good, _, _), answer in zip(plans, answers, strict=True):
        assert answer.status_code == (200 if good else 400), (knobs, answer.text)
        if not good:
            assert answer.json()["error"]["message"], knobs
    steered = [plan for plan in plans if plan[2]][:60]
    for plan in steered:  # one at a time
        alone, crowded = ask(plan).json()["choices"][0], answers[plan[4]].json()["choices"][0]
        assert alone["text"] == crowded["text"]
        assert alone["logprobs"]["token_logprobs"] == pytest.approx(crowded["logprobs"]["token_logprobs"], abs=1e-3)
    nested = server.client.post(
        "/v1/completions",
        content=json.dumps({"model": "policy", "prompt": "w1", "vllm_xargs": {"strength": {"a": 1}}}),
        headers={"content-type": "application/json"},
    )
    nan = server.client.post(
        "/v1/completions",
        content='{"model": "policy", "prompt": "w1", "vllm_xargs": {"strength": NaN}}',
        headers={"content-type": "application/json"},
    )
    assert nested.status_code == nan.status_code == 400
    assert server.ask(model="other").status_code == 404
    assert server.ask().status_code == 200


def test_mixes_are_models_that_are_made_on_demand_and_let_go(policy_file, serving, models_folder):
    from trimtab import LM

    file = policy_file("base + care * medical + law * legal", "{care: {default: 0.7}, law: {default: 0}}")
    server = serving(file, vectors=True)
    policy = file.build(lambda source: LM.load(source, dtype="float32"))
    for model, knobs in [
        ("policy", {}),
        ("medical:0.7", {}),
        ("legal:-0.3+medical:0.5", {"care": 0.5, "law": -0.3}),
    ]:
        answer = server.ask(model=model, temperature=0, max_tokens=8, logprobs=0).json()["choices"][0]
        expected = policy.generate(["w1 w2 w3"], temperature=0, max_new_tokens=8, knobs=knobs)[0]
        assert answer["text"].strip() == expected.text.strip()
        assert answer["logprobs"]["token_logprobs"] == pytest.approx(expected.log_probs, abs=1e-4)
    for unknown in ("medical:0.70", "medical:11", "other:1", "../medical:1", "medical:nan"):
        assert server.ask(model=unknown).status_code == 404
    for route in ("load", "unload"):
        told = {"lora_name": "policy", "lora_path": str(models_folder / "lora")}
        assert server.client.post(f"/v1/{route}_lora_adapter", json=told).status_code == 404
    assert (
        server.client.post("/adapters", json={"name": "policy", "src": str(models_folder / "lora")}).status_code == 404
    )
    assert server.client.delete("/adapters/policy").status_code == 404
    began = time.perf_counter()
    assert server.ask(model="medical:0.99", max_tokens=1).status_code == 200
    assert time.perf_counter() - began < 5
    for number in range(40):
        assert server.ask(model=f"legal:{(number + 1) / 100:g}", max_tokens=1).status_code == 200
    listed = [model["id"] for model in server.client.get("/v1/models").json()["data"]]
    assert len(listed) <= 33 and "legal:0.4" in listed and "medical:0.99" not in listed
