"""What routes do: questions become jobs, jobs become answers, whole or piece by piece. It knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from trimtab.decoding.answer import Answer
from trimtab.decoding.found_file import found_to_dict
from trimtab.decoding.hunt import Found
from trimtab.decoding.request import Request
from trimtab.decoding.search_plan import SearchPlan
from trimtab.engines.abilities import Abilities
from trimtab.engines.base import Update
from trimtab.engines.search import hunt
from trimtab.errors import BusyError
from trimtab.rewards import Reward, score
from trimtab.serving.elsewhere import EngineElsewhere, ValueElsewhere
from trimtab.serving.job import Job, job_of
from trimtab.serving.menu import Menu
from trimtab.serving.metrics import Metrics
from trimtab.serving.numbers import finite
from trimtab.serving.questions import ChatQuestion, CompletionQuestion
from trimtab.serving.refusals import NotFoundError, late
from trimtab.serving.replies import Chosen, Shape
from trimtab.serving.runner import Runner, Ticket
from trimtab.serving.sink import AsyncSink
from trimtab.serving.spelled import Growing, Piece
from trimtab.serving.streamed import in_time

_log = logging.getLogger("trimtab.serving")


@dataclass(frozen=True)
class Progress:
    """What came of one answer since the last time: its number, and new text and pieces, or how it ended."""

    index: int
    text: str
    pieces: Sequence[Piece]
    chosen: Chosen | None


class Service:
    """Answers questions.

    Args:
        menu: what there is.
        runner: runs it.
        abilities: of its engines.
        key: what identifies the engine of a job.
        reward: scores answers on request.
    """

    def __init__(
        self,
        menu: Menu,
        runner: Runner,
        abilities: Abilities,
        key: Callable[[Job], Hashable],
        reward: Reward | None = None,
    ) -> None:
        self.menu, self.runner, self.abilities, self.reward = menu, runner, abilities, reward
        self.metrics = Metrics(runner)
        self.created = int(time.time())
        self._key = key
        self._searchers = ThreadPoolExecutor(menu.limits.searches, "trimtab-search")
        self._searching = 0
        self._scoring = 0

    @property
    def seconds(self) -> float:
        """What a request may take, waiting included."""
        return self.menu.limits.seconds

    def close(self) -> None:
        """End everything."""
        self.runner.close()
        self._searchers.shutdown(wait=False, cancel_futures=True)

    async def job(self, question: CompletionQuestion | ChatQuestion) -> Job:
        """Check a question; :func:`~trimtab.serving.job.job_of` says what is refused."""
        return await asyncio.to_thread(job_of, question, self.menu, self.abilities)  # long texts take their time

    def shape(self, question: CompletionQuestion | ChatQuestion, job: Job) -> Shape:
        """Return how the replies to a question are written."""
        chat = isinstance(question, ChatQuestion)
        return Shape(
            kind="chat" if chat else "completion",
            ticket=("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            created=int(time.time()),
            model=question.model,
            fingerprint=self.menu.fingerprint,
            vocabulary=self.menu.vocabulary,
            alternatives=job.alternatives,
            details=job.details,
        )

    def own(self, job: Job) -> dict[str, Any]:
        """Return what a reply says of the job beside the answers."""
        order = job.order
        knobs = {knob.name: float(order.knobs.get(knob.name, knob.default)) for knob in order.policy.knobs}
        return {"seed": job.settings.seed, "policy": str(order.policy), "knobs": knobs}

    async def answer(self, job: Job) -> list[Chosen]:
        """Return all answers to a job.

        Raises:
            TrimtabError: the engine cannot take it on, an answer broke, or it took too long.
        """
        found: dict[int, Chosen] = {}
        async for progress in in_time(self.follow(job, stream=False), self.seconds):
            if progress.chosen is not None:
                found[progress.index] = progress.chosen
        return [found[index] for index in sorted(found)]

    async def follow(self, job: Job, *, stream: bool) -> AsyncGenerator[Progress, None]:
        """Yield what comes of a job; the first thing is yielded once the engine has taken it on.

        Whoever stops listening closes the iterator, which lets the answers go before the next step.
        """
        self.metrics.prompt_tokens.inc(job.prompt_tokens)
        if job.plan is not None:
            async with aclosing(self._searched(job, job.plan)) as searched:
                async for progress in searched:
                    yield progress
            return
        told = job.alternatives is not None or job.details is not None
        growing = [Growing(self.menu.vocabulary, told) for _ in range(job.answers)]
        pieces: list[list[Piece]] = [[] for _ in range(job.answers)]
        async with self._submitted(job, stream) as (sink, places):
            yield Progress(-1, "", (), None)
            async for update in sink.updates():
                index = places[update.ticket] + update.number
                if update.error is not None:
                    self.metrics.failed.inc()
                    raise update.error
                text, new = growing[index].take(update)
                pieces[index] += new if not stream else ()
                if text or new:
                    yield Progress(index, text, new, None)
                if update.answer is not None:
                    yield Progress(index, "", (), self._chosen(index, update.answer, pieces[index]))

    @asynccontextmanager
    async def _submitted(self, job: Job, stream: bool) -> AsyncIterator[tuple[AsyncSink, dict[int, int]]]:
        """Hand a job's requests over, and let go of what is not finished at the end."""
        sink = AsyncSink(job.answers)
        tickets: list[Ticket] = []
        places: dict[int, int] = {}
        try:
            for request in job.requests:
                handed = self.runner.submit(self._key(job), request, job.settings, sink, stream=stream)
                try:
                    ticket = await asyncio.shield(asyncio.wrap_future(handed))
                except asyncio.CancelledError:
                    handed.add_done_callback(self._cancel)  # taken on after its client has gone
                    raise
                places[ticket.number] = sum(each.answers for each in tickets)
                tickets.append(ticket)
            yield sink, places
        finally:
            for ticket in tickets:
                self.runner.cancel(ticket)

    def _cancel(self, handed: Future[Ticket]) -> None:
        if not handed.cancelled() and handed.exception() is None:
            self.runner.cancel(handed.result())

    def _chosen(self, index: int, answer: Answer, pieces: Sequence[Piece]) -> Chosen:
        self.metrics.tokens.inc(len(answer.token_ids))
        spent = sum(answer.kl)
        self.metrics.kl.inc(max(0.0, spent) if math.isfinite(spent) else 0.0)  # a sum never comes back from infinity
        kl = answer.mean_kl if answer.kl else None
        return Chosen(index, answer.text, answer.finish_reason, pieces, kl, len(answer.token_ids))

    async def _searched(self, job: Job, plan: SearchPlan) -> AsyncGenerator[Progress, None]:
        """Search in another thread, whose work the engines' thread does."""
        if self._searching >= self.menu.limits.searches:
            raise BusyError(
                given=f"a search beside {self._searching} others",
                expected=f"at most {self.menu.limits.searches} at a time",
                hint="try again later",
            )
        vocabulary = self.menu.vocabulary
        engine = EngineElsewhere(self.runner, self._key(job), self.abilities, vocabulary)
        there = SearchPlan(ValueElsewhere(plan.value, self.runner), plan.shape)
        self._searching += 1

        def run(request: Request) -> tuple[Found, dict[str, Any] | None]:
            (tried,) = hunt(engine, [request], there, job.settings)
            found = tried.found(vocabulary.decode(request.prompt), vocabulary, job.settings)
            return found, finite(found_to_dict(found)) if job.trace else None

        try:
            for index, request in enumerate(job.requests):
                loop = asyncio.get_running_loop()
                found, told = await loop.run_in_executor(self._searchers, run, request)
                chosen = self._found(job, index, found, told)
                yield Progress(index, chosen.text, chosen.pieces, None)
                yield Progress(index, "", (), chosen)
        finally:
            engine.stop()
            self._searching -= 1

    def _found(self, job: Job, index: int, found: Found, told: dict[str, Any] | None) -> Chosen:
        answer = found.best
        growing = Growing(self.menu.vocabulary, job.alternatives is not None or job.details is not None)
        _, pieces = growing.take(Update(0, 0, answer.text, answer))
        chosen = self._chosen(index, answer, pieces)
        return Chosen(index, chosen.text, chosen.finish, pieces, chosen.kl, chosen.tokens, found.hypotheses[0][1], told)

    async def scores(self, prompt: str, completions: Sequence[str]) -> list[float]:
        """Score answers by the reward that is loaded.

        Raises:
            NotFoundError: there is none.
            BusyError: too many answers wait for their scores.
            RewardError: it failed.
        """
        reward = self.reward
        if reward is None:
            raise NotFoundError(given="a score", expected="a server with a reward", hint="serve with --reward NAME")
        most = self.menu.limits.rows + self.menu.limits.waiting
        if self._scoring and self._scoring + len(completions) > most:
            raise BusyError(
                given=f"{len(completions)} answers beside {self._scoring} that wait for their scores",
                expected=f"at most {most}",
                hint="try again later",
            )
        self._scoring += len(completions)
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.wrap_future(
                    self.runner.call(lambda: score(reward, [prompt] * len(completions), completions))
                )
        except TimeoutError as error:
            raise late(self.seconds) from error
        finally:
            self._scoring -= len(completions)
