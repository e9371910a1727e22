"""What an engine is: it takes requests, is stepped, and says what came of them.

A continuous-batching engine, a pool in this process and an endpoint far away all fit: ``step`` runs a batch, or waits
for the next thing to arrive. Requests are token ids; texts become ids before an engine, and it gives answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from trimtab.decoding.answer import Answer, Written
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.generate import requests_of
from trimtab.decoding.request import Request, Settings
from trimtab.engines.abilities import Abilities
from trimtab.errors import TrimtabError
from trimtab.policies.vocabulary import Vocabulary

REFERENCE = "trimtab:reference"
"""What stands in the place of knobs where the reference is asked; knobs are identifiers, so it is none."""

AS_REFERENCE: Mapping[str, float] = MappingProxyType({REFERENCE: True})
"""The knobs of requests that the reference of a policy answers; a :class:`MeteredEngine` takes them."""


@dataclass(frozen=True)
class Update:
    """What came of one answer.

    Args:
        ticket: of its request.
        number: which of the request's n answers it is.
        text: what it has so far; it only grows.
        answer: the answer, once it is finished, cancelled or broken. Where an engine does not measure log-probabilities
            under the reference and KL, these are empty.
        error: what broke it, where it is broken.
        written: its tokens so far, where unfinished answers are told.
        pieces: the text of each token so far, where unfinished answers are told; of a finished answer too.
    """

    ticket: int
    number: int
    text: str
    answer: Answer | None = None
    error: TrimtabError | None = None
    written: Written | None = None
    pieces: tuple[str, ...] = ()


class Engine(Protocol):
    """Something that runs one policy for many requests at a time; whoever makes one closes it."""

    @property
    def abilities(self) -> Abilities:
        """What it can do; :func:`~trimtab.engines.explain.explain` says what that means for a policy."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """What the token ids of requests mean."""
        ...

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        ...

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on, or refuse it without harm to others.

        Args:
            request: the prompt, the number of answers, knobs and keywords.
            settings: how they are decoded.
            stream: whether unfinished answers are told too.

        Returns:
            The request's ticket.

        Raises:
            TrimtabError: the request cannot be served.
        """
        ...

    def cancel(self, ticket: int) -> None:
        """Let a request's answers go; :meth:`step` tells them with what they have. Unknown tickets do nothing."""
        ...

    def step(self) -> list[Update]:
        """Go on, and tell what came of it: every answer that is finished, and those unfinished ones that are streamed.

        What breaks one answer is told with it; what this raises has broken the engine, or all that was running.
        """
        ...


class MeteredEngine(Engine, Protocol):
    """An engine that has the reference of its policy too: it answers as the reference, and reads answers under it."""

    def score(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, ...]]:
        """Return what the tokens of answers cost under the reference, in nats, at temperature 1 and without cuts.

        Args:
            texts: prompts and the answers to them, in token ids; nothing else is running.
        """
        ...

    def close(self) -> None:
        """Stop it."""
        ...


def generate(
    engine: Engine,
    prompts: Sequence[str],
    settings: Settings,
    *,
    n: int = 1,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    keywords: Constraints | Sequence[Constraints | None] | None = None,
) -> list[Answer]:
    """Answer texts on any engine, as ``Policy.generate`` does on the local one.

    Args:
        engine: that nobody else steps meanwhile.
        prompts: texts.
        settings: sampling, lengths and seed.
        n: answers a prompt.
        knobs: knob values for all prompts, or one mapping a prompt.
        keywords: words that answers must hold, for all prompts or one (or None) a prompt.

    Returns:
        ``n`` answers a prompt, in the order of the prompts.

    Raises:
        TrimtabError: a request is refused, and then none is answered, or an answer broke, after all others are there.

    Example:
        >>> from trimtab.engines.local import LocalEngine
        >>> from trimtab.policies.toy import Table
        >>> engine = LocalEngine(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> [len(answer.token_ids) for answer in generate(engine, ["heads", "tails"], Settings(max_new_tokens=3), n=2)]
        [3, 3, 3, 3]
    """
    return answers_of(engine, requests_of(engine.vocabulary, prompts, n, knobs, keywords), prompts, settings)


def answers_of(engine: Engine, requests: Sequence[Request], prompts: Sequence[str], settings: Settings) -> list[Answer]:
    """Answer requests, as :func:`generate` answers texts.

    Args:
        engine: that nobody else steps meanwhile.
        requests: one a prompt.
        prompts: what the answers say that they answer.
        settings: sampling, lengths and seed.

    Returns:
        The answers of all requests, in their order.

    Raises:
        TrimtabError: a request is refused, and then none is answered, or an answer broke, after all others are there.
    """
    told = drain(engine, [(request, settings) for request in requests])
    for update in (update for updates in told for update in updates):
        if update.error is not None:
            raise update.error
    pairs = ((prompt, update.answer) for prompt, updates in zip(prompts, told, strict=True) for update in updates)
    return [replace(answer, prompt=prompt) for prompt, answer in pairs if answer is not None]


def drain(engine: Engine, asked: Sequence[tuple[Request, Settings]]) -> list[list[Update]]:
    """Ask an engine for the answers to several requests, and wait for all of them.

    Args:
        engine: that nobody else steps meanwhile.
        asked: requests and how they are decoded.

    Returns:
        For each request the last word on each of its answers, in order.

    Raises:
        TrimtabError: a request is refused, and then none is answered.
    """
    tickets: list[int] = []
    found: dict[tuple[int, int], Update] = {}
    try:
        for request, settings in asked:
            tickets.append(engine.submit(request, settings))
        while len(found) < sum(request.n for request, _ in asked):
            ended = [update for update in engine.step() if update.answer is not None and update.ticket in tickets]
            found |= {(update.ticket, update.number): update for update in ended}
    finally:
        for ticket in tickets:
            engine.cancel(ticket)
    return [
        [found[ticket, number] for number in range(request.n)]
        for ticket, (request, _) in zip(tickets, asked, strict=True)
    ]


def before_stops(text: str, stops: Sequence[str]) -> str:
    """Return the text of an unfinished answer up to where it could be the start of a stop text.

    Args:
        text: of the answer so far.
        stops: texts that will end it.

    Example:
        >>> before_stops("the end", ["ends"]), before_stops("the end", [])
        ('the ', 'the end')
    """
    starts = (stop[:length] for stop in stops for length in range(1, len(stop)))
    held = max((len(start) for start in starts if text.endswith(start)), default=0)
    return text[: len(text) - held]
