"""What an endpoint was asked for: calls, tokens, retries and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meter:
    """What a client has used so far; meters add and subtract.

    Args:
        calls: requests, each counted once however often it was sent.
        prompt_tokens: tokens read, as the endpoint counts them; 0 where it does not say.
        completion_tokens: tokens written, as the endpoint counts them.
        retries: how often a request was sent again.
        seconds: from the first sending of a request to its answer, pauses included, summed over requests: those that
            run at once count each.

    Example:
        >>> before, after = Meter(calls=2, prompt_tokens=10), Meter(calls=5, prompt_tokens=40)
        >>> (after - before).calls, (after - before).prompt_tokens
        (3, 30)
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    seconds: float = 0.0

    def __add__(self, other: Meter) -> Meter:
        return Meter(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.retries + other.retries,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Meter) -> Meter:
        return self + Meter(
            -other.calls, -other.prompt_tokens, -other.completion_tokens, -other.retries, -other.seconds
        )
