"""Speculation is exact: greedy rows are those of plain decoding, the others have its distribution."""

import itertools
from dataclasses import replace

import pytest
import torch

from trimtab.decoding.drafters import LookupDrafter, PolicyDrafter, drafters
from trimtab.decoding.ledger import Ledger, Owner
from trimtab.decoding.pace import Pace
from trimtab.decoding.pool import Pool, decode
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError, PolicyError, VocabularyError
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm, with_lora

BASE, GUIDE, OTHER = (Table.random(5, seed=seed, name=f"table{seed}") for seed in range(3))
PRODUCT = BASE * (GUIDE / OTHER) ** 0.7
GREEDY = Settings(sampling=Sampling(temperature=0), max_new_tokens=24)
PROMPTS = [(1, 2, 3), (4,), (5, 6, 7, 8, 9)]


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def chain_probabilities(policy, prompt, length, sampling):
    """Probability of every answer of a length, by listing them all; the slow and obvious twin."""
    from trimtab.decoding.sampling import Warps, distribution, warp

    warps = Warps.of([sampling])
    probabilities = {}
    for answer in itertools.product(range(policy.vocabulary.size), repeat=length):
        total = 1.0
        for t in range(length):
            with torch.no_grad():
                log_probs = policy.init([[*prompt, *answer[:t]]])[0]
            total *= float(distribution(warp(log_probs, warps), warps)[0, answer[t]])
        probabilities[answer] = total
    return probabilities


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_p=0.9), Sampling(top_k=3, min_p=0.05)])
@pytest.mark.parametrize(
    "draft", [BASE, GUIDE, Table.random(5, seed=9), "lookup"], ids=["base", "guide", "x", "lookup"]
)
def test_three_tokens_have_the_distribution_of_the_product(draft, sampling):
    """8,000 answers of 3 tokens; chi-square over the 125 possible answers, p > 0.001."""
    n, prompt = 8000, (0, 1, 0)
    settings = Settings(sampling=sampling, max_new_tokens=3, seed=11)
    rows = decode(PRODUCT, [Request(prompt, n)], settings, bounds=Bounds(rows=n), draft=draft, draft_tokens=2)
    wanted = chain_probabilities(PRODUCT, prompt, 3, sampling)
    found = dict.fromkeys(wanted, 0)
    for row in rows:
        found[tuple(row.tokens)] += 1
    assert not any(found[answer] for answer, p in wanted.items() if p == 0)
    frequent = [answer for answer, p in wanted.items() if p * n >= 5]
    rare = sum(p for answer, p in wanted.items() if 0 < p * n < 5) * n
    counts = [found[answer] for answer in frequent] + (
        [sum(found.values()) - sum(found[a] for a in frequent)] * (rare > 0)
    )
    expected = [wanted[answer] * n for answer in frequent] + [rare] * (rare > 0)
    freedom = len(expected) - 1
    # the 0.999 quantile of chi-square, by Wilson and Hilferty's approximation: f (1 - 2/(9f) + 3.09 sqrt(2/(9f)))^3
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square(torch.tensor(counts, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)) < quantile


@pytest.mark.parametrize("draft", ["base", "guide", "outside", "lookup", "auto"])
@pytest.mark.parametrize("tokens", [1, 3, None])
def test_greedy_rows_are_those_of_plain_decoding(draft, tokens):
    base, guide = tiny_lm(seed=0), tiny_lm(seed=1, name="guide")
    policy = base * guide ** Knob("w", 0.8, min=0, max=3)
    drafter = {"base": base, "guide": guide, "outside": tiny_lm(seed=2)}.get(draft, draft)
    requests = [Request(prompt, knobs={"w": 0.5 * i}) for i, prompt in enumerate(PROMPTS)]
    plain = decode(policy, requests, GREEDY)
    drafted = decode(policy, requests, GREEDY, draft=drafter, draft_tokens=tokens)
    for a, b in zip(plain, drafted, strict=True):
        assert (a.tokens, a.finish) == (b.tokens, b.finish)
        for field in ("log_probs", "reference_log_probs", "kl"):
            assert getattr(a, field) == pytest.approx(getattr(b, field), abs=1e-4)


def test_adapters_on_one_trunk_verify_what_another_trunk_drafts():
    base, small = tiny_lm(seed=0), tiny_lm(seed=1, name="small")
    policy = base * (with_lora(base) / base) ** 0.5 * small**0.5
    requests = [Request(prompt) for prompt in PROMPTS]
    plain, drafted = (decode(policy, requests, GREEDY, draft=d, draft_tokens=3) for d in (None, small))
    assert [row.tokens for row in plain] == [row.tokens for row in drafted]


