"""The engines' thread: fair, and whatever breaks takes nothing else with it."""

import logging
import queue
import threading
import time
from types import SimpleNamespace

import pytest

from trimtab.decoding.request import Request, Settings
from trimtab.engines.base import Update
from trimtab.engines.local import LocalEngine
from trimtab.engines.vllm import engine as vllm_engine
from trimtab.errors import BusyError, ConfigError, PromptError, RunError
from trimtab.policies.toy import Table
from trimtab.serving import serve
from trimtab.serving.limits import Limits
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


@pytest.mark.parametrize("anew", [True, False])
def test_an_engine_that_has_ended_is_told(anew):
    def make(key):
        raise RunError("a", "b", "c")

    runner = Runner(make, most=1, answers=8, anew=anew)
    runner.start()
    with pytest.raises(RunError):
        submitted(runner)
    assert runner.alive == anew  # the policy of one client is no end of the server
    runner.close()


@pytest.mark.parametrize("error", [ValueError("secret prompt"), RunError("a", "b", "c")])
def test_an_engine_that_cannot_be_made_anew_is_the_end_when_it_breaks(made, error):
    runner = Runner(lambda policy: made.append(Fragile(policy)) or made[-1], most=1, answers=8, anew=False)
    runner.start()
    heard, _ = submitted(runner, settings=LONG)
    assert runner.alive
    made[0].error = error
    told = heard.end()  # nobody has asked for anything since
    assert not runner.alive and runner.broken is told
    runner.close()


def test_requests_come_and_go_before_jobs_that_take_long(runner):
    _, ticket = submitted(runner, settings=LONG)
    order, begun = [], threading.Event()

    def slow(name):
        begun.set()
        time.sleep(0.05)
        order.append((name, runner.open))

    jobs = [runner.call(lambda name=name: slow(name)) for name in range(4)]
    begun.wait(5)
    asked = runner.submit(TABLE, Request((0,), 2), LONG, Heard(), stream=False)
    asked.add_done_callback(lambda _: order.append(("submitted", runner.open)))
    runner.cancel(ticket)
    for job in jobs:
        job.result(5)
    assert order == [(0, 1), ("submitted", 3), (1, 2), (2, 2), (3, 2)]
    runner.cancel(asked.result())


def test_an_idle_thread_takes_requests_between_two_jobs(runner):
    order, begun = [], threading.Event()

    def slow(name):
        begun.set()
        time.sleep(0.05)
        order.append(name)

    jobs = [runner.call(lambda name=name: slow(name)) for name in range(3)]
    begun.wait(5)
    heard = Heard()
    ticket = runner.submit(TABLE, Request((0,)), SHORT, heard, stream=False)
    ticket.add_done_callback(lambda _: order.append("submitted"))
    for job in jobs:
        job.result(5)
    assert order == [0, "submitted", 1, 2] and heard.end().token_ids


def test_closing_fails_jobs_that_wait():
    runner = Runner(Fragile, most=2, answers=8)
    runner.start()
    begun = threading.Event()
    first = runner.call(lambda: begun.set() or time.sleep(0.1))
    waiting = [runner.call(lambda: None) for _ in range(3)]
    begun.wait(5)
    runner.close()
    assert first.result(5) is None
    for job in waiting:
        assert isinstance(job.exception(5), BusyError)


def test_an_engine_that_cannot_let_go_breaks_and_nothing_else(runner, made, caplog):
    heard, ticket = submitted(runner, settings=LONG)
    beside, _ = submitted(runner, settings=LONG)
    other, _ = submitted(runner, TABLE**0.5, Settings(max_new_tokens=50, seed=0))
    made[0].cancel = lambda number: 1 // 0
    runner.cancel(ticket)
    assert "ZeroDivisionError" in str(beside.end()) and heard.ends.empty()
    assert len(other.end().token_ids) == 50 and len(submitted(runner)[0].end().token_ids) == 3
    assert settled(runner) == 0 and runner.alive and len(made) == 3
    assert "an engine broke" in caplog.text


