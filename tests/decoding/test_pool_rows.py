"""Rows of one pool do not disturb each other: whatever is mixed, each gives what it gives alone."""

import math

import pytest
import torch

from trimtab.decoding.pool import Pool, decode
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import PolicyError
from trimtab.policies.knob import Knob
from trimtab.policies.mixture import mix
from trimtab.policies.support import plausible, within
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm

W = Knob("w", 1.0, min=-1, max=2)
END = "t12"
BASE, GUIDE = Table.random(13, seed=1, end=END, name="base"), Table.random(13, seed=2, end=END, name="guide")
POLICIES = {
    "table": lambda: BASE,
    "product": lambda: BASE * GUIDE**W,
    "mixture": lambda: mix((1, BASE), (W, GUIDE)) * GUIDE**0.3,
    "cut": lambda: within(BASE * GUIDE**W, 0.8),
    "model": tiny_lm,
    "models": lambda: tiny_lm() * (tiny_lm(seed=1, name="guide") / tiny_lm(seed=2, name="anti")) ** W,
    "uncached": lambda: tiny_lm(cached=False) * tiny_lm(seed=1, name="guide") ** W,
}

VARIED = [
    Settings(Sampling(temperature=0), max_new_tokens=5, seed=1),
    Settings(Sampling(temperature=0.7, top_k=3), max_new_tokens=9, seed=2),
    Settings(Sampling(top_p=0.6), min_new_tokens=4, max_new_tokens=8, seed=3),
    Settings(Sampling(min_p=0.2, repetition_penalty=1.7), max_new_tokens=12, seed=4),
    Settings(Sampling(temperature=0, repetition_penalty=2.5), min_new_tokens=3, max_new_tokens=7, seed=5),
    Settings(max_new_tokens=10, stop=("t3", "t7"), seed=6),
    Settings(Sampling(temperature=1.8), max_new_tokens=6, stop_ids=(2, 5), min_new_tokens=2, seed=7),
    Settings(max_new_tokens=1, seed=8),
    Settings(Sampling(temperature=0.9, top_k=9, top_p=0.9, min_p=0.01), max_new_tokens=11, stop=("1 t", "4"), seed=9),
    Settings(Sampling(repetition_penalty=0.7), max_new_tokens=15, stop=("t1 ",), stop_ids=(8,), seed=10),
]


def varied(policy):
    """Return requests with other prompts, answers and knobs, each with its settings."""
    knobs = [{}, {"w": 0.0}, {"w": -0.5}, {"w": 1.5}] if policy.knobs else [{}]
    return [
        (Request(tuple((i * 5 + j * 3) % 12 for j in range(1 + i * 2 % 7)), 1 + i % 3, knobs[i % len(knobs)]), each)
        for i, each in enumerate(VARIED)
    ]


def drain(pool):
    rows = []
    while pool.busy:
        rows += pool.step()
    return sorted(rows, key=lambda row: row.place)


def alone(policy, request, settings, **more):
    pool = Pool(policy, **more)
    pool.submit(request, settings)
    return drain(pool)


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.request, a.tokens, a.finish) == (b.request, b.tokens, b.finish)
        for one, other in (
            (a.log_probs, b.log_probs),
            (a.reference_log_probs, b.reference_log_probs),
            (a.kl, b.kl),
        ):
            assert len(one) == len(a.tokens) and one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("rows", [3, 64])
@pytest.mark.parametrize("name", POLICIES)
def test_rows_of_every_kind_in_one_pool_give_what_each_gives_alone(name, rows):
    """Requests come one a step, or wait for one of three places."""
    policy = POLICIES[name]()
    pool, found = Pool(policy, bounds=Bounds(rows=rows)), []
    asked = varied(policy)
    for request, settings in asked:
        pool.submit(request, settings)
        found += pool.step()
    found = sorted(found + drain(pool), key=lambda row: row.place)
    same(found, [row for request, settings in asked for row in alone(policy, request, settings)])
    assert [row.place for row in found] == list(range(len(found)))
    assert {"length", "end", "stop"} >= {row.finish for row in found} >= {"length", "stop"}


