"""The events of one stream: what comes of a job, in OpenAI's pieces."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from trimtab.errors import TrimtabError
from trimtab.serving.job import Job
from trimtab.serving.questions import ChatQuestion, CompletionQuestion
from trimtab.serving.refusals import Refusal
from trimtab.serving.service import Progress, Service
from trimtab.serving.streamed import DONE, event, in_time


class Events:
    """Writes the events of one stream.

    Args:
        service: answers.
        question: what was asked.
        job: what that is for an engine.
        started: when the request came, by ``time.perf_counter``.
    """

    def __init__(self, service: Service, question: CompletionQuestion | ChatQuestion, job: Job, started: float) -> None:
        self._service, self._job, self._started = service, job, started
        self._shape = service.shape(question, job)
        self._counted = question.stream_options is not None and question.stream_options.include_usage
        self._begun: set[int] = set()
        self._tokens = 0
        self.texts: list[str] = []
        """The answers that have ended."""
        self.status = 200
        """What the stream ended with, as a status."""

    async def written(self) -> AsyncGenerator[bytes, None]:
        """Yield all events; the first piece is empty, and comes once the engine has taken the job on.

        Raises:
            TrimtabError: it was not taken on. What breaks it later is an event.
        """
        opened = False
        try:
            async for progress in in_time(self._service.follow(self._job, stream=True), self._service.seconds):
                if not opened:
                    opened = True
                    yield b""
                for piece in self._of(progress):
                    yield piece
        except TrimtabError as error:
            if not opened:
                raise
            refusal = Refusal.of(error)
            self.status = refusal.status
            yield event(refusal.to_dict())
            return
        for piece in self._end():
            yield piece

    def _of(self, progress: Progress) -> list[bytes]:
        """Return the events that a piece of progress makes."""
        if progress.index < 0:
            return []
        told, opening = [], not self._begun
        if progress.index not in self._begun:
            if opening:
                self._service.metrics.first.observe(time.perf_counter() - self._started)
            self._begun.add(progress.index)
            told.append(self._shape.first(progress.index))
        if progress.text or progress.pieces:
            told.append(self._shape.piece(progress.index, progress.text, progress.pieces))
        if progress.chosen is not None:
            self._tokens += progress.chosen.tokens
            self.texts.append(progress.chosen.text)
            told.append(self._shape.last(progress.chosen))
        pieces = [each for each in told if each is not None]
        if opening and pieces:  # a stream that is cut off can be asked for again
            pieces[0] = {**pieces[0], "trimtab": self._service.own(self._job)}
        return [event(each) for each in pieces]

    def _end(self) -> list[bytes]:
        """Return the events at the end."""
        counted = [event(self._shape.counted(self._job.prompt_tokens, self._tokens))] if self._counted else []
        return [*counted, DONE]
