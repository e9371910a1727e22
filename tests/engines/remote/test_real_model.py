"""A real byte-level tokenizer behind an endpoint that speaks ids, and behind one that speaks text."""

import pytest
import torch

from trimtab.decoding import Sampling, SearchPlan, Settings, chunk_beam, sentences
from trimtab.engines import generate, search
from trimtab.engines.remote import BiasEngine, RemoteEngine
from trimtab.policies.lm import LM
from trimtab.policies.support import top_k
from trimtab.values import RewardValue

PROMPTS = ["The film was", "Caf\N{LATIN SMALL LETTER E WITH ACUTE} na\N{LATIN SMALL LETTER I WITH DIAERESIS}f:\n\n  1."]


@pytest.fixture(scope="module")
def base():
    return LM.load("smollm2-135m", dtype="float32", device="cpu")


@pytest.mark.slow
def test_by_ids_answers_are_those_of_the_model_in_memory(serve, base):
    remote = serve(base).remote(tokenizer="smollm2-135m")
    assert (remote.k, remote.vocabulary.fingerprint) == (20, base.vocabulary.fingerprint)
    for policy, twin in ((remote, top_k(base, 20)), (remote * base**0.5, top_k(base, 20) * base**0.5)):
        found, expected = (each.generate(PROMPTS, max_new_tokens=12, seed=0) for each in (policy, twin))
        assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.kl == pytest.approx(other.kl, abs=1e-3)
            assert one.covered == pytest.approx(other.covered, abs=1e-3)
    assert (remote.unknown, remote.recut) == (0, 0)


@pytest.mark.slow
def test_by_text_they_are_those_of_the_tokens_that_the_text_is_cut_into(serve, base):
    remote, encode = serve(base, ids=False).remote(tokenizer="smollm2-135m"), base.vocabulary.encode
    assert not remote.capabilities.token_prompts
    found, expected = (policy.next_log_probs(PROMPTS) for policy in (remote, top_k(base, 20)))
    assert torch.equal(found.isinf(), expected.isinf())
    assert torch.allclose(found, expected, atol=1e-4)
    assert (remote.unknown, remote.recut) == (0, 0)
    apart = [*encode("The film"), *encode("s")]
    assert apart != encode("The films")
    assert torch.equal(remote.init([apart])[0], remote.next_log_probs(["The films"]))
    assert remote.recut == 1


@pytest.mark.slow
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_engines_of_text_go_on_as_the_model_does(serve, base, ids):
    client = serve(base, ids=ids, most=20 if ids else 0).client()
    greedy = Settings(Sampling(0.0), max_new_tokens=12)
    expected = base.generate(PROMPTS, max_new_tokens=12, temperature=0.0)
    found = generate(RemoteEngine(client, "toy", tokenizer=base.vocabulary), PROMPTS, greedy)
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    flat = RewardValue(lambda completions, **_: [0.0] * len(completions))
    for shape in (chunk_beam(1, 1, 5), chunk_beam(1, 1, sentences(8))):
        plan = SearchPlan(flat, shape)
        searched = search(RemoteEngine(client, "toy", tokenizer=base.vocabulary), PROMPTS, plan, greedy)
        assert [each.best.text for each in searched] == [answer.text for answer in expected]
    guide = base.with_prompt("A delighted review:\n\n")
    steered = (base * guide / base**0.5).generate(PROMPTS, max_new_tokens=12, temperature=0.0)
    biased = generate(BiasEngine(client, "toy", guide / base**0.5), PROMPTS, greedy)
    assert [answer.text for answer in biased] == [answer.text for answer in steered]
    assert min(share for answer in biased for share in answer.listed) < 1
