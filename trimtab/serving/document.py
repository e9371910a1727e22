"""Which route does what, and how the OpenAPI document describes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from trimtab.serving.questions import (
    ChatQuestion,
    CompletionQuestion,
    DetokenizeQuestion,
    ScoreQuestion,
    TokenizeQuestion,
)
from trimtab.serving.schemas import ANSWERS, ERROR, STREAMS, TEXT

_BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionQuestion,
    "/v1/chat/completions": ChatQuestion,
    "/tokenize": TokenizeQuestion,
    "/detokenize": DetokenizeQuestion,
    "/v1/score": ScoreQuestion,
}
"""What is sent to the routes that take something."""

Handler = Callable[..., Awaitable[Any]]


def described(app: FastAPI, handlers: Mapping[str, Handler]) -> None:
    """Add routes to a server, with what they take and what they refuse.

    Args:
        app: the server.
        handlers: by the path of their route.
    """
    for path, handler in handlers.items():
        question = _BODIES.get(path)
        if question is None:
            kind = PlainTextResponse if path == "/metrics" else JSONResponse
            responses = {**_answers(path), **_errors(400, 401, 404, 421)}
            app.add_api_route(path, handler, response_model=None, response_class=kind, responses=responses)
            continue
        content = {"application/json": {"schema": _of(question)}}
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_model=None,
            responses={**_answers(path), **_errors(400, 401, 404, 408, 413, 415, 421, 500, 503, 504)},
            openapi_extra={"requestBody": {"required": True, "content": content}},
        )


def _answers(path: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route answers where all is well."""
    if path not in ANSWERS:
        return {}
    content: dict[str, Any] = {"application/json": {"schema": ANSWERS[path]}}
    if path in STREAMS:
        content["text/event-stream"] = {"schema": TEXT}
    told: dict[int | str, dict[str, Any]] = {200: {"description": "the answer", "content": content}}
    if path == "/health":
        told[503] = {"description": "nothing can be answered", "content": content}
    return told


def _of(question: type[BaseModel]) -> dict[str, Any]:
    """Return a question's schema with everything that it refers to inside it."""
    schema = question.model_json_schema()
    parts = schema.pop("$defs", {})
    found = _inlined(schema, parts)
    assert isinstance(found, dict)
    return found


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(each, parts) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(parts[node["$ref"].rpartition("/")[2]], parts)
    return {key: _inlined(value, parts) for key, value in node.items()}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": "what was given, expected, and to try", "content": content} for status in statuses}
