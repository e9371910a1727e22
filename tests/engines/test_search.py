"""Search on engines: on the local one it is the search of the pool, and what an engine cannot do is refused."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from trimtab.decoding import (
    Answer,
    Bounds,
    Sampling,
    SearchPlan,
    Settings,
    Shape,
    Texts,
    Uncertain,
    args,
    best_of_n,
    chunk_beam,
    deal,
    rejection,
    smc,
)
from trimtab.decoding import search as local_search
from trimtab.engines import LOCAL, REMOTE_TEXT, LocalEngine, Update, search
from trimtab.errors import ConfigError, EndpointError, PolicyError, PromptError, RewardError
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table
from trimtab.policies.view import View
from trimtab.testing import tiny_lm
from trimtab.values import LogRatio, RewardValue

TABLE = Table.random(6, seed=0, end="t5", name="table")
GUIDE, UNTUNED = (Table.random(6, seed=seed, end="t5", name=f"s{seed}") for seed in (1, 2))
CHAIN = Table.of({"": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"<end>": 1.0}}, end="<end>")
PROMPTS = ["t0 t1", "t2", "t2"]


def count(word):
    return RewardValue(lambda completions, **_: [float(text.split().count(word)) for text in completions])


FLAT = RewardValue(lambda completions, **_: [0.0] * len(completions))


class Dull:
    """The local engine with other abilities, which answers as it is told to first."""

    def __init__(self, policy, abilities=LOCAL, edit=lambda update: update):
        self.inner, self.abilities, self.edit, self.asked = LocalEngine(policy), abilities, edit, []
        self.vocabulary, self.cancel = self.inner.vocabulary, self.inner.cancel

    def submit(self, request, settings, *, stream=False):
        self.asked.append((request, settings))
        return self.inner.submit(request, settings)

    def step(self):
        return [self.edit(update) for update in self.inner.step()]


@pytest.mark.parametrize("value", [count("t3"), LogRatio(GUIDE, UNTUNED)], ids=["reward", "log-ratio"])
def test_best_of_n_is_the_local_one(value):
    settings = Settings(Sampling(0.8, top_p=0.9), max_new_tokens=6, stop=("t1 t1",), seed=3)
    policy = TABLE * GUIDE ** Knob("w", 1.0)
    found = search(LocalEngine(policy), PROMPTS, SearchPlan(value, best_of_n(5)), settings, knobs={"w": 0.5})
    expected = local_search(
        *(policy, PROMPTS, value, best_of_n(5)),
        **{"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 6, "stop": "t1 t1", "seed": 3, "knobs": {"w": 0.5}},
    )
    assert [[answer for answer, _ in each.hypotheses] for each in found] == [
        [answer for answer, _ in each.hypotheses] for each in expected
    ]
    for one, other in zip(found, expected, strict=True):  # a log-ratio is heard there and read here
        assert [n.score for n in one.trace.nodes] == pytest.approx([n.score for n in other.trace.nodes], abs=1e-5)
    assert found == expected or isinstance(value, LogRatio)
    assert found[1] != found[2]  # a prompt that comes twice is searched twice


def test_best_of_n_is_the_best_of_n_answers():
    answers = TABLE.generate("t0", n=8, max_new_tokens=6, seed=1)
    scores = [answer.text.split().count("t3") for answer in answers]
    plan = SearchPlan(count("t3"), best_of_n(8))
    (found,) = search(LocalEngine(TABLE, bounds=Bounds(rows=3)), "t0", plan, Settings(max_new_tokens=6, seed=1))
    assert [score for _, score in found.hypotheses] == sorted(scores, reverse=True)
    assert found.best == answers[scores.index(max(scores))]
    assert sorted(map(repr, answers)) == sorted(repr(answer) for answer, _ in found.hypotheses)


@pytest.mark.parametrize(
    ("policy", "prompt", "shape", "settings"),
    [
        (TABLE, "t0 t1", chunk_beam(2, 3, 2), {"max_new_tokens": 7}),
        (TABLE, "t0 t1", chunk_beam(1, 1, 1), {"max_new_tokens": 5, "min_new_tokens": 3}),
        (TABLE, "t2", chunk_beam(2, 2, Texts(("t1", "t3"), 3)), {"max_new_tokens": 8}),
        (TABLE, "t2", deal(2, 2, 2, 0.5), {"max_new_tokens": 6}),
        (CHAIN, "a", chunk_beam(1, 2, 1), {"stop": ("b c",), "max_new_tokens": 5}),  # it straddles two chunks
        (CHAIN, "a", chunk_beam(1, 2, Texts(("b", "c"))), {"max_new_tokens": 5}),
        (CHAIN, "a", chunk_beam(1, 2, Texts(("b c",))), {"stop": ("c",), "max_new_tokens": 5}),
        (CHAIN, "a", chunk_beam(1, 2, Texts(("c",))), {"max_new_tokens": 2}),
    ],
)
@pytest.mark.parametrize("stops", [True, False], ids=["stops", "cut here"])
def test_where_nothing_is_drawn_it_is_the_local_search(policy, prompt, shape, settings, stops):
    value = FLAT if policy == CHAIN else LogRatio(GUIDE, UNTUNED)
    made = Settings(Sampling(0.0), **({"seed": 0} | settings))
    engine = Dull(policy, replace(LOCAL, stops=stops))
    (found,) = search(engine, prompt, SearchPlan(value, shape), made)
    stop = settings.get("stop", ())
    (expected,) = local_search(
        policy,
        prompt,
        value,
        shape,
        temperature=0.0,
        seed=0,
        **{k: v for k, v in settings.items() if k != "stop"},
        stop=stop,
    )
    assert found.best == expected.best
    assert [score for _, score in found.hypotheses] == pytest.approx([score for _, score in expected.hypotheses])
    assert [(n.text, n.depth, n.parent, n.tokens, n.kept, n.finish) for n in found.trace.nodes] == [
        (n.text, n.depth, n.parent, n.tokens, n.kept, n.finish) for n in expected.trace.nodes
    ]


def test_on_a_transformer_scores_are_those_of_whole_answers():
    base, tuned, untuned = (tiny_lm(seed=seed, name=f"lm{seed}") for seed in range(3))
    plan = SearchPlan(LogRatio(tuned, untuned), chunk_beam(2, 2, 2))
    (found,) = search(LocalEngine(base), "t1 t2", plan, Settings(max_new_tokens=5, seed=0))
    for answer, score in found.hypotheses:
        if answer.finish_reason == "length":
            ratio = tuned.log_probs("t1 t2", " " + answer.text) - untuned.log_probs("t1 t2", " " + answer.text)
            assert score == pytest.approx(float(ratio.sum()), abs=1e-4)
    assert len(found.best.kl) == len(found.best.token_ids)


def test_chunks_go_on_behind_what_a_view_puts_behind_the_prompt():
    lm = tiny_lm(seed=0, name="lm")
    seen = replace(lm, view=View(prefix=(3, 1), suffix=(4, 5, 2)))
    greedy = Settings(Sampling(temperature=0), max_new_tokens=6, seed=0)
    (found,) = search(LocalEngine(seen), "t1 t2", SearchPlan(FLAT, chunk_beam(1, 1, 2)), greedy)
    (whole,) = seen.generate("t1 t2", max_new_tokens=6, temperature=0)
    assert found.best.token_ids == whole.token_ids
    assert found.best.log_probs == pytest.approx(whole.log_probs, abs=1e-4)
    (plain,) = lm.generate("t1 t2", max_new_tokens=6, temperature=0)
    assert plain.token_ids != whole.token_ids  # the view matters


def test_chunks_have_the_distribution_of_the_search():
    # Best of two tokens by the number of a: P(a) = 1 - 0.5^2 = 0.75; without an a the first of the two stays, so
    # b : c = 0.3 : 0.2 of the other 0.25. Tokens are independent.
    table = Table.of({"": {"a": 0.5, "b": 0.3, "c": 0.2}})
    exact = {"a": 0.75, "b": 0.15, "c": 0.10}
    searches = 400
    plan = SearchPlan(count("a"), chunk_beam(1, 2, 1))
    found = search(LocalEngine(table), ["a"] * searches, plan, Settings(max_new_tokens=2, seed=0))
    seen = Counter(each.best.text for each in found)
    expected = {f"{x} {y}": searches * exact[x] * exact[y] for x in exact for y in exact}
    chi_square = sum((seen[text] - number) ** 2 / number for text, number in expected.items())
    assert sum(seen.values()) == searches and chi_square < 26.1  # 99.9 % of 8 degrees of freedom


def test_particles_that_are_kept_twice_go_apart():
    table = Table.random(30, seed=0, contexts=False)
    (found,) = search(LocalEngine(table), "t0", SearchPlan(FLAT, smc(8, 1)), Settings(max_new_tokens=3, seed=0))
    assert [sum(n.kept for n in found.trace.nodes if n.depth == depth) for depth in range(3)] == [8, 8, 8]
    one = RewardValue(lambda completions, **_: [50.0 * text.startswith(found.best.text[:3]) for text in completions])
    (found,) = search(LocalEngine(table), "t0", SearchPlan(one, smc(8, 1)), Settings(max_new_tokens=3, seed=0))
    assert max(n.kept for n in found.trace.nodes if n.depth == 0) == 8  # one particle takes every place
    assert len({n.text for n in found.trace.nodes if n.depth == 1}) > 2


def test_a_seed_repeats_a_search_whatever_else_is_searched():
    plan, settings = SearchPlan(count("t3"), chunk_beam(2, 2, 1)), Settings(max_new_tokens=6, seed=5)
    alone = search(LocalEngine(TABLE), "t2", plan, settings)[0]
    beside = search(LocalEngine(TABLE), PROMPTS, plan, settings, max_rows=4)
    together = search(LocalEngine(TABLE), PROMPTS, plan, settings)
    assert alone == beside[1] == together[1] and beside == together
    assert alone != beside[2]


def test_rejection_answers_with_what_was_accepted():
    (found,) = search(
        LocalEngine(TABLE), "t0", SearchPlan(count("t3"), rejection(2.0, 4, 2, 0.0)), Settings(max_new_tokens=6, seed=2)
    )
    assert len(found.hypotheses) == 1
    assert [n.kept for n in found.trace.nodes if n.depth == 0].count(1) == 1


@pytest.mark.parametrize(
    ("shape", "abilities", "message"),
    [
        (args(4), LOCAL, "chosen among the likeliest"),
        (Shape(1, 2, Uncertain(2.0)), LOCAL, "by the entropy"),
        (deal(2, 2), REMOTE_TEXT, "the log-probability of an answer"),
    ],
)
def test_what_an_engine_of_chunks_cannot_do_is_refused(shape, abilities, message):
    engine = Dull(TABLE, abilities)
    with pytest.raises(ConfigError, match=message):
        search(engine, "t0", SearchPlan(FLAT, shape), Settings())
    assert engine.asked == []


def test_prompts_have_to_fit_the_value():
    value = LogRatio(tiny_lm(seed=0), tiny_lm(seed=1, name="other"))  # a context of 64
    engine = LocalEngine(Table.random(13, seed=0, end="t12"))
    with pytest.raises(PromptError, match="60 new tokens"):
        search(engine, "t0 t1 t2 t3 t4", SearchPlan(value, best_of_n(2)), Settings(max_new_tokens=60))


def test_answers_that_break_are_left_out_and_all_of_them_are_an_error():
    failed = EndpointError("a", "b", "c")

    def broken(update):
        answer = update.answer
        if answer is None:
            return update
        gone = Answer(answer.prompt, "", (), (), (), (), "error")
        return Update(update.ticket, update.number, "", gone, failed)

    def half(update):
        return broken(update) if update.number % 2 else update

    plan, settings = SearchPlan(count("t3"), chunk_beam(2, 2, 2)), Settings(max_new_tokens=4, seed=0)
    (found,) = search(Dull(TABLE, edit=half), "t0", plan, settings)
    assert all(answer.finish_reason != "error" for answer, _ in found.hypotheses)
    assert {n.finish for n in found.trace.nodes if n.tokens == 0} == {"error"}
    with pytest.raises(EndpointError):
        search(Dull(TABLE, edit=broken), "t0", plan, settings)


def test_chunks_without_tokens_end_in_an_error_and_not_never():
    def empty(update):
        return Update(update.ticket, update.number, "", replace(update.answer, token_ids=(), finish_reason="length"))

    engine = Dull(TABLE, edit=empty)
    with pytest.raises(PolicyError, match="a chunk without tokens"):
        search(engine, "t0", SearchPlan(FLAT, chunk_beam(2, 2, 2)), Settings(max_new_tokens=4))
    assert len(engine.asked) == 1


def test_log_probs_that_are_not_told_cannot_be_scored():
    def silent(update):
        return replace(update, answer=replace(update.answer, log_probs=(), reference_log_probs=(), kl=()))

    plan = SearchPlan(FLAT, deal(1, 2, 2))
    with pytest.raises(RewardError, match="could score nothing"):
        search(Dull(TABLE, edit=silent), "t0", plan, Settings(max_new_tokens=4))
    (found,) = search(Dull(TABLE, edit=silent), "t0", SearchPlan(FLAT, chunk_beam(1, 2)), Settings(max_new_tokens=4))
    assert found.best.kl == () and math.isfinite(found.hypotheses[0][1])
