"""Where the leaves of one trunk stand: their rows, in stacks that advance in one forward each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import StateError
from trimtab.policies.cache import Rows
from trimtab.policies.padded import Padded
from trimtab.policies.scales import Scales

if TYPE_CHECKING:
    from trimtab.policies.lm import LM


@dataclass(frozen=True)
class Stack:
    """Rows of K leaves for B sequences in one stack, the K rows of a sequence next to each other.

    Args:
        places: which of the state's leaves these are.
        rows: B * K rows.
        scales: how strongly they use which adapters.
    """

    places: tuple[int, ...]
    rows: Rows | Padded
    scales: Scales

    def select(self, index: Tensor) -> Stack:
        """Keep the rows of these sequences, in this order."""
        count = len(self.places)
        rows = (index[:, None] * count + torch.arange(count)).flatten()
        return replace(self, rows=self.rows.select(rows), scales=self.scales.select(rows))

    def join(self, other: Stack) -> Stack:
        """Append the rows of another stack of the same leaves.

        Raises:
            StateError: one was made with gradients and one without.
        """
        scales = self.scales.join(other.scales)
        if isinstance(self.rows, Rows) and isinstance(other.rows, Rows):
            return replace(self, rows=self.rows.join(other.rows), scales=scales)
        if isinstance(self.rows, Padded) and isinstance(other.rows, Padded):
            return replace(self, rows=self.rows.join(other.rows), scales=scales)
        raise _made_otherwise()


@dataclass(frozen=True)
class TrunkState:
    """The rows of some leaves of one trunk for B sequences."""

    leaves: tuple[LM, ...]
    stacks: tuple[Stack, ...]

    def select(self, rows: Tensor) -> TrunkState:
        """Keep these rows, in this order."""
        return TrunkState(self.leaves, tuple(stack.select(rows) for stack in self.stacks))

    def rollback(self, dropped: Tensor) -> TrunkState:
        """Forget the last tokens of each row."""
        shortened = (
            replace(stack, rows=stack.rows.rollback(dropped.repeat_interleave(len(stack.places))))
            for stack in self.stacks
        )
        return TrunkState(self.leaves, tuple(shortened))

    def join(self, other: TrunkState) -> TrunkState:
        """Append the rows of another state."""
        if [stack.places for stack in self.stacks] != [stack.places for stack in other.stacks]:
            raise _made_otherwise()
        return TrunkState(self.leaves, tuple(a.join(b) for a, b in zip(self.stacks, other.stacks, strict=True)))


def _made_otherwise() -> StateError:
    return StateError(
        given="a state that was made with gradients and one made without",
        expected="both made alike",
        hint="init both under torch.no_grad(), or both without it",
    )
