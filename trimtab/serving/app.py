"""The routes: what OpenAI's clients, Prometheus and the playground ask for."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from trimtab.errors import TrimtabError
from trimtab.serving.document import Handler, described
from trimtab.serving.guard import Guard
from trimtab.serving.job import Job, as_text
from trimtab.serving.keys import Keys
from trimtab.serving.page import page_files
from trimtab.serving.questions import (
    ChatQuestion,
    CompletionQuestion,
    DetokenizeQuestion,
    Question,
    ScoreQuestion,
    TokenizeQuestion,
    explained,
)
from trimtab.serving.refusals import Refusal, TimeoutExceededError, plain
from trimtab.serving.service import Progress, Service
from trimtab.serving.streamed import DONE, GoneError, Streamed, event, while_there

_log = logging.getLogger("trimtab.serving")
_Q = TypeVar("_Q", bound=BaseModel)
_Asked = TypeVar("_Asked", CompletionQuestion, ChatQuestion)

SEARCHES = ("chunk_beam", "blockwise", "best_of_n", "deal", "smc", "speculative_rejection")
"""Methods that the playground offers; each chooses among chunks."""


def build_app(service: Service, *, keys: Keys, hosts: frozenset[str] | None, log_prompts: bool = False) -> Guard:
    """Return the server as an ASGI application.

    Args:
        service: answers.
        keys: that open it.
        hosts: names that it answers to; None is any.
        log_prompts: whether prompts and answers are written into the log.
    """
    app = FastAPI(title="trimtab", docs_url=None, redoc_url=None, lifespan=partial(_life, service))
    routes = _Routes(service, log_prompts)
    described(app, routes.by_path())
    files = page_files()
    for path in files:
        app.add_api_route(path, partial(_file, files[path]), include_in_schema=False)
    app.add_exception_handler(TrimtabError, _refuse)
    app.add_exception_handler(HTTPException, _http)
    public = frozenset({"/health", *files})
    return Guard(app, keys=keys, body_bytes=service.menu.limits.body_bytes, public=public, hosts=hosts)


@asynccontextmanager
async def _life(service: Service, app: FastAPI) -> AsyncIterator[None]:
    service.runner.start()
    try:
        yield
    finally:
        await asyncio.to_thread(service.close)


async def _file(content: tuple[bytes, str]) -> Response:
    return Response(content[0], media_type=content[1], headers={"cache-control": "no-cache"})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, TrimtabError)
    return _refused(Refusal.of(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    names = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}
    headers = dict(error.headers or {})
    return _refused(plain(error.status_code, str(error.detail), names.get(error.status_code, "error"), headers))


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.to_dict(), refusal.status, refusal.headers)


class _Routes:
    """What each route does."""

    def __init__(self, service: Service, log_prompts: bool) -> None:
        self.service, self.log_prompts = service, log_prompts

    def by_path(self) -> dict[str, Handler]:
        """Return the handler of each route."""
        return {
            "/v1/completions": self.completions,
            "/v1/chat/completions": self.chat,
            "/v1/models": self.models,
            "/v1/models/{name:path}": self.model,
            "/v1/policies": self.policies,
            "/v1/score": self.score,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/health": self.health,
            "/metrics": self.metrics,
        }

    # -- questions ---------------------------------------------------------------------------------------------------

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        return await self._asked(request, await _body(request, CompletionQuestion))

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        return await self._asked(request, await _body(request, ChatQuestion))

    async def _asked(self, request: Request, question: CompletionQuestion | ChatQuestion) -> Response:
        started = time.perf_counter()
        headers = _warnings(question)
        job = await self.service.job(question)
        note = partial(self._note, request, question, job, started)
        if question.stream:
            steps = self._steps(question, job, started)
            first = await anext(steps)  # taken on, or refused with a status of its own
            return Streamed(_after(first, steps), headers, lambda stayed: note(200 if stayed else 499))
        try:
            chosen = await while_there(request.receive, self._in_time(self.service.answer(job)))
        except GoneError:
            note(499)
            return Response(status_code=499)
        shape = self.service.shape(question, job)
        reply = shape.whole(chosen, job.prompt_tokens, self.service.own(job))
        note(200, [each.text for each in chosen])
        return JSONResponse(reply, headers=headers)

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        seconds = self.service.menu.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError as error:
            raise _late(seconds) from error

    async def _steps(
        self, question: CompletionQuestion | ChatQuestion, job: Job, started: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream; the first is empty, and comes once the engine has taken the job on."""
        seconds = self.service.menu.limits.seconds
        writer = _Writer(self.service, question, job, started)
        opened = False
        try:
            async with asyncio.timeout(seconds):
                follow = self.service.follow(job, stream=True)
                try:
                    async for progress in follow:
                        if not opened:
                            opened = True
                            yield b""
                        for piece in writer.events(progress):
                            yield piece
                finally:
                    await follow.aclose()  # type: ignore[attr-defined]
        except TimeoutError:
            yield event(Refusal.of(_late(seconds)).to_dict())
            return
        except TrimtabError as error:
            if not opened:
                raise
            yield event(Refusal.of(error).to_dict())
            return
        for piece in writer.end():
            yield piece

    def _note(
        self,
        request: Request,
        question: Question,
        job: Job,
        started: float,
        status: int,
        texts: list[str] | None = None,
    ) -> None:
        """Write a line into the log: never a key, and prompts only where the operator wants them."""
        seconds = time.perf_counter() - started
        metrics, path = self.service.metrics, request.url.path
        metrics.seconds.observe(seconds)
        metrics.gone.inc(status == 499)
        line: dict[str, Any] = {"path": path, "status": status, "seconds": round(seconds, 4), "model": question.model}
        line |= {"prompt_tokens": job.prompt_tokens, "answers": job.answers, "stream": bool(question.stream)}
        if self.log_prompts:
            decode = self.service.menu.vocabulary.decode
            line |= {"prompts": [decode(each.prompt) for each in job.requests], "texts": texts}
        _log.info(json.dumps(line, ensure_ascii=False))

    # -- everything else ---------------------------------------------------------------------------------------------

    async def models(self) -> dict[str, Any]:
        """List what requests may name as their model."""
        return {"object": "list", "data": [self._model(name) for name in self.service.menu.names]}

    async def model(self, name: str) -> dict[str, Any]:
        """Describe one model."""
        self.service.menu.order(name, {}, None)
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.service.created, "owned_by": "trimtab"}

    async def policies(self) -> dict[str, Any]:
        """Describe the policy: its knobs, its factors, and what may be asked of it."""
        service = self.service
        alternatives = service.menu.limits.top_logprobs if service.abilities.every_token else 0
        return {
            "object": "list",
            "data": [service.menu.to_dict(service.abilities.name, SEARCHES, alternatives)],
        }

    async def tokenize(self, request: Request) -> dict[str, Any]:
        """Cut a text, or a chat, into tokens."""
        question = await _body(request, TokenizeQuestion)
        menu = self.service.menu
        text = question.prompt if question.messages is None else as_text(question.messages, menu.vocabulary)
        tokens = await asyncio.to_thread(menu.vocabulary.encode, text or "")
        strings = [menu.vocabulary.decode([token]) for token in tokens]
        return {
            "count": len(tokens),
            "max_model_len": menu.context_length,
            "tokens": tokens,
            "token_strs": strings,
        }

    async def detokenize(self, request: Request) -> dict[str, Any]:
        """Turn tokens into a text."""
        question = await _body(request, DetokenizeQuestion)
        vocabulary = self.service.menu.vocabulary
        if wrong := [token for token in question.tokens if token >= vocabulary.size]:
            raise HTTPException(400, f"given: the token {wrong[0]}\nexpected: ids from 0 to {vocabulary.size - 1}")
        return {"prompt": await asyncio.to_thread(vocabulary.decode, question.tokens)}

    async def score(self, request: Request) -> dict[str, Any]:
        """Score answers by the reward that the operator has loaded."""
        question = await _body(request, ScoreQuestion)
        scores = await self.service.scores(question.prompt, question.completions)
        return {"reward": self.service.menu.reward, "scores": scores}

    async def health(self) -> Response:
        """Say whether requests can be answered."""
        well = self.service.runner.alive
        return JSONResponse({"status": "ok" if well else "the engine has ended"}, 200 if well else 503)

    async def metrics(self) -> Response:
        """Tell Prometheus."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Writer:
    """Writes the events of one stream."""

    def __init__(self, service: Service, question: CompletionQuestion | ChatQuestion, job: Job, started: float) -> None:
        self._service, self._job, self._started = service, job, started
        self._shape = service.shape(question, job)
        self._counted = question.stream_options is not None and question.stream_options.include_usage
        self._begun: set[int] = set()
        self._tokens = 0

    def events(self, progress: Progress) -> list[bytes]:
        """Return the events that a piece of progress makes."""
        if progress.index < 0:
            return []
        told = []
        if progress.index not in self._begun:
            if not self._begun:
                self._service.metrics.first.observe(time.perf_counter() - self._started)
            self._begun.add(progress.index)
            told.append(self._shape.first(progress.index))
        if progress.text or progress.pieces:
            told.append(self._shape.piece(progress.index, progress.text, progress.pieces))
        if progress.chosen is not None:
            self._tokens += progress.chosen.tokens
            told.append(self._shape.last(progress.chosen))
        return [event(each) for each in told if each is not None]

    def end(self) -> list[bytes]:
        """Return the events at the end."""
        counted = [event(self._shape.counted(self._job.prompt_tokens, self._tokens))] if self._counted else []
        return [*counted, DONE]


async def _after(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the first piece again, then the others; closing it closes them."""
    try:
        if first:
            yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()


async def _body(request: Request, kind: type[_Q]) -> _Q:
    """Read a body of JSON.

    Only what says that it is JSON is read: a page from elsewhere cannot send that without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected: the header content-type: application/json")
    content = await request.body()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise explained(error) from error


def _warnings(question: Question) -> dict[str, str]:
    """Return the header that names fields which mean nothing here."""
    names = [name for name in question.ignored if name.isascii() and name.isprintable()]
    return {"x-trimtab-ignored": ", ".join(names)[:1000]} if question.ignored else {}


def _late(seconds: float) -> TimeoutExceededError:
    return TimeoutExceededError(
        given=f"a request that took more than {seconds:g} s",
        expected="an answer in that time",
        hint="ask for fewer tokens, or when less is going on",
    )
