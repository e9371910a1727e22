"""The engines' thread: fair, and whatever breaks takes nothing else with it."""

import queue
import threading
import time

import pytest

from trimtab.decoding.request import Request, Settings
from trimtab.engines.base import Update
from trimtab.engines.local import LocalEngine
from trimtab.errors import BusyError, ConfigError, PromptError, RunError
from trimtab.policies.toy import Table
from trimtab.serving.runner import Runner

TABLE = Table.random(4, seed=0)
LONG = Settings(max_new_tokens=4000, seed=0)
SHORT = Settings(max_new_tokens=3, seed=0)


class Heard:
    """A sink that keeps everything."""

    def __init__(self):
        self.updates, self.ends = [], queue.Queue()

    def tell(self, updates):
        self.updates += updates
        for update in updates:
            if update.answer is not None:
                self.ends.put(update.answer)

    def fail(self, error):
        self.ends.put(error)

    def end(self):
        return self.ends.get(timeout=5)


class Fragile:
    """The local engine, which breaks on a wish."""

    def __init__(self, policy):
        self.inner, self.error, self.threads = LocalEngine(policy), None, set()
        self.abilities, self.vocabulary = self.inner.abilities, self.inner.vocabulary
        self.submit, self.cancel = self.inner.submit, self.inner.cancel

    @property
    def busy(self):
        return self.inner.busy

    def step(self) -> list[Update]:
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return self.inner.step()


@pytest.fixture
def made():
    return []


@pytest.fixture
def runner(made):
    def make(policy):
        made.append(Fragile(policy))
        return made[-1]

    runner = Runner(make, most=2, answers=8)
    runner.start()
    yield runner
    runner.close()


def submitted(runner, policy=TABLE, settings=SHORT, n=1, stream=False):
    heard = Heard()
    return heard, runner.submit(policy, Request((0,), n), settings, heard, stream=stream).result(5)


def settled(runner):
    """Wait for what was asked of the runner, and one step more."""
    runner.call(lambda: None).result(5)
    return runner.open


def test_answers_are_those_of_the_engine_alone(runner, made):
    heard, _ = submitted(runner, n=2)
    texts = sorted(heard.end().text for _ in range(2))
    assert texts == sorted(
        answer.text for answer in TABLE.generate(TABLE.vocabulary.decode([0]), n=2, max_new_tokens=3, seed=0)
    )
    assert settled(runner) == 0 and made[0].threads == {"trimtab-engines"}


def test_a_cancelled_request_ends_before_the_next_step(runner):
    heard, ticket = submitted(runner, settings=LONG, stream=True)
    while not heard.updates:
        time.sleep(0.001)
    runner.cancel(ticket)
    runner.call(lambda: None).result(5)
    told, steps = len(heard.updates), runner.steps
    assert runner.open == 0
    while made_busy(runner):
        time.sleep(0.001)
    assert runner.steps <= steps + 1 and len(heard.updates) == told
    runner.cancel(ticket)  # again: nothing
    assert settled(runner) == 0


def made_busy(runner):
    return runner.call(lambda: any(each.engine.busy for each in runner._engines.values())).result(5)


def test_a_broken_engine_takes_its_requests_and_no_others(runner, made):
    other = TABLE**0.5
    broken, _ = submitted(runner, settings=LONG)
    going, _ = submitted(runner, other, Settings(max_new_tokens=200, seed=0))
    made[0].error = ValueError("secret prompt")
    error = broken.end()
    assert isinstance(error, RunError) and "secret prompt" not in str(error)
    assert len(going.end().token_ids) == 200
    fresh, _ = submitted(runner)
    assert len(fresh.end().token_ids) == 3 and len(made) == 3
    assert settled(runner) == 0 and runner.alive


def test_a_known_error_is_told_as_it_is(runner, made):
    broken, _ = submitted(runner, settings=LONG, n=3)
    made[0].error = PromptError("a", "b", "c")
    assert broken.end() is made[0].error
    assert settled(runner) == 0


def test_what_an_engine_refuses_costs_nothing(runner):
    with pytest.raises(PromptError):
        runner.submit(TABLE, Request((99,)), SHORT, Heard(), stream=False).result(5)
    with pytest.raises(ConfigError):
        runner.submit(TABLE, Request((0,)), Settings(stop_ids=(99,)), Heard(), stream=False).result(5)
    assert settled(runner) == 0


def test_more_than_is_allowed_is_refused_and_later_taken(runner):
    tickets = [submitted(runner, settings=LONG, n=4)[1] for _ in range(2)]
    with pytest.raises(BusyError):
        submitted(runner)
    for ticket in tickets:
        runner.cancel(ticket)
    assert submitted(runner)[0].end().token_ids


def test_idle_engines_are_let_go_and_busy_ones_kept(runner, made):
    _, ticket = submitted(runner, TABLE**0.9, LONG)
    for power in range(1, 6):
        submitted(runner, TABLE ** (power / 10))[0].end()
        settled(runner)
    assert len(runner._engines) == 2 and TABLE**0.9 in runner._engines
    runner.cancel(ticket)


def test_policies_take_turns(runner):
    one, first = submitted(runner, settings=LONG)
    two, _ = submitted(runner, TABLE**0.5, Settings(max_new_tokens=50, seed=0))
    assert len(two.end().token_ids) == 50 and one.ends.empty()
    runner.cancel(first)


def test_jobs_that_take_long_are_done_between_steps_and_not_before_all(runner):
    heard, ticket = submitted(runner, settings=LONG, stream=True)
    steps = []

    def slow():
        steps.append(runner.steps)
        time.sleep(0.03)

    for job in [runner.call(slow) for _ in range(5)]:
        job.result(5)
    runner.cancel(ticket)
    assert len(set(steps)) == 5 and heard.updates


def test_an_engine_that_cannot_be_made_leaves_the_thread_alive():
    def make(key):
        raise ConfigError("a", "b", "c")

    runner = Runner(make, most=1, answers=8)
    runner.start()
    with pytest.raises(ConfigError):
        submitted(runner)
    assert runner.alive and settled(runner) == 0
    runner.close()


def test_an_engine_that_has_ended_is_told():
    def make(key):
        raise RunError("a", "b", "c")

    runner = Runner(make, most=1, answers=8)
    runner.start()
    with pytest.raises(RunError):
        submitted(runner)
    assert not runner.alive
    runner.close()


def test_closing_ends_what_runs_and_refuses_what_comes(made):
    runner = Runner(lambda policy: Fragile(policy), most=2, answers=8)
    runner.start()
    heard, _ = submitted(runner, settings=LONG)
    runner.close()
    assert isinstance(heard.end(), BusyError) and runner.open == 0 and not runner.alive
    with pytest.raises(BusyError):
        runner.call(lambda: None).result(5)  # nobody waits for ever


def test_a_job_that_raises_tells_whoever_waits(runner):
    with pytest.raises(ZeroDivisionError):
        runner.call(lambda: 1 // 0).result(5)
    assert settled(runner) == 0