def test_a_row_does_not_depend_on_when_it_joins():
    policy = tiny_lm()
    mine = Request((1, 2, 3), n=2), Settings(Sampling(top_p=0.9, repetition_penalty=1.3), max_new_tokens=8, seed=3)
    expected = alone(policy, *mine)
    for waited in (0, 1, 4, 9):
        pool = Pool(policy)
        pool.submit(Request((4,) * 11, n=2), Settings(min_new_tokens=10, max_new_tokens=10, seed=1))
        for _ in range(waited):
            assert pool.step() == []
        pool.submit(*mine)
        same(drain(pool)[2:], expected)


def test_a_newcomer_with_a_penalty_finds_the_old_rows_as_they_were():
    table = Table.of({"": {"a": 0.6, "b": 0.39, "c": 0.01}})
    greedy = Settings(Sampling(temperature=0), max_new_tokens=4)
    penalised = Settings(Sampling(temperature=0, repetition_penalty=20.0), max_new_tokens=4)
    pool = Pool(table)
    pool.submit(Request((1,)), greedy)
    pool.submit(Request((2,)), greedy)
    pool.step()
    pool.submit(Request((0,)), penalised)
    pool.step()
    pool.submit(Request((2,)), penalised)
    rows = drain(pool)
    # after the prompt a: b at .39, c at .01 > .6 ** 20 = 4e-5, then all are penalised: a; after c: a, b, then a
    assert [row.tokens for row in rows] == [[0] * 4, [0] * 4, [1, 2, 0, 0], [0, 1, 0, 0]]


def test_a_penalised_row_remembers_what_it_wrote_before_others_came_and_went():
    policy, penalised = tiny_lm(), Settings(Sampling(repetition_penalty=3.0), max_new_tokens=14, seed=4)
    pool = Pool(policy, bounds=Bounds(rows=3))
    pool.submit(Request((1, 2)), penalised)
    for i in range(8):
        pool.submit(Request((3 + i,)), Settings(max_new_tokens=1 + i % 3, seed=i))
    same(drain(pool)[:1], alone(policy, Request((1, 2)), penalised))


# -- knobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["product", "models"])
def test_leaves_whose_knob_is_0_are_evaluated_so_that_later_rows_can_join(name):
    policy, settings = POLICIES[name](), Settings(min_new_tokens=6, max_new_tokens=6, seed=0)
    pool = Pool(policy)
    pool.submit(Request((1, 2), knobs={"w": 0.0}), settings)
    pool.step()
    pool.submit(Request((3,), knobs={"w": 1.5}), settings)
    pool.step()
    pool.submit(Request((4, 5, 6), knobs={"w": 0.0}), settings)
    zero, guided, last = drain(pool)
    base = policy.reference
    same([guided], alone(policy, Request((3,), knobs={"w": 1.5}), settings))
    for row in (zero, last):
        (expected,) = decode(base, [Request(row.request.prompt)], settings)
        assert row.tokens == expected.tokens and row.log_probs == pytest.approx(expected.log_probs, abs=1e-5)
        assert row.kl == pytest.approx([0.0] * 6, abs=1e-6)
    assert min(guided.kl) >= -1e-6 and max(guided.kl) > 1e-3


def test_without_a_meter_the_costs_are_0_and_the_tokens_the_same():
    for name in ("product", "models"):
        policy = POLICIES[name]()
        for request, settings in varied(policy)[:5]:
            with_meter = alone(policy, request, settings)
            without = alone(policy, request, settings, metered=False)
            for a, b in zip(without, with_meter, strict=True):
                assert (a.tokens, a.finish) == (b.tokens, b.finish)
                assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)
                assert a.reference_log_probs == a.kl == [0.0] * len(a.tokens)
    assert any(kl > 0 for row in with_meter for kl in row.kl)


