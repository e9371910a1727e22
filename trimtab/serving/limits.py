"""How much a server takes on: whatever is over is refused before any work is done for it."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """The bounds of a server.

    Args:
        rows: answers that are decoded at once.
        waiting: answers that may wait for a place; more get a status 503.
        body_bytes: of a request.
        prompts: in a request.
        n: answers a prompt.
        max_tokens: of an answer.
        top_logprobs: alternatives at each token.
        told: tokens and alternatives that all answers to a request may come with.
        stop: stop texts of a request.
        stop_bytes: of a stop text.
        expression: characters of a policy in a request.
        leaves: models and vectors mixed into them, of a policy in a request.
        policies: different policies that are kept ready; the oldest idle one is let go.
        beams: of a search.
        branches: of a search, continuations of each.
        searches: that run at once.
        seconds: that a request may take, waiting included.

    Raises:
        ConfigError: a bound is below 1.
    """

    rows: int = 64
    waiting: int = 256
    body_bytes: int = 1_000_000
    prompts: int = 32
    n: int = 16
    max_tokens: int = 4096
    top_logprobs: int = 20
    told: int = 100_000
    stop: int = 8
    stop_bytes: int = 200
    expression: int = 2000
    leaves: int = 8
    policies: int = 8
    beams: int = 16
    branches: int = 64
    searches: int = 4
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 1:
                raise ConfigError(given=f"{name}={value}", expected="a bound of at least 1", hint="raise it")
