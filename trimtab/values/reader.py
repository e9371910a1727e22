"""Leaves that read what others have written, a chunk at a time: one forward for the new tokens of all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.advance import feed, prefill
from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.state import State
from trimtab.values.value import Chunk


@dataclass(frozen=True)
class Reader:
    """Where some leaves stand, and what they say about each row's next token.

    Args:
        state: of the leaves.
        ahead: each leaf's logits after all that the rows have been fed, (N, V).
    """

    state: State
    ahead: Mapping[Leaf, Tensor]

    @staticmethod
    def of(leaves: Sequence[Leaf], prompts: Sequence[Prompt]) -> Reader:
        """Feed prompts."""
        said, state = prefill(leaves, prompts, {})
        return Reader(state, {leaf: logits[:, -1] for leaf, logits in said.items()})

    def select(self, rows: Tensor) -> Reader:
        """Keep these rows, in this order; a row may appear several times."""
        ahead = {leaf: logits[rows.to(logits.device)] for leaf, logits in self.ahead.items()}
        return Reader(self.state.select(rows), ahead)

    def read(self, chunk: Chunk) -> tuple[dict[Leaf, Tensor], Reader]:
        """Feed a chunk.

        Returns:
            Each leaf's logits before each new token, (N, T, V), and the reader after each row's own last one.
        """
        said, state = feed(self.state, chunk.tokens)
        before, ahead = {}, {}
        for leaf, logits in said.items():
            known = torch.cat([self.ahead[leaf].unsqueeze(1), logits], 1)
            rows = torch.arange(len(known), device=known.device)
            before[leaf], ahead[leaf] = known[:, :-1], known[rows, chunk.counts.to(known.device)]
        return before, Reader(state.rollback(self.state.lengths + chunk.counts), ahead)


def taken(logits: Tensor, chunk: Chunk) -> Tensor:
    """Return the entries of each row's new tokens, 0 for fillers; logits (N, T, V) to (N, T)."""
    tokens = chunk.tokens.to(logits.device)
    places = torch.arange(tokens.shape[1], device=logits.device)
    new = places < chunk.counts.to(logits.device)[:, None]
    return logits.gather(2, tokens.unsqueeze(2)).squeeze(2).masked_fill(~new, 0.0)


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return the log-probabilities that logits (N, V) give to k tokens a row, (N, k), in nats."""
    return logits.gather(1, tokens.to(logits.device)) - logits.logsumexp(-1, keepdim=True)
