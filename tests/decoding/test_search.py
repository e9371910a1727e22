"""Searches reduce to sampling and to best-of-N, keep what their rule says, and fail one answer at a time."""

import math

import numpy as np
import pytest
import torch

from trimtab.decoding.search import search
from trimtab.decoding.shape import (
    Best,
    Candidate,
    Cut,
    Resample,
    Shape,
    best_of_n,
    blockwise,
    chunk_beam,
    smc,
    speculative_rejection,
)
from trimtab.errors import ConfigError, PolicyError, PromptError, RewardError, VocabularyError
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.knob import Knob
from trimtab.policies.recipes import dera, eft
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm, with_lora
from trimtab.values import LogRatio, PerToken, PrefixValue, RewardValue, Sum

BASE = Table.random(6, seed=0, end="t5", name="base")
TUNED, UNTUNED = (Table.random(6, seed=seed, end="t5", name=f"table{seed}") for seed in (1, 2))
VALUE = LogRatio(TUNED, UNTUNED)
LENGTH = RewardValue(lambda completions, **_: [float(len(text.split())) for text in completions])
PROMPTS = ["t1 t2", "t3", "t1 t2"]


def ids(answer):
    return list(answer.token_ids)


def ids_of(hypothesis):
    return ids(hypothesis[0])


def log_ratio(prompt, tokens, tuned=TUNED, untuned=UNTUNED):
    """Sum the log-ratio over an answer from scratch."""
    prompt = tuned.vocabulary.encode(prompt)
    with torch.no_grad():
        both = [float(sequence_log_probs(model, [prompt], [tokens])[0].sum()) for model in (tuned, untuned)]
    return both[0] - both[1]


@pytest.mark.parametrize("policy", [BASE, BASE * (TUNED / UNTUNED) ** Knob("w", 0.5)], ids=["base", "guided"])
def test_one_beam_of_one_branch_is_sampling(policy):
    found = search(policy, PROMPTS, VALUE, Shape(1, 1, 2), max_new_tokens=9, seed=3)
    plain = policy.generate(PROMPTS, max_new_tokens=9, seed=3)
    assert [each.best for each in found] == plain


def test_one_beam_over_whole_answers_is_best_of_n():
    found = search(BASE, PROMPTS, VALUE, best_of_n(5), max_new_tokens=8, seed=1)
    plain = BASE.generate(PROMPTS, n=5, max_new_tokens=8, seed=1)
    for place, each in enumerate(found):
        answers = plain[5 * place : 5 * place + 5]
        scored = sorted(((answer, log_ratio(answer.prompt, ids(answer))) for answer in answers), key=lambda x: -x[1])
        assert sorted(map(ids, answers)) == sorted(ids(answer) for answer, _ in each.hypotheses)
        assert [score for _, score in each.hypotheses] == pytest.approx([score for _, score in scored], abs=1e-4)
        assert each.best == scored[0][0]
    for whole in (Shape(1, 5, 8), blockwise(5, 8), chunk_beam(1, 5, 99)):
        long = search(BASE, PROMPTS, VALUE, whole, max_new_tokens=8, seed=1)
        assert [each.best for each in long] == [each.best for each in found]


@pytest.mark.parametrize("lam", [0.0, 1.0, 2.5])
def test_dera_is_eft_and_its_ends_are_the_reference_and_the_aligned_model(lam):
    """Under every shape and the same random numbers."""
    same = [dera(BASE, TUNED, lam), eft(BASE, TUNED, BASE, lam)] + [BASE] * (lam == 0) + [TUNED] * (lam == 1)
    for shape in (best_of_n(4), blockwise(3, 2), chunk_beam(2, 2, 3)):
        first, *others = (search(each, PROMPTS, VALUE, shape, max_new_tokens=7, seed=5) for each in same)
        for other in others:
            assert [list(map(ids_of, each.hypotheses)) for each in other] == [
                list(map(ids_of, each.hypotheses)) for each in first
            ]


@pytest.mark.parametrize("shape", [chunk_beam(2, 3, 2), blockwise(4, 3), speculative_rejection(6, 2), smc(5, 2)])
@pytest.mark.parametrize("policy", [BASE, BASE * (TUNED / UNTUNED) ** 0.5], ids=["read", "heard"])
def test_scores_are_those_of_whole_answers(policy, shape):
    """The running sum, whether the pair reads the chunks or runs anyway, is that of the answer scored from scratch."""
    for each in search(policy, PROMPTS, VALUE, shape, max_new_tokens=10, seed=4):
        for answer, score in each.hypotheses:
            assert score == pytest.approx(log_ratio(answer.prompt, ids(answer)), abs=1e-4)
        assert [score for _, score in each.hypotheses] == sorted((s for _, s in each.hypotheses), reverse=True)