def test_rows_that_come_later_do_not_disturb_those_in_a_block():
    requests = [Request(prompt, n=3, occurrence=i) for i, prompt in enumerate(PROMPTS * 3)]
    lm, drafter = tiny_lm(), tiny_lm(seed=3)
    for settings in (Settings(max_new_tokens=9, seed=5), GREEDY):
        together = decode(lm, requests, settings, draft=drafter, draft_tokens=3, bounds=Bounds(rows=4))
        alone = [row for r in requests for row in decode(lm, [r], settings, draft=drafter, draft_tokens=3)]
        assert [row.tokens for row in together] == [row.tokens for row in alone]


def test_a_drafter_that_is_the_product_is_never_rejected():
    lm = tiny_lm(size=40)
    pool = Pool(lm, draft=lm, draft_tokens=4)
    pool.submit(Request((1, 2)), Settings(max_new_tokens=20, seed=0))
    steps = 0
    while pool.busy:
        steps += 1
        (row,) = pool.step() or [None]
    assert steps == -(-len(row.tokens) // 5)


def test_a_block_ends_where_the_row_does():
    chain = Table.of({"": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"<end>": 1.0}}, end="<end>")
    for settings, expected, finish in (
        (Settings(), [1, 2, 3], "end"),
        (Settings(max_new_tokens=2), [1, 2], "length"),
        (Settings(stop=("b c",)), [1, 2], "stop"),  # spans two drafts
        (Settings(stop_ids=(2,)), [1, 2], "stop"),
        (Settings(stop=("b",), min_new_tokens=2), [1, 2, 3], "end"),
    ):
        (row,) = decode(chain, [Request((0,))], settings, draft=chain, draft_tokens=3)
        assert (row.tokens, row.finish) == (expected, finish)


def test_penalties_and_least_lengths_hold_inside_a_block():
    lm = tiny_lm()
    sampling = Sampling(temperature=0, repetition_penalty=3.0)
    settings = Settings(sampling=sampling, min_new_tokens=10, max_new_tokens=14)
    requests = [Request(prompt) for prompt in PROMPTS]
    plain, drafted = (decode(lm, requests, settings, draft=d, draft_tokens=4) for d in (None, tiny_lm(seed=5)))
    assert [row.tokens for row in plain] == [row.tokens for row in drafted]


def test_a_prompt_that_fills_the_context_exactly():
    lm = tiny_lm()  # 64 tokens
    for draft in (tiny_lm(seed=2), "lookup"):
        (row,) = decode(lm, [Request((1,) * 44)], replace(GREEDY, max_new_tokens=20), draft=draft, draft_tokens=8)
        (plain,) = decode(lm, [Request((1,) * 44)], replace(GREEDY, max_new_tokens=20))
        assert row.tokens == plain.tokens


def test_cancelled_rows_leave_between_blocks():
    pool = Pool(tiny_lm(size=60), draft=tiny_lm(size=60, seed=1), draft_tokens=3)
    tickets = [pool.submit(Request(prompt), Settings(max_new_tokens=30, min_new_tokens=30)) for prompt in PROMPTS]
    pool.step()
    pool.cancel(tickets[1])
    (row,) = pool.step()
    assert row.finish == "cancelled" and 1 <= len(row.tokens) <= 4
    rows = []
    while pool.busy:
        rows += pool.step()
    assert sorted(len(each.tokens) for each in rows) == [30, 30]


def test_nan_from_a_drafter_is_never_accepted_and_nan_from_a_leaf_fails_its_row_alone():
    nan = float("nan")
    bad = Table.of({"": {"x": 0.5, "y": 0.5}, "y": {"x": nan, "y": 0.5}}, name="bad")
    good = Table.of({"": {"x": 0.5, "y": 0.5}}, name="good")
    rows = decode(good, [Request((0,), n=20)], Settings(max_new_tokens=6, seed=0), draft=bad, draft_tokens=3)
    assert all(len(row.tokens) == 6 for row in rows)
    pool = Pool(bad, draft=good, draft_tokens=3)
    pool.submit(Request((0,), n=20), Settings(max_new_tokens=3, seed=0))
    rows = []
    while pool.busy:
        rows += pool.step()
    broken = [row for row in rows if row.finish == "error"]
    assert broken and len(rows) == 20 and all("bad" in str(row.error) for row in broken)
    assert all(row.tokens == [0, 0, 0] or row.tokens[:2] == [0, 0] for row in rows if row.finish == "length")


def test_lookup_finds_the_longest_latest_run():
    #                0  1  2  3  4  5  6  7     the text ends in 1 2; it occurs before at 1 2 -> 7
    prompt = (1, 2, 5, 9, 1, 2, 7, 8)
    owner = Owner(0, Request(prompt), Settings(max_new_tokens=8), 0, 0)
    ledger = Ledger.of([owner], [0], frozenset(), 20, torch.device("cpu"))
    ledger.tokens[0, :2] = torch.tensor([1, 2])
    ledger.count[0] = 2
    drafts = LookupDrafter().draft(ledger, 3)
    assert drafts.tokens.tolist() == [[7, 8, 1]] and drafts.count.tolist() == [3]
    ledger.tokens[0, 1] = 19
    assert LookupDrafter().draft(ledger, 3).count.tolist() == [0]


