"""The loops that the engine is timed against do what the engine does: greedily, in float32, token for token."""

import pytest
import torch
from transformers import DynamicCache

from trimtab.benchmarks.baselines import chunk_search, logits_processor, plain, proxy_tuning
from trimtab.benchmarks.baselines.chunk_search import Shape
from trimtab.decoding.search import search
from trimtab.decoding.shape import chunk_beam
from trimtab.policies.advance import sequence_log_probs
from trimtab.values.log_ratio import LogRatio

RAGGED = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]
TOKENS = 6


def ours(bench, policy, prompts):
    return [list(row.tokens) for row in bench.decode(policy, prompts, TOKENS, greedy=True)]


def one_by_one(generate):
    return [generate([prompt])[0] for prompt in RAGGED]


@pytest.mark.parametrize("strength", [1.0, 1.5, -0.5])
def test_the_three_model_loop_is_the_product(bench, strength):
    models = bench.plain, bench.plain_guide, bench.plain_untuned
    ends = bench.base.vocabulary.end_ids

    def loop(prompts):
        return proxy_tuning.generate(
            models, prompts, strength=strength, max_new_tokens=TOKENS, end_ids=ends, greedy=True
        ).tolist()

    found = loop(RAGGED)
    assert found == ours(bench, bench.base * (bench.guide / bench.untuned) ** strength, RAGGED)
    assert found == one_by_one(loop)


def test_the_three_model_loop_samples_the_product(bench):
    policy = bench.base * (bench.guide / bench.untuned)
    expected = policy.init([[3]])[0][0].exp()
    expected[list(bench.base.vocabulary.end_ids)] = 0
    torch.manual_seed(0)
    models = bench.plain, bench.plain_guide, bench.plain_untuned
    ends = bench.base.vocabulary.end_ids
    drawn = proxy_tuning.generate(models, [[3]] * 4000, strength=1.0, max_new_tokens=1, end_ids=ends)
    counts = torch.bincount(drawn.flatten(), minlength=len(expected)).float()
    # the total variation of 4000 draws over 22 tokens is about sqrt(22 / (2 pi 4000)) = 0.03
    assert float((counts / 4000 - expected / expected.sum()).abs().sum()) / 2 < 0.06


def test_the_three_model_loop_ends_nowhere(bench):
    models = bench.plain, bench.plain_tuned, bench.plain_untuned
    drawn = proxy_tuning.generate(models, RAGGED * 30, strength=1.0, max_new_tokens=TOKENS, end_ids=frozenset([1]))
    assert drawn.shape == (90, TOKENS) and not bool((drawn == 1).any())


def test_the_logits_processor_is_the_product(bench):
    def loop(prompts):
        return logits_processor.generate(
            bench.plain, bench.plain_guide, prompts, strength=0.7, max_new_tokens=TOKENS, greedy=True
        ).tolist()

    found = loop(RAGGED)
    assert found == ours(bench, bench.base * bench.guide**0.7, RAGGED)
    assert found == one_by_one(loop)


def test_plain_generate_is_the_base(bench):
    found = plain.generate(bench.plain, RAGGED, max_new_tokens=TOKENS, greedy=True).tolist()
    assert found == ours(bench, bench.base, RAGGED)


def test_plain_generate_gives_n_answers_a_prompt(bench):
    torch.manual_seed(0)
    found = plain.generate(bench.plain, RAGGED, max_new_tokens=TOKENS, n=3)
    assert found.shape == (9, TOKENS) and len({tuple(row) for row in found.tolist()}) > 3


def test_texts_are_scored_by_what_the_pair_says_of_them(bench):
    pair, tokenizer = (bench.plain_tuned, bench.plain_untuned), bench.base.vocabulary.tokenizer
    found = chunk_search.log_ratios(pair, tokenizer, "w1 w2", [" w3 w4 w5", " w6", ""])
    # w0 has id 2
    prompts, answers = [[3, 4]] * 2, [[5, 6, 7], [8]]
    tuned, untuned = (sequence_log_probs(each, prompts, answers) for each in (bench.tuned, bench.untuned))
    expected = [float((a - b).sum()) for a, b in zip(tuned, untuned, strict=True)]
    assert found.tolist() == pytest.approx([*expected, 0.0], abs=1e-4)


def test_chunks_with_a_carried_cache_are_one_answer(bench):
    rows = torch.tensor([[3, 4, 5], [3, 4, 5]])
    torch.manual_seed(1)
    whole = chunk_search._continue(bench.plain, rows, DynamicCache(), 6)
    torch.manual_seed(1)
    cache, parts = DynamicCache(), rows
    for length in (2, 3, 1):
        parts = chunk_search._continue(bench.plain, parts, cache, length)
    assert parts.tolist() == whole.tolist()


def test_selected_rows_keep_their_own_cache(bench):
    rows, cache = torch.tensor([[3, 4, 5], [9, 9, 9]]), DynamicCache()
    rows = chunk_search._continue(bench.plain, rows, cache, 2)[torch.tensor([1, 1, 0])]
    cache.batch_select_indices(torch.tensor([1, 1, 0]))
    torch.manual_seed(2)
    carried = chunk_search._continue(bench.plain, rows, cache, 3)
    torch.manual_seed(2)
    assert carried.tolist() == chunk_search._continue(bench.plain, rows, DynamicCache(), 3).tolist()


def test_the_search_keeps_its_best_texts(bench):
    pair, tokenizer = (bench.plain_tuned, bench.plain_untuned), bench.base.vocabulary.tokenizer
    torch.manual_seed(0)
    found = chunk_search.search(bench.plain, pair, tokenizer, "w1 w2", Shape(2, 3, 2, 5))
    scores = [score for _, score in found]
    assert len(found) == 2 and scores == sorted(scores, reverse=True)
    again = chunk_search.log_ratios(pair, tokenizer, "w1 w2", [text for text, _ in found])
    assert again.tolist() == pytest.approx(scores, abs=1e-4)


def test_both_searches_give_the_same_answers_the_same_scores(bench):
    pair, tokenizer = (bench.plain_tuned, bench.plain_untuned), bench.base.vocabulary.tokenizer
    value, shape = LogRatio(bench.tuned, bench.untuned), chunk_beam(2, 3, 2)
    for policy in (bench.base, bench.base * (bench.tuned / bench.untuned) ** 0.5):  # read apart, and heard of
        found = search(policy, "w1 w2", value, shape, max_new_tokens=5, min_new_tokens=5, seed=0)[0].hypotheses
        texts = [tokenizer.decode(answer.token_ids) for answer, _ in found]
        again = chunk_search.log_ratios(pair, tokenizer, "w1 w2", [" " + text for text in texts])
        assert len(found) == 6 and again.tolist() == pytest.approx([score for _, score in found], abs=1e-3)
