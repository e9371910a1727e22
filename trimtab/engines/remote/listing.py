"""Which tokens a bias names when it may not name all, and what it says of them. Pure tensors; it knows no endpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 100.0
"""A bias is from -100 to 100."""

_SPREAD = 1e-3
"""Probability that is spread over all tokens, since the base may say what none of the models here would."""


@dataclass(frozen=True)
class Listing:
    """The bias for one token.

    Args:
        bias: token id to what is added to its logit.
        share: of the steering that is listed, from 0 to 1.
    """

    bias: dict[int, float]
    share: float


def list_biases(steering: Tensor, likely: Tensor, count: int) -> list[Listing]:
    """Name the tokens whose bias matters most, so that the base times the bias comes near the base times the steering.

        bias(y) = r(y) - c for the tokens that are named, and 0 for all others, which are as if r(y) = c

    With q for where the base may be, steering token y moves ``q(y) |exp r(y) - exp c|`` of probability, up to a
    constant: those that move the most are named. ``exp c`` is the mean of ``exp r`` under q over the tokens that are
    not named, so that the named and the others have the right shares. The log-ratio alone would name tokens that nobody
    ever says.

    Args:
        steering: r, what steers, as log-weights up to a constant a row, shape (N, V), -inf where it allows nothing.
        likely: probabilities of the next token under the models that run here, averaged: a stand-in for the base, which
            is not known, shape (N, V).
        count: tokens that may be named, m.

    Returns:
        One a row. ``share`` is the part of the steered probability, measured with the stand-in, that is named.

    Example:
        >>> even = torch.full((1, 4), 0.25)
        >>> steering = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> (listing,) = list_biases(steering, even, 1)
        >>> {token: round(bias, 6) for token, bias in listing.bias.items()}, round(listing.share, 6)
        ({0: 1.0}, 1.0)
    """
    size = steering.shape[-1]
    log_likely = ((1 - _SPREAD) * likely.double() + _SPREAD / size).log()
    weights = log_likely + steering.double()
    everything = weights.logsumexp(-1, keepdim=True)
    steered, plain = (weights - everything).exp(), log_likely.exp()
    named = torch.ones_like(steered, dtype=torch.bool)
    level = torch.zeros_like(everything)  # c, less the log-mean of exp r over all tokens
    if count < size:
        for _ in range(2):  # the second time with the level of those that the first left out
            named = _largest((steered - plain * level.exp()).abs(), count)
            rest = (steered.masked_fill(named, 0.0).sum(-1, True) / plain.masked_fill(named, 0.0).sum(-1, True)).log()
            level = rest.clamp(min=-MOST / 2)  # a bias that forbids all others has no room for more
    effect = (steered - plain * level.exp()).abs()
    total, listed = effect.sum(-1), effect.masked_fill(~named, 0.0).sum(-1)
    shares = torch.where(total > 0, listed / total, 1.0)
    biases = (steering.double() - everything - level).clamp(-MOST, MOST)
    return [
        Listing({int(i): float(row[i]) for i in torch.nonzero(chosen).flatten().tolist()}, float(share))
        for row, chosen, share in zip(biases, named, shares, strict=True)
    ]


def _largest(effect: Tensor, count: int) -> Tensor:
    """Return which entries of each row are the largest, (N, V)."""
    places = effect.topk(count, dim=-1).indices
    return torch.zeros_like(effect, dtype=torch.bool).scatter(-1, places, True)
