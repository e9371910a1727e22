"""The local engine: the answers of ``Policy.generate``, told as they come; refusals, cancelled and broken answers."""

import math

import pytest

from trimtab.decoding.request import Bounds, Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.engines import LocalEngine, generate
from trimtab.errors import BusyError, ConfigError, KnobError, PolicyError, PromptError
from trimtab.policies.knob import Knob
from trimtab.policies.toy import Table

CHAIN = Table.of({"": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"<end>": 1.0}}, end="<end>")
COIN = Table.of({"": {"heads": 0.75, "tails": 0.25}}, name="coin")
BIASED = Table.of({"": {"heads": 0.25, "tails": 0.75}}, name="biased")
BROKEN = Table.of({"": {"x": 1.0, "y": 0.0}, "y": {"x": math.nan, "y": 0.5}}, name="broken")


def run(engine):
    updates = []
    while engine.busy:
        updates += engine.step()
    return updates


def test_answers_are_those_of_the_policy():
    policy = COIN * BIASED ** Knob("w", 1.0)
    prompts, knobs = ["heads", "tails tails", "heads"], [{"w": 0.5}, {}, {"w": -1.0}]
    settings = Settings(Sampling(temperature=0.7), max_new_tokens=6, stop=("tails tails",), seed=3)
    answers = generate(LocalEngine(policy, bounds=Bounds(rows=2)), prompts, settings, n=3, knobs=knobs)
    assert answers == policy.generate(
        prompts, n=3, knobs=knobs, temperature=0.7, max_new_tokens=6, stop="tails tails", seed=3
    )
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}


def test_requests_may_differ_in_settings_and_come_while_others_run():
    engine = LocalEngine(COIN)
    first = engine.submit(Request((0,), n=2), Settings(max_new_tokens=4, seed=1))
    assert engine.step() == []
    second = engine.submit(Request((1,)), Settings(max_new_tokens=1, seed=2))
    told = [(update.ticket, update.number, len(update.answer.token_ids)) for update in run(engine)]
    assert told == [(second, 0, 1), (first, 0, 4), (first, 1, 4)]


def test_a_stream_shows_an_answer_grow_but_never_a_stop_text():
    engine = LocalEngine(CHAIN)
    engine.submit(Request((0,)), Settings(stop=("c d",)), stream=True)
    # "c" could begin the stop text, so it is shown when the answer ends without it
    assert [(update.text, update.answer is None) for update in run(engine)] == [
        ("b", True),
        ("b ", True),
        ("b c", False),
    ]
    engine.submit(Request((0,)), Settings(stop=("b c",)), stream=True)
    assert [update.text for update in run(engine)] == ["", ""]


def test_only_streams_are_told_before_they_are_finished():
    engine = LocalEngine(COIN)
    engine.submit(Request((0,)), Settings(max_new_tokens=3))
    streamed = engine.submit(Request((0,), n=2), Settings(max_new_tokens=3), stream=True)
    updates = run(engine)
    early = [update for update in updates if update.answer is None]
    assert {update.ticket for update in early} == {streamed} and len(early) == 2 * 2 and len(updates) == 4 + 3


def test_cancelled_answers_are_told_with_what_they_have():
    engine = LocalEngine(COIN, bounds=Bounds(rows=1))
    ticket = engine.submit(Request((0,), n=2), Settings(max_new_tokens=9, stop_ids=(1,), min_new_tokens=9), stream=True)
    engine.step()
    engine.cancel(ticket)
    engine.cancel(ticket + 7)
    told = {update.number: update.answer for update in engine.step()}
    assert [told[number].finish_reason for number in range(2)] == ["cancelled"] * 2
    assert [len(told[number].token_ids) for number in range(2)] == [1, 0] and told[1].text == ""
    assert not engine.busy and engine.step() == []


def test_a_broken_answer_is_told_and_harms_no_other():
    engine = LocalEngine(BROKEN)
    broken = engine.submit(Request((1,)), Settings(max_new_tokens=2))
    sound = engine.submit(Request((0,)), Settings(max_new_tokens=2))
    told = {update.ticket: update for update in run(engine)}
    assert isinstance(told[broken].error, PolicyError) and told[broken].answer.finish_reason == "error"
    assert told[sound].error is None and told[sound].answer.text == "x x"
    with pytest.raises(PolicyError, match="broken"):
        generate(engine, ["x", "y"], Settings(max_new_tokens=2))


@pytest.mark.parametrize(
    ("request_", "settings", "error"),
    [
        (Request(()), Settings(), PromptError),
        (Request((7,)), Settings(), PromptError),
        (Request((0,), knobs={"w": 1.0}), Settings(), KnobError),
        (Request((0,)), Settings(stop_ids=(9,)), ConfigError),
        (Request((0,), n=9), Settings(), BusyError),
    ],
)
def test_what_is_refused_harms_nobody(request_, settings, error):
    engine = LocalEngine(COIN, bounds=Bounds(rows=1, waiting=3))
    ticket = engine.submit(Request((0,), n=2), Settings(max_new_tokens=2, seed=1))
    with pytest.raises(error):
        engine.submit(request_, settings)
    (tails,) = [engine.submit(Request((1,)), Settings(max_new_tokens=1, seed=1))]
    told = {(update.ticket, update.number): len(update.answer.token_ids) for update in run(engine)}
    assert told == {(ticket, 0): 2, (ticket, 1): 2, (tails, 0): 1}


def test_a_refused_prompt_leaves_nothing_behind():
    engine = LocalEngine(COIN, bounds=Bounds(tokens=4))
    with pytest.raises(BusyError):
        generate(engine, ["heads", "heads tails tails"], Settings(max_new_tokens=2))
    (answer,) = generate(engine, ["tails"], Settings(max_new_tokens=2, seed=4))
    assert answer == COIN.generate("tails", max_new_tokens=2, seed=4)[0]
    assert not engine.busy


def test_what_it_is():
    engine = LocalEngine(COIN)
    assert engine.vocabulary is COIN.vocabulary and engine.abilities.name == "local" and not engine.busy
