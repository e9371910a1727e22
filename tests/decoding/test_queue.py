"""What a pool takes on and in which order: bounds, refusals, prompts that are prefilled once, rows that wait."""

import contextlib

import pytest

from trimtab.decoding.pool import Pool, decode
from trimtab.decoding.queue import check_lengths
from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.errors import BusyError, ConfigError, KnobError, PolicyError, PromptError
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.testing import tiny_lm

ENDLESS = Table.random(5, seed=0)


def settings(count=4, **more):
    return Settings(min_new_tokens=count, max_new_tokens=count, **more)


def drain(pool):
    rows = []
    while pool.busy:
        rows += pool.step()
    return sorted(rows, key=lambda row: row.place)


class Watched:
    """A tiny model that tells how many rows its prefills and steps had."""

    def __init__(self):
        self.lm = tiny_lm()
        self.prefills, self.steps = [], []
        init, step = self.lm.trunk.init, self.lm.trunk.step

        def watching_init(leaves, prompts, knobs):
            self.prefills.append([tuple(prompt) for prompt in prompts])
            return init(leaves, prompts, knobs)

        def watching_step(state, tokens):
            self.steps.append(len(tokens))
            return step(state, tokens)

        self.lm.trunk.init, self.lm.trunk.step = watching_init, watching_step


def test_rows_have_places_in_the_order_they_were_asked_for():
    pool = Pool(ENDLESS)
    tickets = [pool.submit(Request((i,), n=i + 1), settings(5 - i)) for i in range(3)]
    rows = drain(pool)
    assert len(set(tickets)) == 3
    assert [(row.place, row.request.prompt) for row in rows] == list(enumerate([(0,), (1,), (1,), (2,), (2,), (2,)]))


def test_places_go_to_those_who_wait_longest_and_are_used_again():
    watched = Watched()
    pool = Pool(watched.lm, bounds=Bounds(rows=2))
    for i in range(5):
        pool.submit(Request((i + 1,)), settings(2 + i % 2))
    done = []
    while pool.busy:
        done += [row.place for row in pool.step()]
    # 2 3 2 3 2 tokens: 0 runs in steps 1-2, 1 in 1-3, 2 in 3-4, 3 in 4-6, 4 in 5-6
    assert done == [0, 1, 2, 3, 4]
    assert watched.prefills == [[(1,), (2,)], [(3,)], [(4,)], [(5,)]]
    assert max(watched.steps) == 2


def test_a_pool_never_runs_more_rows_than_its_bound():
    watched = Watched()
    pool = Pool(watched.lm, bounds=Bounds(rows=3))
    for i in range(4):
        pool.submit(Request((i + 1,), n=4), settings(3 + i))
    assert len(drain(pool)) == 16 and max(watched.steps) == 3


def test_rows_admitted_while_others_run_do_not_wait_for_them():
    pool = Pool(ENDLESS)
    pool.submit(Request((0,)), settings(9))
    assert pool.step() == [] and pool.step() == []
    pool.submit(Request((1,)), settings(2))
    assert pool.step() == []
    assert [row.place for row in pool.step()] == [1]
    assert [row.place for row in drain(pool)] == [0]


def test_answers_of_one_prompt_share_a_prefill_wherever_they_get_their_places():
    watched = Watched()
    pool = Pool(watched.lm, bounds=Bounds(rows=4))
    pool.submit(Request((1, 2, 3), n=7), settings(3))
    pool.submit(Request((4, 5), n=6), settings(2))
    pool.submit(Request((1, 2, 3)), settings(3))  # another request, though of the same prompt
    rows = drain(pool)
    assert [prompt for prefill in watched.prefills for prompt in prefill] == [(1, 2, 3), (4, 5), (1, 2, 3)]
    expected = decode(tiny_lm(), [Request((1, 2, 3), n=7)], settings(3))
    assert [row.tokens for row in rows[:7]] == [row.tokens for row in expected]
    assert rows[13].tokens == expected[0].tokens


