"""The rows that are being decoded: their books, their state, and what the policies say about their next tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.decoding.ledger import Ledger
from trimtab.decoding.sampling import distribution, warp
from trimtab.policies.advance import feed
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
        aside: where leaves stand that draft and are not the policy's.
        behind: the tokens they have not been fed yet, (N, T).
    """

    ledger: Ledger
    state: State
    log_probs: tuple[Tensor, ...]
    said: Mapping[Leaf, Tensor]
    pending: Tensor | None = None
    redrawn: Tensor | None = None
    aside: State | None = None
    behind: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.long))

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
            None if self.aside is None else self.aside.select(index),
            self.behind[there],
        )

    def join(self, other: Running) -> Running:
        """Append new rows, which have no pending distribution and nothing to catch up with."""
        size = self.log_probs[0].shape[-1]
        aside, pending, redrawn = self.aside, self.pending, self.redrawn
        if aside is not None and other.aside is not None:
            aside = (feed(aside, self.behind)[1] if self.behind.shape[1] else aside).join(other.aside)
        if pending is not None and redrawn is not None:
            pending = torch.cat([pending, other.fresh()])
            redrawn = torch.cat([redrawn, torch.zeros(len(other), dtype=torch.bool, device=redrawn.device)])
        log_probs = tuple(torch.cat(pair) for pair in zip(self.log_probs, other.log_probs, strict=True))
        said = {leaf: torch.cat([logits, other.said[leaf]]) for leaf, logits in self.said.items()}
        state, behind = self.state.join(other.state), self.behind.new_zeros((len(self) + len(other), 0))
        return Running(self.ledger.join(other.ledger, size), state, log_probs, said, pending, redrawn, aside, behind)

    def fresh(self) -> Tensor:
        """Return the probabilities that next tokens are drawn from where no draft was rejected, (N, V)."""
        ledger = self.ledger
        weights = warp(ledger.without_early_ends(self.log_probs[0]), ledger.warps, ledger.seen)
        return distribution(weights, ledger.warps)
