"""Searches in a thread of their own, whose work the engines' thread does, beside everything else."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trimtab.decoding.request import Settings
from trimtab.decoding.search_plan import SearchPlan
from trimtab.decoding.shape import best_of_n, chunk_beam, smc
from trimtab.engines.local import LocalEngine
from trimtab.engines.search import search
from trimtab.values import LogRatio

SHAPES = {
    "chunk_beam": ({"method": "chunk_beam", "beams": 3, "branches": 2, "chunk": 2}, chunk_beam(3, 2, 2)),
    "best_of_n": ({"method": "best_of_n", "branches": 5}, best_of_n(5)),
    "smc": ({"method": "smc", "beams": 4, "chunk": 1}, smc(4, 1)),
}


def alone(live, models, shape, seed, length):
    engine = LocalEngine(live.service.menu.policy)
    value = LogRatio(models["guide"], models["base"])
    return search(engine, "t0", SearchPlan(value, shape), Settings(max_new_tokens=length, seed=seed))[0]


@pytest.mark.parametrize("method", SHAPES)
def test_a_search_is_the_search_alone(live, tables, method):
    wish, shape = SHAPES[method]
    reply = live.post(seed=3, max_tokens=6, trimtab={"search": {**wish, "trace": True}}).json()
    found = alone(live, tables[1], shape, 3, 6)
    (choice,) = reply["choices"]
    assert choice["text"] == found.best.text
    assert choice["trimtab"]["score"] == pytest.approx(found.hypotheses[0][1])
    assert [node["text"] for node in choice["trimtab"]["found"]["trace"]] == [n.text for n in found.trace.nodes]


def test_searches_and_samples_run_side_by_side(live, tables):
    wish, shape = SHAPES["chunk_beam"]

    def sought(seed):
        return live.post(seed=seed, max_tokens=6, trimtab={"search": wish}).json()["choices"][0]["text"]

    def sampled(seed):
        return live.post(seed=seed, max_tokens=20, n=3).json()["choices"]

    before = {seed: sampled(seed) for seed in range(4)}
    with ThreadPoolExecutor(8) as pool:
        searches = [pool.submit(sought, seed) for seed in range(4)]
        samples = [pool.submit(sampled, seed) for seed in range(4)]
        assert [each.result() for each in searches] == [
            alone(live, tables[1], shape, seed, 6).best.text for seed in range(4)
        ]
        assert [each.result() for each in samples] == [before[seed] for seed in range(4)]
    live.idle()


def test_a_streamed_search_comes_in_one_piece(live, tables):
    wish, shape = SHAPES["chunk_beam"]
    text = live.post(seed=1, max_tokens=6, stream=True, trimtab={"search": wish, "details": 0}).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == alone(live, tables[1], shape, 1, 6).best.text
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_a_search_ends_when_its_client_goes(slow_live, stream):
    body = {"model": "kind", "prompt": "t0", "max_tokens": 2000, "stream": stream}
    body["trimtab"] = {"search": {"method": "best_of_n", "branches": 4}}
    before = slow_live.runner.steps
    with slow_live.client() as client, pytest.raises(Exception, match="timed out"):
        client.post("/v1/completions", json=body, timeout=0.3)
    slow_live.idle(1.0)
    assert slow_live.runner.steps - before < 1000
    ended = slow_live.runner.steps
    time.sleep(0.1)
    assert slow_live.runner.steps <= ended + 1 and slow_live.service._searching == 0


def test_more_searches_than_allowed_are_refused(serve, tables):
    served = serve(models=tables[2], searches=1)
    wish = {"search": {"method": "best_of_n", "branches": 2}}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.post, max_tokens=100, trimtab=wish)
        served.running()
        refused = served.post(trimtab=wish)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert first.result().status_code == 200
    assert served.post(max_tokens=2, trimtab=wish).status_code == 200


def test_a_prompt_that_a_search_refuses_is_a_400(live):
    assert live.post(prompt=[77], trimtab={"search": True}).status_code == 400
    assert live.post(prompt=[77], trimtab={"search": True}, stream=True).status_code == 400


def test_a_server_that_ends_waits_for_no_search(living, tables):
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        with living(models=tables[2]) as served:
            asked = pool.submit(
                served.post, max_tokens=4000, trimtab={"search": {"method": "best_of_n", "branches": 4}}
            )
            served.running()
        told = asked.result()  # uvicorn waits for two seconds, and then cancels what goes on
    assert told.status_code == 500
    end = time.monotonic() + 2
    while any(thread.name.startswith("trimtab-search") for thread in threading.enumerate() if thread not in before):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert served.runner.open == 0 and not served.runner.alive