@pytest.mark.parametrize("metered", [True, False])
def test_a_policy_that_is_its_own_reference_costs_nothing(metered):
    (row,) = alone(BASE, Request((1,)), Settings(max_new_tokens=5, seed=2), metered=metered)
    assert row.kl == [0.0] * len(row.tokens)
    assert row.reference_log_probs == (row.log_probs if metered else [0.0] * len(row.tokens))


# -- several pools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["product", "models"])
def test_two_pools_over_one_policy_do_not_disturb_each_other(name):
    policy = POLICIES[name]()
    asked = varied(policy)
    pools, found = (Pool(policy, bounds=Bounds(rows=4)), Pool(policy)), ([], [])
    for i, each in enumerate(asked):
        pools[i % 2].submit(*each)
        for pool, rows in zip(pools, found, strict=True):
            rows += pool.step()
    while any(pool.busy for pool in pools):
        for pool, rows in zip(pools, found, strict=True):
            rows += pool.step()
    for side in (0, 1):
        expected = [row for each in asked[side::2] for row in alone(policy, *each)]
        same(sorted(found[side], key=lambda row: row.place), expected)


# -- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["product", "models"])
def test_cancelled_rows_come_back_with_what_they_have(name):
    policy, long = POLICIES[name](), Settings(min_new_tokens=9, max_new_tokens=9, seed=5)
    pool = Pool(policy)
    kept = pool.submit(Request((1, 2)), long)
    gone = pool.submit(Request((3,), n=2), long)
    for _ in range(3):
        assert pool.step() == []
    pool.cancel(gone)
    pool.cancel(gone)
    cancelled = pool.step()
    whole = alone(policy, Request((3,), n=2), long)
    assert [(row.place, row.finish, row.error) for row in cancelled] == [(1, "cancelled", None), (2, "cancelled", None)]
    for row, full in zip(cancelled, whole, strict=True):
        assert row.tokens == full.tokens[:3]
        for found, expected in ((row.log_probs, full.log_probs), (row.kl, full.kl)):
            assert found == pytest.approx(expected[:3], abs=1e-4)
    pool.cancel(gone)  # it is over
    rows = drain(pool)
    same(rows, alone(policy, Request((1, 2)), long))
    pool.cancel(kept)
    pool.submit(Request((1, 2)), long)
    same(drain(pool), rows)


def test_a_pool_whose_rows_were_all_cancelled_starts_again():
    pool, long = Pool(tiny_lm()), Settings(min_new_tokens=9, max_new_tokens=9)
    ticket = pool.submit(Request((1,), n=3), long)
    pool.step()
    pool.cancel(ticket)
    assert pool.busy and [row.finish for row in pool.step()] == ["cancelled"] * 3 and not pool.busy
    pool.submit(Request((1,)), long)
    assert [row.finish for row in drain(pool)] == ["length"]


def test_places_of_cancelled_rows_are_used_in_the_same_step():
    pool, long = Pool(BASE, bounds=Bounds(rows=2)), Settings(min_new_tokens=5, max_new_tokens=5)
    first = pool.submit(Request((1,), n=2), long)
    pool.submit(Request((2,), n=2), Settings(max_new_tokens=1))
    pool.step()
    pool.cancel(first)
    assert sorted((row.place, len(row.tokens)) for row in pool.step()) == [(0, 1), (1, 1), (2, 1), (3, 1)]


# -- rows that break -------------------------------------------------------------------------------------------------


def table_with(value):
    """Return a table that is broken after the token "bad", and elsewhere says "ok" or "so"."""
    fine = Table.of({"": {"ok": 0.5, "so": 0.5, "bad": 0.0}, "bad": {"ok": 0.5, "so": 0.5}}, name="rotten")
    after, otherwise = fine.rows
    assert after[0] == (2,)
    return Table(fine.tokens, ((after[0], (value, 0.5, 0.5)), otherwise), "rotten")