def test_the_bound_on_tokens_counts_what_rows_may_become():
    watched = Watched()
    pool = Pool(watched.lm, bounds=Bounds(rows=8, tokens=20))
    for i in range(4):
        pool.submit(Request((1, 2, i + 1)), settings(5))  # 8 tokens each: two at a time
    pool.submit(Request((1,) * 10), settings(10))  # 20: all of it, alone
    assert len(drain(pool)) == 5
    assert watched.steps == [2] * 4 + [2] * 4 + [1] * 9  # the last token of a row is not fed


def test_a_short_request_does_not_overtake_a_long_one():
    pool = Pool(ENDLESS, bounds=Bounds(rows=8, tokens=12))
    for count in (6, 11, 2):  # 7, 12 and 3 tokens
        pool.submit(Request((0,)), settings(count))
    done = []
    while pool.busy:
        done += [row.place for row in pool.step()]
    assert done == [0, 1, 2]


@pytest.mark.parametrize(
    ("bounds", "request_", "count", "message"),
    [
        (Bounds(tokens=8), Request((0, 0, 0)), 6, "at most 8 tokens"),
        (Bounds(rows=1, waiting=3), Request((0,), n=2), 1, "at most 3 waiting rows"),
        (Bounds(rows=1, waiting=3), Request((0,), n=9), 1, "at most 3 waiting rows"),
    ],
)
def test_what_is_too_much_is_refused_and_what_runs_is_not_harmed(bounds, request_, count, message):
    pool = Pool(ENDLESS, bounds=bounds)
    pool.submit(Request((1,)), settings(4))
    pool.step()
    pool.submit(Request((2,), n=2), settings(3))
    with pytest.raises(BusyError, match=message) as error:
        pool.submit(request_, settings(count))
    assert error.value.hint
    rows = drain(pool)
    assert [row.place for row in rows] == [0, 1, 2] and {row.finish for row in rows} == {"length"}
    alone = [*decode(ENDLESS, [Request((1,))], settings(4)), *decode(ENDLESS, [Request((2,), n=2)], settings(3))]
    assert [row.tokens for row in rows] == [row.tokens for row in alone]
    pool.submit(Request((3,), n=2), settings(4))  # and later there is room again
    assert [row.place for row in drain(pool)] == [3, 4]


def test_exactly_the_bounds_is_not_too_much():
    pool = Pool(ENDLESS, bounds=Bounds(rows=1, tokens=8, waiting=3))
    pool.submit(Request((0, 0, 0), n=3), settings(5))
    pool.step()
    pool.submit(Request((0,)), settings(7))  # two wait, one more may
    with pytest.raises(BusyError):
        pool.submit(Request((0,)), settings(1))
    assert len(drain(pool)) == 4


@pytest.mark.parametrize("bad", [{"rows": 0}, {"tokens": 0}, {"waiting": 0}, {"rows": -1}])
def test_bounds_of_nothing_are_refused(bad):
    with pytest.raises(ConfigError):
        Bounds(**bad)


def test_a_context_can_be_filled_exactly_and_not_by_one_more():
    lm = tiny_lm()
    pool = Pool(lm)
    pool.submit(Request((1,) * 60), settings(4))
    pool.submit(Request((2,) * 63), settings(1))
    for length, count in ((60, 5), (63, 2), (64, 1), (65, 1)):
        with pytest.raises(PromptError, match="at most 64 tokens together"):
            pool.submit(Request((1,) * length), settings(count))
    assert [len(row.tokens) for row in drain(pool)] == [4, 1]
    check_lengths([lm], [(1,) * 60, (1,)], 4)
    with pytest.raises(PromptError, match="61 tokens with 4"):
        check_lengths([lm], [(1,), (1,) * 61], 4)


