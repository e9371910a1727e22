"""The rows that are being decoded: their books, where they stand, and what a block of drafts has left open."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.decoding.fed import Fed
from trimtab.decoding.ledger import Ledger
from trimtab.decoding.sampling import distribution
from trimtab.policies.advance import feed


@dataclass(frozen=True)
class Running:
    """N rows.

    Args:
        ledger: the rows' books.
        fed: where they stand.
        behind: the tokens that leaves which draft and are not the policy's have not been fed yet, (N, T).
        pending: probabilities up to a factor a row to pick from instead of the policy's own, (N, V), after a block of
            drafts; None otherwise.
        redrawn: in which rows ``pending`` is what is left after a rejected draft, (N,).
    """

    ledger: Ledger
    fed: Fed
    behind: Tensor
    pending: Tensor | None = None
    redrawn: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ledger)

    def select(self, index: Tensor) -> Running:
        """Keep these rows, in this order."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        there = index.to(self.behind.device)
        return Running(
            self.ledger.select(index),
            self.fed.select(index),
            self.behind[there],
            None if self.pending is None else self.pending[there],
            None if self.redrawn is None else self.redrawn[there],
        )

    def join(self, other: Running) -> Running:
        """Append new rows, which have no pending distribution and nothing to catch up with."""
        fed, pending, redrawn = self.fed, self.pending, self.redrawn
        if fed.aside is not None and self.behind.shape[1]:
            fed = replace(fed, aside=feed(fed.aside, self.behind)[1])
        if pending is not None and redrawn is not None:
            pending = torch.cat([pending, other.fresh()])
            redrawn = torch.cat([redrawn, torch.zeros(len(other), dtype=torch.bool, device=redrawn.device)])
        ledger = self.ledger.join(other.ledger, fed.log_probs[0].shape[-1])
        nothing = self.behind.new_zeros((len(ledger), 0))
        return Running(ledger, fed.join(other.fed), nothing, pending, redrawn)

    def fresh(self) -> Tensor:
        """Return the probabilities that next tokens are drawn from where no draft was rejected, (N, V)."""
        return distribution(self.ledger.weights(self.fed.log_probs[0]), self.ledger.warps)
