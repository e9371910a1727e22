"""The routes: what OpenAI's clients, Prometheus and the playground ask for."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from trimtab.errors import TrimtabError
from trimtab.serving.document import Handler, described
from trimtab.serving.events import Events
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
from trimtab.serving.refusals import Refusal, plain
from trimtab.serving.service import Service
from trimtab.serving.streamed import GoneError, Streamed, as_json, while_there

_log = logging.getLogger("trimtab.serving")
_Q = TypeVar("_Q", bound=BaseModel)

SEARCHES = ("chunk_beam", "blockwise", "best_of_n", "deal", "smc", "speculative_rejection")
"""Methods that the playground offers; each chooses among chunks."""

SLOWEST = 30.0
"""Seconds that a body may take to come."""


def build_app(service: Service, *, keys: Keys, hosts: frozenset[str] | None, log_prompts: bool = False) -> Guard:
    """Return the server as an ASGI application.

    Args:
        service: answers.
        keys: that open it.
        hosts: names that it answers to; None is any.
        log_prompts: whether prompts and answers are written into the log.
    """
    app = FastAPI(
        title="trimtab", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=partial(_life, service)
    )
    routes = _Routes(service, log_prompts)
    described(app, routes.by_path())
    files = page_files()
    for path in files:
        app.add_api_route(path, partial(_file, files[path]), include_in_schema=False)
    app.add_exception_handler(TrimtabError, _refuse)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _broken)
    public = frozenset({"/health", *files})
    return Guard(
        app,
        keys=keys,
        body_bytes=service.menu.limits.body_bytes,
        public=public,
        hosts=hosts,
        counted=service.metrics.answered,
    )


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
    names = {
        404: "not_found",
        405: "method_not_allowed",
        408: "request_timeout",
        413: "request_too_large",
        415: "unsupported_media_type",
    }
    headers = dict(error.headers or {})
    return _refused(plain(error.status_code, str(error.detail), names.get(error.status_code, "error"), headers))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _broken(request: Request, error: Exception) -> Response:
    """Say nothing of what broke; it goes on to the operator's log."""
    return _refused(plain(500, "given: a request that broke the server\ntry: tell its operator", "server_error"))


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
        try:
            job = await while_there(request.receive, self.service.job(question))
        except GoneError:
            return Response(status_code=499)
        note = partial(self._note, request, question, job, started)
        try:
            if question.stream:
                events = Events(self.service, question, job, started)
                pieces = events.written()
                await while_there(request.receive, anext(pieces))  # taken on, or refused with a status of its own
                return Streamed(pieces, headers, lambda stayed: note(events.status if stayed else 499, events.texts))
            chosen = await while_there(request.receive, self.service.answer(job))
        except GoneError:
            note(499)
            return Response(status_code=499)
        except TrimtabError as error:
            note(Refusal.of(error).status)
            raise
        shape = self.service.shape(question, job)
        whole = partial(shape.whole, chosen, job.prompt_tokens, self.service.own(job))
        content = await asyncio.to_thread(lambda: as_json(whole()))  # of many tokens it takes its time
        note(200, [each.text for each in chosen])
        return Response(content, headers=headers, media_type="application/json")

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
        vocabulary = menu.vocabulary

        def cut() -> tuple[list[int], list[str]]:
            text = question.prompt if question.messages is None else as_text(question.messages, vocabulary)
            tokens = vocabulary.encode(text or "")
            return tokens, [vocabulary.decode([token]) for token in tokens]

        tokens, strings = await asyncio.to_thread(cut)  # long texts take their time
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

    async def score(self, request: Request) -> Response:
        """Score answers by the reward that the operator has loaded."""
        question = await _body(request, ScoreQuestion)
        try:
            scores = await while_there(request.receive, self.service.scores(question.prompt, question.completions))
        except GoneError:
            return Response(status_code=499)
        return JSONResponse({"reward": self.service.menu.reward, "scores": scores})

    async def health(self) -> Response:
        """Say whether requests can be answered."""
        well = self.service.runner.alive
        return JSONResponse({"status": "ok" if well else "the engine has ended"}, 200 if well else 503)

    async def metrics(self) -> Response:
        """Tell Prometheus."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _body(request: Request, kind: type[_Q]) -> _Q:
    """Read a body of JSON.

    Only what says that it is JSON is read: a page from elsewhere cannot send that without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected: the header content-type: application/json")
    try:
        async with asyncio.timeout(SLOWEST):
            content = await request.body()
    except TimeoutError as error:
        raise HTTPException(408, f"expected: the whole body within {SLOWEST:g} s") from error
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise explained(error) from error


def _warnings(question: Question) -> dict[str, str]:
    """Return the header that names fields which mean nothing here."""
    names = [name for name in question.ignored if name.isascii() and name.isprintable()]
    return {"x-trimtab-ignored": ", ".join(names)[:1000]} if question.ignored else {}
