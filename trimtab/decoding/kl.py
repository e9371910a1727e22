"""The exact KL divergence of one next-token distribution from another."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_kl(log_probs: Tensor, reference_log_probs: Tensor, probs: Tensor | None = None) -> Tensor:
    """Return KL(policy || reference) = sum_y pi(y) (log pi(y) - log pi_ref(y)) over the last axis, in nats.

    Args:
        log_probs: of the policy, (..., V).
        reference_log_probs: of the reference, (..., V).
        probs: the policy's probabilities, (..., V), where the caller has it already.

    Example:
        >>> half = torch.tensor([0.5, 0.5]).log()
        >>> round(exact_kl(torch.tensor([0.9, 0.1]).log(), half).item(), 4)  # .9 ln 1.8 + .1 ln .2
        0.3681
    """
    # Not exp(): where probabilities are below 1e-38, and steered ones often are, it is up to twenty times slower.
    probs = log_probs.softmax(-1) if probs is None else probs
    gap = (log_probs - reference_log_probs).masked_fill(probs == 0, 0.0)
    kl: Tensor = torch.linalg.vecdot(probs, gap)
    return kl
