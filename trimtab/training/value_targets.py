"""What the prefixes of an answer are regressed on, given the reward of the whole."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(values: Tensor, rewards: Tensor, lengths: Tensor, decay: float) -> Tensor:
    """Return the targets of TD(lambda): ``G_t = (1 - lambda) V_{t+1} + lambda G_{t+1}``, and ``G_T`` is the reward.

    ``lambda = 1`` is the reward at every prefix (FUDGE, Monte Carlo); 0 is the value of the next prefix.

    Args:
        values: of the prefixes that end with each token, (B, T), without gradient.
        rewards: of the answers, (B,).
        lengths: of the answers in tokens, (B,).
        decay: lambda.

    Returns:
        Targets, (B, T); what stands past an answer's end is its reward.

    Example:
        >>> values = torch.tensor([[0.0, 0.5, 0.25]])
        >>> lambda_returns(values, torch.tensor([1.0]), torch.tensor([3]), 0.5)  # G_2 = .125 + .5, G_1 = .25 + .3125
        tensor([[0.5625, 0.6250, 1.0000]])

    Reference: Sutton (1988), Learning to Predict by the Methods of Temporal Differences; for decoding Han et al.
    (2024), Value Augmented Sampling.
    """
    width = values.shape[1]
    target = rewards
    targets = [rewards.expand_as(rewards)] * width
    for place in range(width - 1, -1, -1):
        last = place >= lengths - 1
        following = values[:, min(place + 1, width - 1)]
        target = torch.where(last, rewards, (1 - decay) * following + decay * target)
        targets[place] = target
    return torch.stack(targets, 1)


def expected_values(values: Tensor, log_probs: Tensor) -> Tensor:
    """Return ``sum_y pi(y | s) V(s, y)``: what a prefix is worth before its next token is known.

    Args:
        values: of every next token, (..., V).
        log_probs: of every next token, in nats, (..., V).

    Example:
        >>> expected_values(torch.tensor([1.0, 3.0]), torch.tensor([0.75, 0.25]).log())
        tensor(1.5000)

    Reference: Mudgal et al. (2024), Controlled Decoding: the Bellman target of CD-Q.
    """
    return (values * log_probs.exp()).sum(-1)