def test_who_may_draft():
    base, guide = tiny_lm(), tiny_lm(seed=1)
    policy = base * guide
    leaves = [base, guide]
    assert drafters(None, policy, leaves) == []
    assert drafters(guide, policy, leaves) == [PolicyDrafter(guide, shared=True)]
    assert drafters(tiny_lm(seed=2), policy, leaves)[0].shared is False
    assert drafters(base, base, [base])[0].shared is False  # nobody would be left to verify
    assert len(drafters("auto", policy, leaves)) == 3
    with pytest.raises(ConfigError, match="draft="):
        drafters("fast", policy, leaves)
    with pytest.raises(VocabularyError):
        drafters(tiny_lm(size=7), policy, leaves)


def test_the_pace_follows_what_is_measured():
    good, bad = Pace(), Pace()
    for pace, accepted in ((good, 4), (bad, 0)):
        pace.saw_plain(1.0)
        assert pace.best()[0] > 0  # a first trial
        for _ in range(20):
            pace.saw_cycle(4, 1.6, accepted, max(accepted, 1))
    # accepted: (1 - a^5) / (1 - a) near 5 tokens in 1.6; refused: 1 token in 1.6
    assert good.best()[0] >= 4 and good.gain(4) == pytest.approx(5 / 1.6, rel=0.1)
    assert bad.best() == (0, 1.0) and bad.gain(4) < 0.7
    for _ in range(40):
        bad.saw_plain(1.0)
    assert bad.best()[0] > 0  # tried again after a pause


def test_a_drafter_never_makes_the_impossible_possible():
    """Only the end is possible, and it is too early for it: an error with and without drafts."""
    over = Table.of({"": {"x": 0.0, "<end>": 1.0}}, end="<end>")
    fine = Table.of({"": {"x": 0.5, "<end>": 0.5}}, end="<end>")
    for draft in (None, fine, "lookup"):
        for temperature in (0.0, 1.0):
            settings = Settings(sampling=Sampling(temperature=temperature), min_new_tokens=4, max_new_tokens=6)
            with pytest.raises(PolicyError, match="min_new_tokens"):
                decode(over, [Request((0,))], settings, draft=draft, draft_tokens=3)


def test_drafters_may_be_padded_differently():
    narrow, wide = tiny_lm(), tiny_lm(seed=1)
    narrow = LM.of(narrow.trunk.model, replace(narrow.vocabulary, size=12))
    for policy, draft in ((narrow * wide, wide), (narrow * wide, "auto"), (narrow, wide), (wide, narrow)):
        requests = [Request((1, 2, 3)), Request((4,))]
        plain, drafted = (decode(policy, requests, GREEDY, draft=d, draft_tokens=2) for d in (None, draft))
        assert [row.tokens for row in plain] == [row.tokens for row in drafted]


def test_a_drafter_may_have_a_knob_of_its_own():
    draft = BASE * GUIDE ** Knob("speed", 0.5)
    (answer,) = BASE.generate("t1", max_new_tokens=6, temperature=0, draft=draft, draft_tokens=2, knobs={"speed": 1.0})
    assert answer.token_ids == BASE.generate("t1", max_new_tokens=6, temperature=0)[0].token_ids


@pytest.mark.parametrize("tokens", [0, -1, 13, 1.5, "3"])
def test_numbers_of_drafts_that_make_no_sense(tokens):
    with pytest.raises(ConfigError, match="draft_tokens"):
        BASE.generate("t1", draft=GUIDE, draft_tokens=tokens)


def test_no_drafts_where_a_row_needs_one_token():
    lm, drafter = tiny_lm(), tiny_lm(seed=1)
    steps, step = [], drafter.trunk.step

    def counted(state, tokens):
        steps.append(tokens.shape)
        return step(state, tokens)

    drafter.trunk.step = counted
    decode(lm, [Request((1, 2))], Settings(max_new_tokens=2, min_new_tokens=2), draft=drafter, draft_tokens=8)
    assert len(steps) <= 2


def test_one_slow_step_does_not_make_a_bad_drafter_look_good():
    pace = Pace()
    pace.saw_plain(30.0)  # a first step that waited for something
    forwards = 0
    for _ in range(300):
        k, _ = pace.best()
        forwards += k
        if k:
            pace.saw_cycle(k, 1.0 + 0.3 * k, 0, 1)
        else:
            pace.saw_plain(1.0)
    assert pace.plain == 1.0 and forwards < 200
