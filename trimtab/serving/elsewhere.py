"""An engine and a value as a search in another thread sees them: what they compute, the engines' thread computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trimtab.decoding.request import Request, Settings
from trimtab.engines.abilities import Abilities
from trimtab.engines.base import Update
from trimtab.errors import RunError
from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.runner import Runner, Ticket
from trimtab.serving.sink import SyncSink
from trimtab.values.value import Chunk, Granularity, Value, ValueState

_T = TypeVar("_T")


class StoppedError(RunError):
    """A search was stopped, since nobody waits for it any more."""


class EngineElsewhere:
    """The engine of a policy, for one search.

    Args:
        runner: that has the engine.
        key: of the policy.
        abilities: of the engine.
        vocabulary: of the policy.
    """

    def __init__(self, runner: Runner, key: Hashable, abilities: Abilities, vocabulary: Vocabulary) -> None:
        self._runner, self._key, self._abilities, self._vocabulary = runner, key, abilities, vocabulary
        self._stopped = threading.Event()
        self._sink = SyncSink()
        self._tickets: dict[int, Ticket] = {}
        self._missing = 0

    @property
    def abilities(self) -> Abilities:
        """The engine's."""
        return self._abilities

    @property
    def vocabulary(self) -> Vocabulary:
        """The policy's."""
        return self._vocabulary

    @property
    def busy(self) -> bool:
        """Whether answers of this search are to come."""
        return self._missing > 0

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on."""
        self._go_on()
        ticket = self._runner.submit(self._key, request, settings, self._sink, stream=stream).result()
        self._tickets[ticket.number] = ticket
        self._missing += request.n
        if self._stopped.is_set():  # meanwhile
            self._runner.cancel(ticket)
        return ticket.number

    def cancel(self, ticket: int) -> None:
        """Let a request go."""
        if ticket in self._tickets:
            self._runner.cancel(self._tickets.pop(ticket))

    def step(self) -> list[Update]:
        """Wait for the next updates of this search.

        Raises:
            StoppedError: nobody waits for it any more.
        """
        updates = self._sink.wait()
        self._go_on()
        self._missing -= sum(update.answer is not None for update in updates)
        return [*updates]

    def stop(self) -> None:
        """End the search, from any thread: its answers are let go before the next step."""
        self._stopped.set()
        self._sink.fail(_stopped())
        for ticket in [*self._tickets.values()]:
            self._runner.cancel(ticket)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise _stopped()


def _stopped() -> StoppedError:
    return StoppedError(given="a search that was stopped", expected="a client that waits", hint="ask again")


@dataclass(frozen=True)
class ValueElsewhere:
    """A value that computes in the engines' thread.

    Args:
        value: what scores.
        runner: that has the thread.
    """

    value: Value
    runner: Runner

    @property
    def granularity(self) -> Granularity:
        """The value's."""
        return self.value.granularity

    @property
    def additive(self) -> bool:
        """The value's."""
        return self.value.additive

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The value's."""
        return self.value.leaves

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Nothing is heard of."""
        return ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> ValueState:
        """Begin with one row a prompt."""
        return _StateElsewhere(_there(self.runner, lambda: self.value.start(prompts, vocabulary, watched)), self.runner)


@dataclass(frozen=True)
class _StateElsewhere:
    """Where rows stand with a value."""

    state: ValueState
    runner: Runner

    def select(self, rows: Tensor) -> ValueState:
        """Keep these rows, in this order."""
        return _StateElsewhere(_there(self.runner, lambda: self.state.select(rows)), self.runner)

    def extend(self, chunk: Chunk) -> tuple[Tensor, ValueState]:
        """Score every row with its new tokens."""
        scores, state = _there(self.runner, lambda: self.state.extend(chunk))
        return scores, _StateElsewhere(state, self.runner)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor | None:
        """Score every row with each of k tokens."""
        return _there(self.runner, lambda: self.state.ahead(tokens, heard))


def _there(runner: Runner, job: Callable[[], _T]) -> _T:
    """Compute something in the engines' thread, and wait for it."""

    def compute() -> _T:
        with torch.inference_mode():
            return job()

    return runner.call(compute).result()