def test_a_prompt_finds_the_same_alone_and_with_others():
    together = search(BASE, PROMPTS[:2], VALUE, chunk_beam(2, 2, 3), max_new_tokens=9, seed=7)
    alone = [search(BASE, prompt, VALUE, chunk_beam(2, 2, 3), max_new_tokens=9, seed=7)[0] for prompt in PROMPTS[:2]]
    waves = search(BASE, PROMPTS[:2], VALUE, chunk_beam(2, 2, 3), max_new_tokens=9, seed=7, max_rows=5)
    for a, b, c in zip(together, alone, waves, strict=True):
        assert (
            [ids(x) for x, _ in a.hypotheses] == [ids(x) for x, _ in b.hypotheses] == [ids(x) for x, _ in c.hypotheses]
        )


def test_a_beam_keeps_what_is_best_at_every_boundary():
    (found,) = search(BASE, "t1", VALUE, chunk_beam(2, 3, 2), max_new_tokens=8, min_new_tokens=8, seed=0)
    nodes = found.trace.nodes
    assert [sum(node.depth == depth for node in nodes) for depth in range(4)] == [6, 6, 6, 6]
    for depth in range(4):
        level = [node for node in nodes if node.depth == depth]
        kept = sorted((node.score for node in level if node.kept), reverse=True)
        assert kept == sorted((node.score for node in level), reverse=True)[:2]
        assert all(node.parent is None or nodes[node.parent].kept for node in level)
    assert found.trace.tokens == 4 * 6 * 2
    text = str(found.trace)
    assert text.count("\n") == 23 and text.count("=") >= 6


def test_answers_that_end_early_compete_to_the_end():
    ends = Table.of({"": {"a": 0.5, "<end>": 0.5}}, end="<end>")
    short = RewardValue(lambda completions, **_: [-float(len(text.split())) for text in completions])
    (found,) = search(ends, "a", short, chunk_beam(2, 4, 2), max_new_tokens=12, seed=0)
    assert found.best.text == "" and found.best.finish_reason == "end"
    (longest,) = search(ends, "a", LENGTH, chunk_beam(2, 4, 2), max_new_tokens=12, seed=0)
    assert len(longest.best.text.split()) >= 6  # one is what an answer has on average


def test_the_search_finds_what_the_pair_prefers():
    words = ("good", "bad", "<end>")
    base, untuned = (Table.of({"": dict(zip(words, (0.5, 0.4, 0.1), strict=True))}, end="<end>") for _ in range(2))
    tuned = Table.of({"": dict(zip(words, (0.8, 0.1, 0.1), strict=True))}, end="<end>")
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "seed": 0}
    (found,) = search(base, "bad", LogRatio(tuned, untuned), blockwise(32, 1), **settings)
    # one of 32 single tokens is "good" but for (4/9)^32; each adds log(0.8 / 0.5)
    assert found.best.text == "good good good good good"
    assert found.hypotheses[0][1] == pytest.approx(5 * 0.470004, abs=1e-4)


def test_the_seed_decides():
    first, again, other = (search(BASE, "t1", VALUE, chunk_beam(2, 2, 2), seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def candidates(scores, parents=None, finished=(), before=0.0):
    parents = parents or range(len(scores))
    return [Candidate(s, before, p, i in finished) for i, (s, p) in enumerate(zip(scores, parents, strict=True))]


def test_rules():
    random = np.random.default_rng(0)
    assert Best().pick(candidates([1.0, 3.0, 3.0, 2.0]), 3, random) == [1, 2, 3]
    assert Best(per_parent=True).pick(candidates([1.0, 3.0, 4.0, 2.0], [0, 0, 0, 1]), 2, random) == [2, 3]
    assert Cut(0.5).pick(candidates([1.0, 9.0, 3.0, 2.0], finished={1}), 4, random) == [2, 3]
    # weights e^0, e^ln3: a quarter and three quarters
    drawn = [i for _ in range(500) for i in Resample().pick(candidates([0.0, math.log(3)]), 4, random)]
    assert drawn.count(1) / len(drawn) == pytest.approx(0.75, abs=0.01)


def test_many_particles_have_the_tilted_distribution():
    """Two tokens, V counts the a's: p(y) exp(V) over aa, ab, ba, bb is 0.25 (e^2, e, e, 1) over its sum."""
    coin = Table.of({"": {"a": 0.5, "b": 0.5}})
    count = RewardValue(lambda completions, **_: [float(text.split().count("a")) for text in completions])
    (found,) = search(coin, "a", count, smc(2000, chunk=1), max_new_tokens=2, seed=0, max_rows=2000)
    last = [node for node in found.trace.nodes if node.finish]
    share = sum(node.kept for node in last if node.score == 2.0) / sum(node.kept for node in last)
    assert share == pytest.approx(math.e**2 / (math.e + 1) ** 2, abs=0.03)


def test_values_combine():
    both = Sum(((1.0, VALUE), (0.5, LENGTH)))
    (found,) = search(BASE, "t1", both, chunk_beam(2, 2, 2), max_new_tokens=6, seed=0)
    for answer, score in found.hypotheses:
        expected = log_ratio("t1", ids(answer)) + 0.5 * len(answer.text.split())
        assert score == pytest.approx(expected, abs=1e-4)
    (found,) = search(BASE, "t1", PerToken(VALUE), chunk_beam(2, 2, 2), max_new_tokens=6, seed=0)
    for answer, score in found.hypotheses:
        assert score == pytest.approx(log_ratio("t1", ids(answer)) / len(answer.token_ids), abs=1e-4)


# -- real transformers -----------------------------------------------------------------------------------------------


def test_an_explicit_value_reads_its_own_cache():
    base, head = tiny_lm(), tiny_lm(seed=5, name="value")
    value = PrefixValue(head)
    (found,) = search(base, "t1 t2", value, chunk_beam(3, 2, 2), max_new_tokens=7, seed=0)
    for answer, score in found.hypotheses:
        stream = [*base.vocabulary.encode("t1 t2"), *ids(answer)]
        with torch.no_grad():
            logits = head.trunk.model(input_ids=torch.tensor([stream])).logits[0, -2]
        assert score == pytest.approx(float(logits[stream[-1]]), abs=1e-3)


def test_a_pair_on_the_bases_trunk_is_heard_of_or_reads():
    base = tiny_lm()
    tuned = with_lora(base)
    value = LogRatio(tuned, base)
    guided = base * (tuned / base) ** 0.5
    assert value.watched([base, tuned]) == (tuned, base) and value.watched([base]) == (base,)
    for policy in (guided, base):
        (found,) = search(policy, "t1 t2 t3", value, chunk_beam(2, 3, 3), max_new_tokens=9, seed=1)
        for answer, score in found.hypotheses:
            assert score == pytest.approx(log_ratio("t1 t2 t3", ids(answer), tuned, base), abs=1e-3)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"branches": 0}, {"chunk": 0}, {"beams": -1}])
