"""What went wrong, as a status and as the JSON that OpenAI's clients read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import BusyError, RunError, TrimtabError, UsageError

RETRY_AFTER = 2
"""Seconds after which a client that was turned away may try again."""


class NotFoundError(UsageError):
    """A client has named a model or a route that is not there."""


class TimeoutExceededError(RunError):
    """A request took longer than it may."""


def late(seconds: float) -> TimeoutExceededError:
    """Return what is said of a request that took longer than it may."""
    return TimeoutExceededError(
        given=f"a request that took more than {seconds:g} s",
        expected="an answer in that time",
        hint="ask for fewer tokens, or when less is going on",
    )


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for people.
        kind: OpenAI's ``type``.
        code: a short name for programs.
        headers: that go with it.
    """

    status: int
    message: str
    kind: str
    code: str
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(error: TrimtabError) -> Refusal:
        """Return what a client is told of an error.

        Example:
            >>> from trimtab.errors import KnobError
            >>> Refusal.of(KnobError(given="strength=9", expected="at most 3", hint="lower it")).status
            400
        """
        code, message = type(error).__name__, str(error)
        match error:
            case NotFoundError():
                return Refusal(404, message, "invalid_request_error", "model_not_found")
            case UsageError():
                return Refusal(400, message, "invalid_request_error", code)
            case BusyError():
                return Refusal(503, message, "overloaded_error", code, {"retry-after": str(RETRY_AFTER)})
            case TimeoutExceededError():
                return Refusal(504, message, "timeout_error", code)
            case _:
                return Refusal(500, message, "server_error", code)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}


def plain(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Refusal:
    """Return an error of HTTP's own."""
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status < 500 else "server_error"
    return Refusal(status, message, kind, code, headers or {})
