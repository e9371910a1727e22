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

_AT_ONCE = 16
"""Rows whose log-probabilities over the vocabulary are made together."""


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

    def read(self, chunk: Chunk, *, normalised: bool) -> tuple[dict[Leaf, Tensor], Reader]:
        """Feed a chunk.

        Args:
            chunk: the new tokens.
            normalised: whether log-probabilities are wanted, or logits as they are.

        Returns:
            What each leaf said of each new token, (N, T), 0 for fillers, and the reader after each row's own last one.
        """
        said, state = feed(self.state, chunk.tokens)
        entries, ahead = {}, {}
        for leaf, logits in said.items():
            tokens, counts = chunk.tokens.to(logits.device), chunk.counts.to(logits.device)
            # What is said of a token was said before it: of the first one after the chunk before.
            before = zip(tokens.unbind(1), (self.ahead[leaf], *logits[:, :-1].unbind(1)), strict=False)
            taken = [_entries(column[:, None], heard, normalised=normalised) for column, heard in before]
            new = torch.arange(tokens.shape[1], device=counts.device) < counts[:, None]
            entries[leaf] = torch.cat([*taken, logits.new_zeros((len(tokens), 0))], 1).masked_fill(~new, 0.0)
            ahead[leaf] = self._after(leaf, logits, counts)
        return entries, Reader(state.rollback(self.state.lengths + chunk.counts), ahead)

    def _after(self, leaf: Leaf, logits: Tensor, counts: Tensor) -> Tensor:
        """Return a leaf's logits after each row's last new token, or those from before where a row has none."""
        if not logits.shape[1]:
            return self.ahead[leaf]
        newest = logits[torch.arange(len(logits), device=logits.device), (counts - 1).clamp(min=0)]
        idle = counts == 0
        return torch.where(idle[:, None], self.ahead[leaf], newest) if bool(idle.any()) else newest


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return the log-probabilities that logits (N, V) give to k tokens a row, (N, k), in nats."""
    return _entries(tokens, logits, normalised=True)


def _entries(tokens: Tensor, logits: Tensor, *, normalised: bool) -> Tensor:
    """Return the entries of k tokens a row, (N, k), of logits, (N, V), or of their log-probabilities."""
    tokens = tokens.to(logits.device)
    if not normalised:
        return logits.gather(1, tokens)
    if logits.device.type != "cpu":
        return logits.log_softmax(-1).gather(1, tokens)
    # A few rows at a time: what large temporaries cost on a CPU is memory, not arithmetic.
    parts = zip(torch.split(logits, _AT_ONCE), torch.split(tokens, _AT_ONCE), strict=True)
    return torch.cat([rows.log_softmax(-1).gather(1, own) for rows, own in parts])
