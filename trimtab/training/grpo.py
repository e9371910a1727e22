"""GRPO: group-relative policy optimisation of the tailored policy (Shao et al. 2024, arXiv 2402.03300).

Deviations: the KL term is the exact full-vocabulary KL(tailored || base) rather than a sampled estimate; with one epoch
the ratio is 1 and clipping never acts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.rewards.reward import Reward
from trimtab.training.batch import Batch
from trimtab.training.config import GRPOConfig, RolloutConfig
from trimtab.training.losses import clipped_objective, group_advantages
from trimtab.training.rollouts import Rollout, collect
from trimtab.training.trainee import Trainee


class GRPO:
    """Samples groups of answers and reinforces those that beat their group.

    Args:
        trainee: what is trained.
        rows: training prompts with their columns.
        reward: scores answers.
        config: of the algorithm.
        rollout: how answers are sampled.
        seed: of everything random; step n depends on (seed, n) alone, so a resumed run goes on as it would have.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: Sequence[dict[str, Any]],
        reward: Reward,
        config: GRPOConfig,
        rollout: RolloutConfig,
        seed: int,
    ) -> None:
        self._trainee, self._rows, self._reward = trainee, rows, reward
        self._config, self._rollout, self._seed = config, rollout, seed
        self._latest: list[Rollout] = []

    def batches(self, number: int) -> list[Batch]:
        """Sample a fresh group of answers for each of the step's prompts."""
        order = random.Random(f"{self._seed} {number}")
        rows = order.sample(self._rows, min(self._config.prompts, len(self._rows)))
        self._latest = collect(
            self._trainee.policy(),
            rows,
            self._reward,
            self._rollout,
            n=self._config.answers,
            seed=order.getrandbits(63),
        )
        rewards = torch.tensor([rollout.reward for rollout in self._latest])
        advantages = group_advantages(rewards, self._config.answers)
        batch = Batch(tuple(self._latest), advantages, (None,) * len(self._latest))
        return [batch] * self._config.epochs

    def objective(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """Return the clipped policy-gradient loss of every token, (B, T)."""
        device = log_probs.device
        return clipped_objective(
            log_probs, batch.old_log_probs.to(device), batch.advantages.to(device), self._config.clip
        )

    def state(self) -> list[Rollout]:
        """Return nothing: every step samples anew."""
        return []

    def restore(self, rollouts: list[Rollout]) -> None:
        """Take nothing back."""

    @property
    def latest(self) -> list[Rollout]:
        """The answers sampled last."""
        return self._latest
