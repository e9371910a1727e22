"""Rollouts: answers sampled from the policy being trained, scored, as one typed value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.policies.base import Policy
from trimtab.rewards.reward import Reward
from trimtab.rewards.score import score
from trimtab.training.config import RolloutConfig


@dataclass(frozen=True)
class Rollout:
    """One scored answer.

    Args:
        prompt: token ids of the prompt.
        completion: token ids of the answer, end token included.
        log_probs: of the answer's tokens under the policy that sampled them, in nats.
        reward: its score.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    log_probs: tuple[float, ...]
    reward: float


@dataclass(frozen=True)
class Block:
    """Answers side by side: token ids and mask, both (B, T); masked tokens are 0."""

    tokens: Tensor
    mask: Tensor

    @staticmethod
    def of(completions: Sequence[Sequence[int]]) -> Block:
        """Align completions to the left."""
        width = max(len(completion) for completion in completions)
        tokens = torch.tensor([[*completion, *[0] * (width - len(completion))] for completion in completions])
        lengths = torch.tensor([len(completion) for completion in completions])
        return Block(tokens, torch.arange(width) < lengths[:, None])


def collect(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    reward: Reward,
    config: RolloutConfig,
    *,
    n: int,
    seed: int,
) -> list[Rollout]:
    """Sample n answers to every prompt and score them.

    Args:
        policy: what to sample from.
        rows: prompts, with the columns that the reward receives.
        reward: scores answers.
        config: lengths and sampling settings.
        n: answers a prompt.
        seed: of the sampling.

    Returns:
        ``n`` rollouts a prompt, next to each other, in the order of the prompts.

    Raises:
        RewardError: the reward raised or did not return one finite number an answer.
    """
    encoded = [tuple(policy.vocabulary.encode(row["prompt"])) for row in rows]
    requests = [Request(ids, n, occurrence=encoded[:i].count(ids)) for i, ids in enumerate(encoded)]
    # Not metered: the loss measures the KL of the same tokens.
    decoded = decode(policy, requests, settings_of(config, seed), metered=False)
    repeated = [row for row in rows for _ in range(n)]
    texts = [policy.vocabulary.decode(answer.tokens) for answer in decoded]
    rewards = score(reward, [row["prompt"] for row in repeated], texts, columns_of(repeated))
    return [
        Rollout(answer.request.prompt, tuple(answer.tokens), tuple(answer.log_probs), value)
        for answer, value in zip(decoded, rewards, strict=True)
    ]


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return all columns but the prompt, as rewards receive them; None where a row lacks one.

    Example:
        >>> columns_of([{"prompt": "A film", "topic": "x"}, {"prompt": "The film"}])
        {'topic': ['x', None]}
    """
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows] for name in names}


def settings_of(config: RolloutConfig, seed: int) -> Settings:
    """Return how answers are sampled in training."""
    return Settings(
        sampling=Sampling(temperature=config.temperature, top_p=config.top_p),
        min_new_tokens=config.min_new_tokens,
        max_new_tokens=config.max_new_tokens,
        seed=seed,
    )
