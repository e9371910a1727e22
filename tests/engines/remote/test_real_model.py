"""A real byte-level tokenizer behind an endpoint that speaks text, and behind one that speaks ids."""

import pytest

from trimtab.policies.lm import LM
from trimtab.policies.support import top_k

PROMPTS = ["The film was", "Caf\N{LATIN SMALL LETTER E WITH ACUTE} na\N{LATIN SMALL LETTER I WITH DIAERESIS}f:\n\n  1."]


@pytest.mark.slow
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_answers_are_those_of_the_model_in_memory(serve, ids):
    base = LM.load("smollm2-135m", dtype="float32", device="cpu")
    remote = serve(base, ids=ids).remote(tokenizer="smollm2-135m")
    assert (remote.k, remote.vocabulary.fingerprint) == (20, base.vocabulary.fingerprint)
    for policy, twin in ((remote, top_k(base, 20)), (remote * base**0.5, top_k(base, 20) * base**0.5)):
        found, expected = (each.generate(PROMPTS, max_new_tokens=12, seed=0) for each in (policy, twin))
        assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.kl == pytest.approx(other.kl, abs=1e-3)
            assert one.covered == pytest.approx(other.covered, abs=1e-3)
    assert remote.unknown == 0