class Deaf(Heard):
    """A sink that nobody listens at."""

    def tell(self, updates):
        raise RuntimeError("the loop is closed")


def test_a_sink_that_cannot_be_told_costs_its_request_and_no_other(runner, made, caplog):
    deaf = Deaf()
    beside, _ = submitted(runner, settings=Settings(max_new_tokens=50, seed=0))
    runner.submit(TABLE, Request((0,), 2), LONG, deaf, stream=True).result(5)
    assert isinstance(deaf.end(), RunError) and len(beside.end().token_ids) == 50
    while made_busy(runner):
        time.sleep(0.001)
    assert settled(runner) == 0 and runner.alive and len(made) == 1
    assert "could not be told" in caplog.text


def test_a_sink_that_cannot_be_failed_keeps_the_news_from_no_other(runner, made, caplog):
    deaf = Deaf()
    deaf.fail = deaf.tell
    runner.submit(TABLE, Request((0,)), LONG, deaf, stream=False).result(5)
    beside, _ = submitted(runner, settings=LONG)
    made[0].error = ValueError()
    assert isinstance(beside.end(), RunError)
    assert settled(runner) == 0 and runner.alive and "could not be told" in caplog.text


def test_a_thread_that_ends_leaves_nobody_waiting(made, caplog):
    runner = Runner(lambda policy: made.append(Fragile(policy)) or made[-1], most=2, answers=8)
    runner.start()
    heard, ticket = submitted(runner, settings=LONG)
    begun, go_on = threading.Event(), threading.Event()

    def job():
        begun.set()
        go_on.wait(5)
        time.sleep(0.03)
        made[0].error = SystemExit()  # which is none of the errors that engines break with
        made[0].cancel = lambda number: 1 // 0

    runner.call(job)
    begun.wait(5)
    waiting = runner.call(lambda: None)
    go_on.set()
    for error in (heard.end(), waiting.exception(5)):
        assert isinstance(error, RunError) and "a thread that broke: SystemExit" in str(error)
    with pytest.raises(RunError, match="a thread that broke"):
        runner.call(lambda: None).result(5)
    runner.cancel(ticket)
    assert not runner.alive and runner.open == 0
    assert [each.message for each in caplog.records if each.levelno == logging.ERROR][:1] == [
        "the engines' thread broke"
    ]
    runner.close()


class PretendedVLLM(Fragile):
    """An engine that says what the service asks of vLLM."""

    def __init__(self, file, arguments, **_):
        super().__init__(TABLE)
        self.engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=100))
        self.closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def vllm(monkeypatch):
    """Return a function that opens the service on vLLM, and what has been started for it."""
    begun = []
    monkeypatch.setattr(
        vllm_engine, "VLLMEngine", lambda *told, **named: begun.append(PretendedVLLM(*told)) or begun[0]
    )
    file = SimpleNamespace(search=None, sketch=lambda: None)
    return begun, lambda: serve.vllm_service("kind", file, Limits(), load=lambda source: None)


def test_vllm_that_has_died_is_told_before_anybody_asks(vllm, monkeypatch):
    begun, opened = vllm
    monkeypatch.setattr(serve, "Menu", lambda *_: SimpleNamespace(limits=Limits()))
    with opened() as service:
        service.runner.start()
        heard, _ = submitted(service.runner, "vllm", LONG)
        begun[0].error = RunError("vLLM, which has died", "b", "c")
        assert heard.end() is begun[0].error and not service.runner.alive
        with pytest.raises(RunError, match="has ended"):
            submitted(service.runner, "vllm")
        service.close()
    assert begun[0].closed


def test_a_menu_that_is_refused_leaves_no_vllm_running(vllm, monkeypatch):
    def refusing(*_):
        raise ConfigError("a", "b", "c")

    begun, opened = vllm
    monkeypatch.setattr(serve, "Menu", refusing)
    with pytest.raises(ConfigError), opened():
        raise AssertionError
    assert begun[0].closed


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
