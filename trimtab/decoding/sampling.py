"""From the product's log-probabilities to a token: warping, then one uniform number a row.

The warps act after the product, in the order of the ``transformers`` library: repetition penalty, minimum length,
temperature, top-k, top-p, min-p. They act on log-probabilities, which a constant added to a factor's logits does not
change; the repetition penalty therefore always multiplies (``transformers`` divides logits that happen to be positive).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How a token is picked from a distribution.

    Args:
        temperature: divides the log-probabilities; 0 picks the likeliest token.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens with at least this much probability.
        min_p: keep tokens with at least this share of the likeliest token's probability.
        repetition_penalty: multiplies the log-probability of tokens already in the row; 1 does nothing.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> Sampling(top_p=1.5)
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: top_p=1.5
        ...
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, 0.0 <= self.temperature < math.inf, "a number of at least 0")
        _require("top_k", self.top_k, self.top_k >= 0, "0 (keep all) or a positive number of tokens")
        _require("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "a number above 0 and at most 1")
        _require("min_p", self.min_p, 0.0 <= self.min_p < 1.0, "a number from 0 up to but not including 1")
        penalty = self.repetition_penalty
        _require("repetition_penalty", penalty, 0.0 < penalty < math.inf, "a number above 0; 1 does nothing")


def warp(log_probs: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Apply penalty, temperature, top-k, top-p and min-p.

    Args:
        log_probs: of the product, in nats, shape (B, V).
        sampling: the settings.
        seen: which tokens the row already holds, shape (B, V); needed for a repetition penalty.

    Returns:
        Unnormalised log-weights, -inf where a token was cut, shape (B, V).
    """
    weights = log_probs
    if sampling.repetition_penalty != 1.0 and seen is not None:
        weights = torch.where(seen, weights * sampling.repetition_penalty, weights)
    if sampling.temperature not in (0.0, 1.0):
        weights = weights / sampling.temperature
    if sampling.top_k:
        kth = weights.topk(min(sampling.top_k, weights.shape[-1]), dim=-1).values[..., -1:]
        weights = weights.masked_fill(weights < kth, -torch.inf)
    if sampling.top_p < 1.0:
        weights = weights.masked_fill(~nucleus(weights.log_softmax(-1), sampling.top_p), -torch.inf)
    if sampling.min_p > 0.0:
        least = weights.amax(-1, keepdim=True) + math.log(sampling.min_p)
        weights = weights.masked_fill(weights < least, -torch.inf)
    return weights


def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Return which tokens are in the smallest set of likeliest tokens with at least ``top_p`` probability.

    Args:
        log_probs: normalised, in nats, shape (..., V).
        top_p: probability the set must reach.

    Returns:
        A mask of shape (..., V); the likeliest token is always in it.
    """
    # Sorting 50,000 tokens is the slowest part of a step, and a nucleus rarely needs more than the first thousand.
    head = min(1024, log_probs.shape[-1])
    values, order = log_probs.topk(head, dim=-1)
    if bool((values.exp().sum(-1) < top_p).any()):
        values, order = log_probs.sort(dim=-1, descending=True)
    before = values.exp().cumsum(-1) - values.exp()
    mask = torch.zeros_like(log_probs, dtype=torch.bool)
    return mask.scatter(-1, order, before < top_p)


def pick(weights: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """Pick a token for every row: the likeliest at temperature 0, else by inverting the cumulative distribution.

    Args:
        weights: unnormalised log-weights, shape (B, V).
        uniforms: one number in [0, 1) a row, shape (B,).
        temperature: only whether it is 0 matters here.

    Returns:
        Token ids, shape (B,).
    """
    if temperature == 0.0:
        return weights.argmax(-1)
    probs = (weights - weights.amax(-1, keepdim=True)).exp()
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    targets = uniforms.to(cumulative.device).unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    return tokens.clamp(max=weights.shape[-1] - 1)


def uniforms(seed: int, prompt: Sequence[int], occurrence: int, answer: int, count: int) -> Tensor:
    """Draw the random numbers of one row, which depend on the request alone and never on the batch.

    Args:
        seed: of the request.
        prompt: its token ids.
        occurrence: how often the same prompt came before in this call.
        answer: which of the prompt's n answers this is.
        count: how many numbers, one a token.

    Returns:
        Numbers in [0, 1), shape (count,), float64.
    """
    key = np.random.SeedSequence([seed & (2**64 - 1), occurrence, answer, *prompt])
    return torch.from_numpy(np.random.Generator(np.random.Philox(key)).random(count))


def _require(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(given=f"{name}={value}", expected=expected, hint=f"change {name}")
