import pytest

from trimtab.benchmarks.baselines.chunk_search import Shape
from trimtab.benchmarks.search import running_sum_search
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.toy import Table


def test_running_sums_are_re_encoded_scores(bench):
    policies = [bench.base, bench.lora, bench.lora.untouched]
    found = running_sum_search(policies, [3, 4], Shape(3, 2, 2, 7), seed=0)
    answers = [tokens for tokens, _ in found]
    assert [len(tokens) for tokens in answers] == [7] * 3
    tuned, untuned = (sequence_log_probs(each, [[3, 4]] * 3, answers) for each in policies[1:])
    expected = [float((a - b).sum()) for a, b in zip(tuned, untuned, strict=True)]
    scores = [score for _, score in found]
    assert scores == pytest.approx(expected, abs=1e-4) and scores == sorted(scores, reverse=True)


def test_the_search_finds_what_the_pair_prefers():
    words = ("good", "bad", "end")
    base, untuned = (Table.of({"": dict(zip(words, (0.5, 0.4, 0.1), strict=True))}, end="end") for _ in range(2))
    tuned = Table.of({"": dict(zip(words, (0.8, 0.1, 0.1), strict=True))}, end="end")
    ((tokens, score),) = running_sum_search([base, tuned, untuned], [0], Shape(1, 32, 1, 5), seed=0)
    # one of 32 single tokens is "good" but for (4/9)^32; each adds log(0.8 / 0.5)
    assert tokens == [0] * 5 and score == pytest.approx(5 * 0.470004, abs=1e-4)


def test_an_answer_never_ends_early():
    models = [Table.random(4, seed=seed, end="t3") for seed in range(3)]
    found = running_sum_search(models, [0], Shape(8, 2, 3, 9), seed=0)
    assert not {token for tokens, _ in found for token in tokens} & {3}


def test_the_seed_decides(bench):
    policies = [bench.base, bench.lora, bench.base]
    first, again, other = (running_sum_search(policies, [3], Shape(2, 2, 2, 6), seed=seed) for seed in (0, 0, 1))
    assert first == again != other
