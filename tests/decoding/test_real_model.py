"""The built-in model: drafts, shared prompts and neighbours change nothing in long answers."""

import random

import pytest

from trimtab.benchmarks.setup import Setup
from trimtab.decoding.pool import Pool, decode
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.policies.knob import Knob

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


@pytest.mark.usefixtures("equal_bits")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sampled_answers_are_the_same_alone_and_in_company(dtype):
    """Log-probabilities are equal to the last bit; prompts of all lengths, rows that come and go."""
    bench, draw = Setup(dtype=dtype), random.Random(0)
    strength = Knob("strength", 1.0, min=0, max=3)
    policy, text = bench.base * (bench.lora / bench.base) ** strength, bench.long_prompt
    requests = [
        (
            Request(tuple(text[:length]), n=draw.choice([1, 1, 4]), knobs={"strength": draw.choice([0.0, 0.5, 2.0])}),
            Settings(
                Sampling(temperature=draw.choice([0.7, 1.0]), top_p=draw.choice([0.9, 1.0])),
                min_new_tokens=8,
                max_new_tokens=draw.randint(8, 40),
                seed=number,
            ),
        )
        for number, length in enumerate(draw.choices(range(1, 300), k=20))
    ]

    def answers(some):
        pool, rows = Pool(policy, bounds=Bounds(rows=24)), []
        for request, settings in some:
            pool.submit(request, settings)
        while pool.busy:
            rows += pool.step()
        assert all(row.error is None for row in rows)
        return [(row.tokens, row.log_probs) for row in sorted(rows, key=lambda row: row.place)]

    alone = [answer for each in requests for answer in answers([each])]
    assert answers(requests) == alone
