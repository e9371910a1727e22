"""The rows that are being decoded: their books, their state, and what the policies say about their next tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.decoding.ledger import Ledger
from trimtab.policies.base import Leaf
from trimtab.policies.state import State


@dataclass(frozen=True)
class Running:
    """N rows and their next tokens' distributions.

    Args:
        ledger: the rows' books.
        state: where the leaves stand.
        log_probs: of the policy and, where it is metered, of the reference; each (N, V).
        said: what every leaf said last, each (N, V), to find out what broke a row.
        pending: probabilities up to a factor a row to pick from instead of the policy's own, (N, V), after a block of
            drafts; None otherwise.
        redrawn: in which rows ``pending`` is what is left after a rejected draft, (N,).
    """

    ledger: Ledger
    state: State
    log_probs: tuple[Tensor, ...]
    said: Mapping[Leaf, Tensor]
    pending: Tensor | None = None
    redrawn: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ledger)

    def select(self, index: Tensor) -> Running:
        """Keep these rows, in this order; a row may appear several times."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        there = index.to(self.log_probs[0].device)
        return Running(
            self.ledger.select(index),
            self.state.select(index),
            tuple(each[there] for each in self.log_probs),
            {leaf: said[there] for leaf, said in self.said.items()},
            None if self.pending is None else self.pending[there],
            None if self.redrawn is None else self.redrawn[there],
        )

    def join(self, other: Running) -> Running:
        """Append rows that have no pending distribution."""
        size = self.log_probs[0].shape[-1]
        log_probs = tuple(torch.cat(pair) for pair in zip(self.log_probs, other.log_probs, strict=True))
        said = {leaf: torch.cat([logits, other.said[leaf]]) for leaf, logits in self.said.items()}
        return Running(self.ledger.join(other.ledger, size), self.state.join(other.state), log_probs, said)
