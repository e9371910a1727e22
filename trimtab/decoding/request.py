"""What a pool is asked for, and what it gives back: requests, their settings, and finished rows."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.detail import MOST_ALTERNATIVES, Detail
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError, TrimtabError


@dataclass(frozen=True)
class Request:
    """One prompt and how many answers it wants.

    Args:
        prompt: token ids.
        n: number of answers.
        knobs: knob values that differ from their defaults.
        occurrence: how often the same prompt came before in this call; keeps repeated prompts apart.
        keywords: words that its answers must hold.
        alternatives: how many likely tokens every token is told with, and what each factor added to them; None tells
            nothing, 0 the picked token alone.
    """

    prompt: tuple[int, ...]
    n: int = 1
    knobs: Mapping[str, float] = field(default_factory=dict)
    occurrence: int = 0
    keywords: Constraints | None = None
    alternatives: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(given=f"n={self.n}", expected="at least one answer a prompt", hint="raise n")
        if self.alternatives is not None and not 0 <= self.alternatives <= MOST_ALTERNATIVES:
            raise ConfigError(
                given=f"{self.alternatives} alternatives at each token",
                expected=f"from 0 to {MOST_ALTERNATIVES}, or None",
                hint="ask for 5",
            )


@dataclass(frozen=True)
class Settings:
    """How the answers to a request are decoded.

    Args:
        sampling: how tokens are picked.
        min_new_tokens: tokens before a row may end.
        max_new_tokens: tokens after which it must.
        stop: texts that end a row.
        stop_ids: token ids that end a row, beside the vocabulary's own.
        seed: of the random numbers.
    """

    sampling: Sampling = field(default_factory=Sampling)
    min_new_tokens: int = 0
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0

    @staticmethod
    def of(
        sampling: Sampling,
        *,
        min_new_tokens: int,
        max_new_tokens: int,
        stop: str | int | Sequence[str | int],
        seed: int | None,
    ) -> Settings:
        """Tell stop texts from stop ids, and draw a seed where there is none."""
        stops = [stop] if isinstance(stop, str | int) else stop
        return Settings(
            sampling,
            min_new_tokens,
            max_new_tokens,
            tuple(each for each in stops if isinstance(each, str)),
            tuple(each for each in stops if isinstance(each, int)),
            secrets.randbits(63) if seed is None else seed,
        )

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ConfigError(
                given=f"min_new_tokens={self.min_new_tokens}, max_new_tokens={self.max_new_tokens}",
                expected="at least one new token, and a minimum that is not above the maximum",
                hint="raise max_new_tokens",
            )
        if any(not text for text in self.stop):
            raise ConfigError(given="an empty stop text", expected="texts of at least one character", hint="drop it")


@dataclass(frozen=True)
class Bounds:
    """How much a pool takes on.

    Args:
        rows: rows that run at once.
        tokens: tokens that running rows may grow to together, prompts included; None for no bound.
        waiting: rows that may wait for a place; None for no bound.
    """

    rows: int = 64
    tokens: int | None = None
    waiting: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or any(bound is not None and bound < 1 for bound in (self.tokens, self.waiting)):
            raise ConfigError(given=f"{self}", expected="bounds of at least 1", hint="raise them")


@dataclass(frozen=True)
class Row:
    """One finished sequence.

    Args:
        request: what asked for it.
        place: its number among all rows the pool was asked for, in order.
        tokens: generated token ids.
        log_probs: of each token under the policy, in nats.
        reference_log_probs: the same under the reference; 0 where nothing is metered.
        kl: exact KL to the reference at each token, in nats; 0 where nothing is metered.
        finish: why it ended.
        error: what broke it, where ``finish`` is "error".
        covered: probability that the reference gives, at each token, to the tokens that are possible; empty where the
            policy cuts nothing or nothing is metered.
        unmet: keywords it lacks.
        details: of each token, where its request asks for them.
    """

    request: Request
    place: int
    tokens: list[int]
    log_probs: list[float]
    reference_log_probs: list[float]
    kl: list[float]
    finish: FinishReason
    error: TrimtabError | None = None
    covered: list[float] = field(default_factory=list)
    unmet: tuple[str, ...] = ()
    details: tuple[Detail, ...] = ()
