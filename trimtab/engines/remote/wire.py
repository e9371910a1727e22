"""What goes over the wire: asking for one token, and reading the log-probs that come back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.errors import EndpointError

AS_IDS = {"return_tokens_as_token_ids": True}
"""Asks vLLM to name tokens by id; others ignore or refuse it."""

_NOTHING = -9999.0
"""What vLLM writes for a log-prob of minus infinity, which JSON lacks."""


def one_token(model: str, prompt: str | Sequence[int]) -> dict[str, Any]:
    """Return a request to completions for one token, of the plain distribution: temperature 1 and no cut.

    Example:
        >>> one_token("gpt", "The film was")["max_tokens"]
        1
    """
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 1, "top_p": 1}


def choices_of(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the answers to one request, of which there is at least one.

    Raises:
        EndpointError: there is none.
    """
    choices = answer.get("choices")
    if not (isinstance(choices, list) and choices and all(isinstance(each, dict) for each in choices)):
        raise _other_form("an answer without choices")
    return choices


def text_of(answer: Mapping[str, Any]) -> str:
    """Return what the first choice says, of completions or of a chat."""
    choice = choices_of(answer)[0]
    message = choice.get("message")
    return str((message.get("content") if isinstance(message, dict) else choice.get("text")) or "")


def positions_of(answer: Mapping[str, Any]) -> list[list[tuple[str, float]]]:
    """Return, for each token with log-probs, the tokens that could have been there; those of an echoed prompt first.

    Raises:
        EndpointError: what should be log-probs is something else.
    """
    said = choices_of(answer)[0].get("logprobs") or {}
    try:
        if said.get("content"):
            return [[(top["token"], float(top["logprob"])) for top in each["top_logprobs"]] for each in said["content"]]
        return [
            [(token, float(value)) for token, value in (each or {}).items()] for each in said.get("top_logprobs") or ()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _other_form("log-probs of another form") from error


def top_of(answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the tokens that an answer's first new token could have been, with log-probs in nats; likeliest first.

    Args:
        answer: of completions or of a chat, asked for log-probs.

    Returns:
        Empty where the answer holds none.

    Raises:
        EndpointError: what should be log-probs is something else.

    Example:
        >>> top_of({"choices": [{"logprobs": {"top_logprobs": [{" a": -0.8, " b": -0.7}]}}]})
        [(' b', -0.7), (' a', -0.8)]
        >>> chat = {"token": "a", "logprob": 0.0, "top_logprobs": [{"token": "a", "logprob": 0.0}]}
        >>> top_of({"choices": [{"logprobs": {"content": [chat]}}]})
        [('a', 0.0)]
    """
    read = next(iter(positions_of(answer)), [])
    if any(not value <= 1e-3 for _, value in read) or sum(math.exp(value) for _, value in read) > 1.01:
        raise EndpointError(
            given=f"numbers that are no log-probs: {read[:3]}",
            expected="log-probs at temperature 1, whose probabilities sum to 1 at most",
            hint="serve the model's raw log-probs, as vLLM does with --logprobs-mode raw_logprobs",
        )
    known = [(token, value if value > _NOTHING else -math.inf) for token, value in read]
    return sorted(known, key=lambda entry: -entry[1])


def _other_form(given: str) -> EndpointError:
    return EndpointError(
        given=given,
        expected="the form of OpenAI's completions or chats",
        hint="check that the address is that of an OpenAI-compatible endpoint",
    )
