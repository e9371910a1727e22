"""Where a decode stands, as a value: caches, lengths and knob values of B rows, never changed in place.

Rows can be picked, repeated, shortened by different lengths, and appended. What a cache looks like is the business of
the host that holds the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from trimtab.errors import StateError

if TYPE_CHECKING:
    from trimtab.policies.base import Leaf, Prompt
    from trimtab.policies.knob import KnobValues


class Host(Protocol):
    """What holds the weights of leaves and advances several of them in one go (a trunk, a toy table)."""

    def init(self, leaves: Sequence[Any], prompts: Sequence[Prompt], knobs: KnobValues) -> tuple[Tensor, HostState]:
        """Prefill with each row's knob values; returns logits of shape (L, B, V) for L leaves and B prompts."""
        ...

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, HostState]:
        """Feed (B, T) tokens to every leaf; returns logits of shape (L, B, T, V)."""
        ...


class HostState(Protocol):
    """The rows of some leaves of one host, as a value."""

    def select(self, rows: Tensor) -> HostState:
        """Keep these rows, in this order; a row may appear several times."""
        ...

    def rollback(self, dropped: Tensor) -> HostState:
        """Forget the last ``dropped[b]`` tokens of each row, shape (B,)."""
        ...

    def join(self, other: Any) -> HostState:
        """Append the rows of another state of the same leaves."""
        ...


@dataclass(frozen=True)
class Part:
    """The state of the leaves of one host."""

    host: Host
    leaves: tuple[Leaf, ...]
    state: HostState


@dataclass(frozen=True)
class State:
    """Where B rows stand: caches, lengths and knob values, as a value that is never changed in place.

    Args:
        parts: one for each host.
        knobs: knob values, each of shape (B,).
        lengths: tokens fed so far, prompt included, shape (B,).
    """

    parts: tuple[Part, ...]
    knobs: dict[str, Tensor]
    lengths: Tensor

    def select(self, rows: Sequence[int] | Tensor) -> State:
        """Keep these rows, in this order; a row may appear several times."""
        index = torch.as_tensor(rows, dtype=torch.long)
        if not index.numel() or not 0 <= int(index.min()) <= int(index.max()) < len(self.lengths):
            raise StateError(
                given=f"rows {index.tolist()}",
                expected=f"rows from 0 to {len(self.lengths) - 1}",
                hint="pick at least one row, each by its number",
            )
        return State(
            tuple(Part(p.host, p.leaves, p.state.select(index)) for p in self.parts),
            {name: values[index] for name, values in self.knobs.items()},
            self.lengths[index],
        )

    def fork(self, n: int) -> State:
        """Repeat every row n times, copies side by side."""
        return self.select(torch.arange(len(self.lengths)).repeat_interleave(n))

    def rollback(self, lengths: Sequence[int] | Tensor) -> State:
        """Go back to a length per row, in tokens, prompt included.

        Raises:
            StateError: a length is below 1 or above what the row has been fed.
        """
        kept = torch.as_tensor(lengths, dtype=torch.long)
        if kept.shape != self.lengths.shape or bool((kept > self.lengths).any()) or bool((kept < 1).any()):
            raise StateError(
                given=f"rollback to {kept.tolist()}",
                expected=f"one length a row, from 1 to the row's own: {self.lengths.tolist()}",
                hint="roll back to a length the row has already been at",
            )
        dropped = self.lengths - kept
        return State(tuple(Part(p.host, p.leaves, p.state.rollback(dropped)) for p in self.parts), self.knobs, kept)

    def join(self, other: State) -> State:
        """Append the rows of another state of the same leaves; lengths may differ.

        Raises:
            StateError: the states hold different leaves.
        """
        mine, theirs = ([leaf for part in state.parts for leaf in part.leaves] for state in (self, other))
        if len(mine) != len(theirs) or not all(a.steps_like(b) for a, b in zip(mine, theirs, strict=True)):
            raise StateError(
                given="two states whose rows evaluate different leaves",
                expected="states of one policy that evaluate the same leaves",
                hint="init both with the same policy and with knobs that are not exactly 0 in just one of them",
            )
        return State(
            tuple(Part(a.host, a.leaves, a.state.join(b.state)) for a, b in zip(self.parts, other.parts, strict=True)),
            {name: torch.cat([values, other.knobs[name]]) for name, values in self.knobs.items()},
            torch.cat([self.lengths, other.lengths]),
        )
