"""What one optimiser step learns from, and what it measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trimtab.training.losses import Coefficient
from trimtab.training.rollouts import Block, Rollout


@dataclass(frozen=True)
class Batch:
    """Answers to learn from.

    Args:
        rollouts: B answers.
        advantages: of each answer, shape (B,); unused by imitation.
        controls: control token of each answer, or None; equal ones are next to each other.
    """

    rollouts: tuple[Rollout, ...]
    advantages: Tensor
    controls: tuple[int | None, ...]

    def split(self, rows: int) -> Iterator[Batch]:
        """Cut into batches of at most this many rows."""
        for at in range(0, len(self.rollouts), rows):
            cut = slice(at, at + rows)
            yield Batch(self.rollouts[cut], self.advantages[cut], self.controls[cut])

    @property
    def block(self) -> Block:
        """The answers side by side."""
        return Block.of([rollout.completion for rollout in self.rollouts])

    @property
    def old_log_probs(self) -> Tensor:
        """Log-probabilities of the answers' tokens when they were sampled, (B, T)."""
        width = max(len(rollout.log_probs) for rollout in self.rollouts)
        rows = [[*rollout.log_probs, *[0.0] * (width - len(rollout.log_probs))] for rollout in self.rollouts]
        return torch.tensor(rows)


@dataclass(frozen=True)
class Coefficients:
    """The current weights of the KL and entropy terms."""

    kl: Coefficient
    entropy: Coefficient


class Algorithm(Protocol):
    """How rollouts become batches and batches become a loss; one loop trains with any of them."""

    def batches(self, number: int) -> list[Batch]:
        """Return the batches of a step, one for each optimiser update, sampling answers where it needs new ones."""
        ...

    def objective(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every token, (B, T), from the sampled tokens' log-probabilities, (B, T)."""
        ...

    def state(self) -> list[Rollout]:
        """Return the answers that a resumed run needs."""
        ...

    def restore(self, rollouts: list[Rollout]) -> None:
        """Take them back."""
        ...

    @property
    def latest(self) -> list[Rollout]:
        """The answers sampled last, for metrics."""
        ...
