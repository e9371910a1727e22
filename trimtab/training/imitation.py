"""What distillation shares: answers that a policy wrote, its distributions at their tokens, and the KL there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.decoding.generate import requests_of
from trimtab.decoding.kl import exact_kl
from trimtab.decoding.pool import decode
from trimtab.decoding.queue import check_lengths
from trimtab.policies.advance import every_leaf, init, step
from trimtab.policies.base import Policy
from trimtab.training.config import RolloutConfig
from trimtab.training.rollouts import Block, settings_of


@dataclass(frozen=True)
class Written:
    """Token ids of a prompt and of what the policy wrote after it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def write_answers(
    policy: Policy, rows: Sequence[dict[str, Any]], rollout: RolloutConfig, *, n: int, seed: int
) -> list[Written]:
    """Let a policy answer prompts.

    Args:
        policy: who writes.
        rows: the prompts.
        rollout: how answers are sampled.
        n: answers a prompt.
        seed: of the sampling.

    Returns:
        ``n`` answers a prompt, next to each other.

    Raises:
        PromptError: a prompt leaves no room for an answer.
    """
    requests = requests_of(policy.vocabulary, [row["prompt"] for row in rows], n, None)
    check_lengths(every_leaf([policy]), [each.prompt for each in requests], rollout.max_new_tokens)
    decoded = decode(policy, requests, settings_of(rollout, seed), metered=False)
    return [Written(row.request.prompt, tuple(row.tokens)) for row in decoded]


def at_answers(policy: Policy, written: Sequence[Written]) -> Tensor:
    """Return a policy's log-probabilities of all tokens before each token of answers, (B, T, V)."""
    block = Block.of([each.answer for each in written]).tokens
    (first,), state = init([policy], [each.prompt for each in written])
    (rest,), _ = step([policy], state, block[:, :-1])
    return torch.cat([first[:, None], rest], 1)


def teaching(policy: Policy, written: Sequence[Written], device: torch.device) -> Tensor:
    """Return the same of who is imitated: without gradient, and in its own precision whatever that of the learner."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return at_answers(policy, written).to(device)


def kl_at_answers(wanted: Tensor, said: Tensor, mask: Tensor) -> Tensor:
    """Return KL(who is imitated || learner), 0 where there is no token, (B, T); of tokens that both know."""
    size = min(wanted.shape[-1], said.shape[-1])
    with torch.autocast(said.device.type, enabled=False):  # differences of nearly equal numbers
        return exact_kl(wanted[..., :size], said[..., :size].float()).masked_fill(~mask, 0.0)


@torch.no_grad()
def mean_kl(kl: Callable[[Sequence[Written]], tuple[Tensor, Tensor]], written: Sequence[Written], rows: int) -> float:
    """Return the mean over all tokens of answers.

    Args:
        kl: gives it for a few answers, and which are tokens; both (B, T).
        written: the answers.
        rows: answers a forward pass.
    """
    total, tokens = 0.0, 0
    for at in range(0, len(written), rows):
        found, mask = kl(written[at : at + rows])
        total, tokens = total + float(found.sum()), tokens + int(mask.sum())
    return total / tokens
