"""Rows that have been fed all they have: where the leaves stand, and what is said about each row's next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.advance import combine
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.state import State


@dataclass(frozen=True)
class Fed:
    """N rows and their next tokens' distributions.

    Args:
        state: where the leaves stand.
        log_probs: of the policy and, where it is metered, of the reference; each (N, V).
        said: what every leaf said last, each (N, V), to find out what broke a row.
        aside: where leaves stand that draft and are not the policy's.
    """

    state: State
    log_probs: tuple[Tensor, ...]
    said: Mapping[Leaf, Tensor]
    aside: State | None

    @staticmethod
    def of(policies: Sequence[Policy], said: Mapping[Leaf, Tensor], state: State, aside: State | None) -> Fed:
        """Combine what leaves said after a block, each (N, T, V); the last position counts."""
        last = {leaf: logits[:, -1:] for leaf, logits in said.items()}
        log_probs = combine(policies, last, state.knobs, check=False)
        squeezed = {leaf: logits[:, 0] for leaf, logits in last.items()}
        return Fed(state, tuple(each[:, 0] for each in log_probs), squeezed, aside)

    def select(self, index: Tensor) -> Fed:
        """Keep these rows, in this order; a row may appear several times."""
        if torch.equal(index, torch.arange(len(self.log_probs[0]))):
            return self
        there = index.to(self.log_probs[0].device)
        return Fed(
            self.state.select(index),
            tuple(each[there] for each in self.log_probs),
            {leaf: said[there] for leaf, said in self.said.items()},
            None if self.aside is None else self.aside.select(index),
        )

    def join(self, other: Fed) -> Fed:
        """Append rows."""
        return Fed(
            self.state.join(other.state),
            tuple(torch.cat(pair) for pair in zip(self.log_probs, other.log_probs, strict=True)),
            {leaf: torch.cat([said, other.said[leaf]]) for leaf, said in self.said.items()},
            None if self.aside is None or other.aside is None else self.aside.join(other.aside),
        )