def test_one_long_request_does_not_shorten_the_others():
    pool = Pool(tiny_lm())
    pool.submit(Request((1,) * 50), settings(14))
    pool.submit(Request((2,)), settings(63))
    assert [len(row.tokens) for row in drain(pool)] == [14, 63]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request((0,), knobs={"other": 1.0}), KnobError),
        (Request((0,), knobs={"w": 3.0}), KnobError),
        (Request((0,), knobs={"w": float("nan")}), KnobError),
        (Request(()), PromptError),
    ],
)
def test_a_bad_request_is_refused_when_it_is_submitted(request_, error):
    pool = Pool(ENDLESS * Table.random(5, seed=1) ** Knob("w", 1.0, min=0, max=2))
    pool.submit(Request((1,)), settings(2))
    with pytest.raises(error):
        pool.submit(request_, settings(2))
    assert [row.finish for row in drain(pool)] == ["length"]


@pytest.mark.parametrize("stop_id", [5, 99, -2])
def test_a_stop_id_that_no_token_has_is_refused_or_harmless(stop_id):
    pool = Pool(ENDLESS)
    pool.submit(Request((1,)), settings(3))
    with contextlib.suppress(ConfigError):
        pool.submit(Request((2,)), settings(3, stop_ids=(stop_id,)))
    assert {row.finish for row in drain(pool)} == {"length"}


def test_knobs_that_leave_no_factor_break_their_own_row_only():
    pool = Pool(ENDLESS ** Knob("w", 1.0, min=0, max=2))
    pool.submit(Request((1,)), settings(3))
    try:
        pool.submit(Request((1,), knobs={"w": 0.0}), settings(3))
    except (KnobError, PolicyError):
        assert [row.finish for row in drain(pool)] == ["length"]
        return
    good, bad = drain(pool)
    assert (good.finish, bad.finish) == ("length", "error") and isinstance(bad.error, PolicyError)


def test_rows_cancelled_while_they_wait_come_back_with_nothing():
    watched = Watched()
    pool = Pool(watched.lm, bounds=Bounds(rows=2))
    first = pool.submit(Request((1,), n=2), settings(3))
    second = pool.submit(Request((2,), n=3), settings(3))
    third = pool.submit(Request((3,)), settings(3))
    pool.step()
    pool.cancel(second)
    gone = pool.step()
    assert [(row.place, row.tokens, row.log_probs, row.kl, row.finish) for row in gone] == [
        (place, [], [], [], "cancelled") for place in (2, 3, 4)
    ]
    rows = drain(pool)
    assert [(row.place, row.finish) for row in rows] == [(0, "length"), (1, "length"), (5, "length")]
    assert [prompt for prefill in watched.prefills for prompt in prefill] == [(1,), (3,)]
    for ticket in (first, second, third, 99):  # afterwards it changes nothing
        pool.cancel(ticket)
    assert pool.step() == [] and not pool.busy


def test_cancelling_everything_before_the_first_step_leaves_an_idle_pool():
    pool = Pool(ENDLESS)
    pool.cancel(pool.submit(Request((1,), n=2), settings(3)))
    assert pool.busy
    assert [row.finish for row in pool.step()] == ["cancelled"] * 2
    assert not pool.busy and pool.step() == []
    pool.submit(Request((1,)), settings(3))
    assert [row.finish for row in drain(pool)] == ["length"]


def test_a_request_half_of_whose_answers_run_is_cancelled_whole():
    pool = Pool(tiny_lm(), bounds=Bounds(rows=3))
    ticket = pool.submit(Request((1, 2), n=5), settings(4))
    pool.submit(Request((3,), n=2), settings(4))
    pool.step()
    pool.cancel(ticket)
    gone = pool.step()
    assert sorted((row.place, len(row.tokens)) for row in gone) == [(0, 1), (1, 1), (2, 1), (3, 0), (4, 0)]
    expected = decode(tiny_lm(), [Request((3,), n=2)], settings(4))
    assert [row.tokens for row in drain(pool)] == [row.tokens for row in expected]