def test_shapes_that_make_no_sense(wrong):
    with pytest.raises(ConfigError, match="at least 1"):
        Shape(**wrong)


def test_more_rows_than_fit_are_refused():
    with pytest.raises(ConfigError, match="8 x 9 = 72 rows"):
        search(BASE, "t1", VALUE, chunk_beam(8, 9))


def test_a_chunk_may_be_longer_than_the_answer():
    (found,) = search(BASE, "t1", VALUE, chunk_beam(2, 2, 50), max_new_tokens=3, seed=0)
    assert len(found.hypotheses) == 4


def test_values_over_other_tokens_are_refused():
    other = Table.of({"": dict.fromkeys(["u0", "u1", "u2", "u3", "u4", "u5"], 1 / 6)})
    with pytest.raises(VocabularyError):
        LogRatio(TUNED, other)
    for value in (LogRatio(other, other), PrefixValue(other)):
        with pytest.raises(VocabularyError):
            search(BASE, "t1", value)


def test_an_answer_that_cannot_be_scored_is_left_out_with_a_warning():
    def fussy(completions, **_):
        if any("t4" in text for text in completions):
            raise ValueError("not t4")
        return [1.0] * len(completions)

    with pytest.warns(UserWarning, match="goes on without it"):
        (found,) = search(BASE, "t1", RewardValue(fussy), best_of_n(8), max_new_tokens=4, seed=0)
    assert found.hypotheses and all("t4" not in answer.text for answer, _ in found.hypotheses)
    assert any(math.isnan(node.score) for node in found.trace.nodes)

    def broken(completions, **_):
        raise ValueError("never")

    with pytest.warns(UserWarning), pytest.raises(RewardError, match="never"):
        search(BASE, "t1", RewardValue(broken), best_of_n(2), max_new_tokens=2, seed=0)


def test_a_policy_that_breaks_says_which_leaf():
    rotten = Table.of({"": {"t0": 0.5, "t1": 0.5}, "t1": {"t0": math.nan, "t1": math.nan}}, name="rotten")
    value = RewardValue(lambda completions, **_: [0.0] * len(completions))
    with pytest.raises(PolicyError, match="rotten"):
        search(rotten, "t1", value, chunk_beam(2, 2, 2), max_new_tokens=4, seed=0)
    with pytest.raises(PromptError):
        search(BASE, [], value)


def test_best_of_n_stays_within_its_bound_of_kl():
    """KL(best of n || policy) <= log n - (n - 1) / n; answers of one token, of 2,000 searches.

    The standard error of the KL is sqrt(Var[log(q / p)] / 2000) < 0.02 (log(q / p) lies within [-3.7, 1.3], and its
    variance under q is about 0.5).
    """
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    coin = Table.of({"": dict(zip("abcd", chances.tolist(), strict=True))})
    value = RewardValue(lambda completions, **_: [-float("abcd".index(text)) for text in completions])
    n, draws = 4, 2000
    found = search(coin, ["a"] * draws, value, best_of_n(n), max_new_tokens=1, seed=0)
    share = torch.tensor([sum(each.best.text == word for each in found) for word in "abcd"]) / draws
    above = [1.0, 0.9, 0.7, 0.4, 0.0]
    exact = torch.tensor([above[i] ** n - above[i + 1] ** n for i in range(4)])  # all n at least this bad, less worse
    assert torch.allclose(share, exact, atol=0.03)
    kl = float((share * (share / chances).log()).sum())
    bound = math.log(n) - (n - 1) / n
    assert kl == pytest.approx(float((exact * (exact / chances).log()).sum()), abs=0.06)
    assert 0 < kl <= bound + 0.06
