"""The built-in model in float32: drafts and shared prompts change nothing in long greedy answers."""

import pytest

from trimtab.benchmarks.setup import Setup
from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.network]

GREEDY = Settings(Sampling(temperature=0.0), min_new_tokens=256, max_new_tokens=256)


@pytest.fixture(scope="module")
def bench():
    return Setup(dtype="float32")


def tokens(policy, prompts, **given):
    return [row.tokens for row in decode(policy, [Request(tuple(prompt)) for prompt in prompts], GREEDY, **given)]


def test_greedy_answers_of_256_tokens_are_those_of_plain_decoding(bench):
    prompts = bench.prompts(2)
    pair = bench.base * (bench.tuned / bench.untuned) ** 0.5
    cases = [
        (bench.base * bench.guide, bench.guide),  # a factor drafts
        (pair, bench.base),  # and a better one
        (bench.base * bench.lora, bench.guide),  # another model drafts
        (bench.base * bench.lora, "lookup"),
        (pair, "auto"),
    ]
    for policy, drafter in cases:
        plain = tokens(policy, prompts)
        assert [len(row) for row in plain] == [256, 256]
        assert tokens(policy, prompts, draft=drafter, draft_tokens=5) == plain
        assert tokens(policy, prompts, draft=drafter) == plain  # as many as seem to pay


def test_greedy_answers_to_one_long_prompt_are_that_of_the_prompt_alone(bench):
    policy, settings = bench.base * bench.lora, Settings(Sampling(temperature=0.0), max_new_tokens=64)
    (alone,) = decode(policy, [Request(tuple(bench.long_prompt))], settings)
    many = decode(policy, [Request(tuple(bench.long_prompt), n=8)], settings)
    assert [row.tokens for row in many] == [alone.tokens] * 8
    for row in many:
        assert row.kl == pytest.approx(alone.kl, abs=1e-3)