SOUND = Table.of({"": {"ok": 0.25, "so": 0.75, "bad": 0.0}}, name="sound")
SHAPES = {
    "leaf": lambda rotten: rotten,
    "product": lambda rotten: SOUND * rotten**0.5,
    "divided": lambda rotten: SOUND / rotten,
    "mixture": lambda rotten: mix((0.5, SOUND), (0.5, rotten)),
    "nested": lambda rotten: SOUND * mix((0.5, SOUND), (0.5, rotten)) ** 0.5,
    "cut": lambda rotten: within(rotten, 0.9),
    "judge": lambda rotten: plausible(SOUND, 0.1, of=rotten),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_broken_row_fails_alone_and_says_who_broke_it(shape, value, temperature):
    policy = SHAPES[shape](table_with(value))
    settings = Settings(Sampling(temperature=temperature, top_k=2), max_new_tokens=4, seed=1)
    pool = Pool(policy)
    pool.submit(Request((0,), n=2), settings)
    pool.submit(Request((0, 2), n=2), settings)  # ends in "bad"
    pool.submit(Request((2, 1)), settings)  # has it earlier, which does not matter
    rows = drain(pool)
    assert [row.finish for row in rows] == ["length", "length", "error", "error", "length"]
    for row in rows[2:4]:
        assert (row.tokens, row.log_probs, row.kl) == ([], [], [])
        assert isinstance(row.error, PolicyError) and "from rotten" in row.error.given
    for row in (rows[0], rows[1], rows[4]):
        assert row.error is None and all(map(math.isfinite, row.log_probs + row.kl)) and 2 not in row.tokens
    same([rows[4]], alone(policy, Request((2, 1)), settings))


def test_decode_finishes_the_others_and_then_raises():
    policy = SOUND * table_with(math.nan)
    with pytest.raises(PolicyError, match="rotten"):
        decode(policy, [Request((0,)), Request((2,)), Request((1,))], Settings(max_new_tokens=3))
    with pytest.raises(PolicyError, match="rotten"):
        policy.generate(["ok", "bad"], max_new_tokens=2)
    assert len(policy.generate(["ok", "so"], max_new_tokens=2)) == 2


def test_a_row_that_breaks_later_keeps_what_it_had():
    # a -> b -> c for sure, and after c it is broken
    steps = {"": {"a": 1.0, "b": 0, "c": 0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"a": math.nan, "b": 1.0}}
    pool = Pool(Table.of(steps, name="worn"))
    pool.submit(Request((0,)), Settings(max_new_tokens=9))
    pool.submit(Request((0,)), Settings(max_new_tokens=2))
    rows = drain(pool)
    assert [(row.tokens, row.finish) for row in rows] == [([1, 2], "error"), ([1, 2], "length")]
    assert rows[0].log_probs == [0.0, 0.0] and "worn" in rows[0].error.given


def test_a_row_that_breaks_right_after_another_was_cancelled_says_who_broke_it():
    steps = {"": {"a": 1.0, "b": 0, "c": 0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"a": math.nan, "b": 1.0}}
    pool = Pool(Table.of(steps, name="worn"))
    gone = pool.submit(Request((0,)), Settings(max_new_tokens=9))
    pool.submit(Request((1,)), Settings(max_new_tokens=9))
    assert pool.step() == []
    pool.cancel(gone)
    cancelled, broken = pool.step()
    assert (cancelled.tokens, broken.tokens, broken.finish) == ([1], [2], "error")
    assert "from worn" in broken.error.given


def test_a_row_whose_knob_leaves_the_broken_factor_out_does_not_break():
    policy = SOUND * table_with(math.nan) ** Knob("v", 1.0)
    pool, settings = Pool(policy), Settings(max_new_tokens=3, seed=1)
    for value in (0.0, 1.0, 0.0):
        pool.submit(Request((2,), knobs={"v": value}), settings)
    rows = drain(pool)
    assert [row.finish for row in rows] == ["length", "error", "length"]
    assert "from rotten" in rows[1].error.given  # found with the row's own knobs
    (expected,) = alone(SOUND, Request((2,)), settings)
    assert rows[0].tokens == rows[2].tokens == expected.tokens


def test_a_model_row_with_nan_fails_alone_whoever_comes_before_and_after():
    lm = tiny_lm(name="worn")
    with torch.no_grad():
        lm.trunk.model.get_input_embeddings().weight[11] = torch.nan
    settings = Settings(Sampling(top_k=4), min_new_tokens=6, max_new_tokens=6, seed=3)
    prompts = [(1, 2, 3), (4, 11, 5), (6,), (11,), (7, 8, 9, 10, 1, 2, 3), (2, 2)]
    healthy = {i: decode(tiny_lm(), [Request(p)], settings)[0] for i, p in enumerate(prompts) if 11 not in p}
    for rows in (2, 64):
        pool = Pool(lm, bounds=Bounds(rows=rows))
        for prompt in prompts:
            pool.submit(Request(prompt), settings)
        found = drain(pool)
        assert {row.place for row in found if row.finish == "error"} >= {1, 3}
        for row in found:
            if row.finish == "error":
                assert "worn" in row.error.given and (11 in row.request.prompt or row.tokens[-1] == 11)
        clean = {place: row for place, row in healthy.items() if 11 not in row.tokens}
        assert len(clean) >= 2  # else the seed says nothing
        same([found[place] for place in clean], list(clean.values()))


def test_a_row_without_any_possible_token_says_so():
    # the two never agree
    left, right = Table.of({"": {"a": 1.0, "b": 0.0}}, name="left"), Table.of({"": {"a": 0.0, "b": 1.0}}, name="right")
    (row,) = alone(left * right, Request((0,)), Settings(max_new_tokens=2))
    assert row.finish == "error" and "no possible token" in row.error.given


def test_a_broken_reference_is_not_passed_over_in_silence():
    """The policy divides its base out, so only the meter sees what is wrong with it."""
    policy = (table_with(math.nan) / table_with(math.nan)) * SOUND
    (row,) = alone(policy, Request((2,)), Settings(max_new_tokens=1, seed=0))
    assert row.finish == "error" or all(map(math.isnan, row.kl))


def test_an_exception_in_a_forward_takes_the_running_rows_and_leaves_the_waiting_ones():
    lm = tiny_lm()
    settings = Settings(max_new_tokens=5, min_new_tokens=5, seed=0)
    pool = Pool(lm, bounds=Bounds(rows=1))
    for prompt in ((1, 2), (3, 4)):
        pool.submit(Request(prompt), settings)
    pool.step()
    step, lm.trunk.step = lm.trunk.step, lambda state, tokens: (_ for _ in ()).throw(MemoryError("no room"))
    with pytest.raises(MemoryError):
        pool.step()
    lm.trunk.step = step
    rows = []
    while pool.busy:
        rows += pool.step()
    (alone,) = decode(tiny_lm(), [Request((3, 4))], settings)
    assert [row.tokens for row in rows] == [alone.tokens] and rows[0].place == 1


def test_rows_whose_prefill_fails_wait_for_another_try():
    lm = tiny_lm()
    pool = Pool(lm)
    pool.submit(Request((1, 2), n=2), Settings(max_new_tokens=3, min_new_tokens=3, seed=0))
    init, lm.trunk.init = lm.trunk.init, lambda leaves, prompts, knobs: (_ for _ in ()).throw(MemoryError("no room"))
    with pytest.raises(MemoryError):
        pool.step()
    lm.trunk.init = init
    rows = []
    while pool.busy:
        rows += pool.step()
    assert sorted(row.place for row in rows) == [0, 1]


def test_tickets_that_were_never_given_out_cancel_nothing():
    pool = Pool(tiny_lm())
    pool.cancel(0)
    pool.submit(Request((1,)), Settings(max_new_tokens=2, min_new_tokens=2))
    rows = []
    while pool.busy:
        rows += pool.step()
    assert [row.finish for row in rows] == ["length"]
