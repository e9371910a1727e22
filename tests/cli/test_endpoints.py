"""Policy files with a model behind an endpoint, from the command line."""

import json

import httpx2
import pytest

from trimtab.engines.remote import Client, ToyEndpoint
from trimtab.engines.remote import client as clients
from trimtab.policies.lm import LM
from trimtab.policies.support import top_k

URL = "http://toy/v1"


@pytest.fixture
def asked(monkeypatch, tiny_lm_folder):
    """Put an endpoint over the tiny model at the address of the files here; returns what it was asked."""
    endpoint, bodies = ToyEndpoint(LM.load(tiny_lm_folder)), []

    def answer(request):
        bodies.append(request.read())
        return endpoint(request)

    client = Client(URL, transport=httpx2.MockTransport(answer))
    monkeypatch.setitem(clients._shared, (URL, None), client)
    yield bodies
    client.close()


@pytest.fixture
def path(tmp_path, tiny_lm_folder, smaller_lm_folder):
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"models:\n  base: {{endpoint: '{URL}', model: toy, tokenizer: {tiny_lm_folder}, k: 6}}\n"
        f"  guide: {smaller_lm_folder}\n"
        "knobs: {strength: {}}\npolicy: base * guide^strength\ndecoding: {max_new_tokens: 4}\n"
    )
    return path


def test_generate_asks_the_endpoint(trimtab, asked, path, tiny_lm_folder, smaller_lm_folder):
    ask = ("generate", path, "w1 w2", "-n", 2, "--seed", 0, "--knob", "strength=1.5")
    found = trimtab(*ask, "--json").json
    assert found["policy"].startswith("toy * ") and asked
    base, guide = LM.load(tiny_lm_folder), LM.load(smaller_lm_folder)
    expected = (top_k(base, 6) * guide**1.5).generate("w1 w2", n=2, seed=0, max_new_tokens=4)
    for one, other in zip(found["answers"], expected, strict=True):
        assert one["text"] == other.text and one["covered"] == pytest.approx(other.covered, abs=1e-5)
    ran = trimtab(*ask)
    assert ran.code == 0 and "nats per token from the base" in ran.out


def test_a_search_hears_of_an_endpoint(trimtab, asked, path):
    search = ("--search", "chunk_beam", "--value", "reward:repetition", "--beams", 2, "--branches", 2, "--chunk", 2)
    (found,) = trimtab("generate", path, "w1", *search, "--seed", 0, "--json").json["found"]
    assert len(found["trace"]) > 4
    ran = trimtab("generate", path, "w1", *search[:2], "--value", "guide / base")
    assert ran.code == 2 and "likeliest tokens only" in ran.err


def test_doctor_asks_nothing(trimtab, asked, path):
    ran = trimtab("doctor", path)
    assert ran.code == 0 and asked == []
    assert f"base: {URL} was not asked" in ran.err
    found = trimtab("doctor", path, "--json").json
    assert {each["engine"]: each["verdict"] for each in found["engines"]} == {
        "local": "exact",
        "vllm": "impossible",
        "remote, top 20": "exact",
        "remote, bias": "approximate by bias",
        "remote, text": "chunk search only",
    }
    assert "its own endpoint is asked" in found["engines"][0]["parts"][0]["reason"]


def test_an_endpoint_that_is_not_there_and_a_key_that_is_missing(trimtab, path, tmp_path, monkeypatch):
    monkeypatch.delenv("BIG_KEY", raising=False)
    keyed = tmp_path / "keyed.yaml"
    keyed.write_text(path.read_text().replace("k: 6", "key: BIG_KEY"))
    ran = trimtab("generate", keyed, "w1", "--json")
    assert ran.code == 2 and "environment" in json.loads(ran.err)["error"]["given"]
    gone = Client(URL, transport=httpx2.MockTransport(lambda request: httpx2.Response(404)))
    monkeypatch.setitem(clients._shared, (URL, None), gone)
    ran = trimtab("generate", path, "w1", "--json")
    assert ran.code == 1 and "the model 'toy'" in json.loads(ran.err)["error"]["given"]
    gone.close()


def test_eval_puts_the_model_behind_it_beside_the_policy(trimtab, asked, path, monkeypatch):
    monkeypatch.setattr("trimtab.assets.prompt_sources.review_prompts", lambda split: ["w1 w2", "w3"])
    limits = "--max-new-tokens", 4, "--prompts", 2, "-n", 2
    scorers = "--reward", "repetition", "--judge", "vader"
    found = trimtab("eval", "sentiment", path, *limits, *scorers, "--seed", 0, "--json").json
    base, steered = found["results"]
    assert (base["name"], steered["name"]) == ("base", str(path))
    assert base["kl"] == pytest.approx(0.0, abs=1e-6) and steered["kl"] > 0.01
    assert base["perplexity"] > 1 and len(steered["answers"]) == 4
