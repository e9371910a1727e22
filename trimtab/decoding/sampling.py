"""From the product's log-probabilities to a token: warping, then one uniform number a row.

The warps act after the product, in the order of the ``transformers`` library: repetition penalty, minimum length,
temperature, top-k, top-p, min-p. They act on log-probabilities, which a constant added to a factor's logits does not
change; the repetition penalty therefore always multiplies (``transformers`` divides logits that happen to be positive).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.transfer import to_device

_CHUNK = 256
"""Tokens a chunk of the two-step pick."""

_HEAD = 256
"""Likeliest tokens that a nucleus is first looked for in."""


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


@dataclass(frozen=True)
class Warps:
    """The sampling settings of N rows, a tensor each of shape (N,), on the CPU.

    Args:
        temperature: 0 for greedy rows.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repetition_penalty: 1 does nothing.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor

    @staticmethod
    def of(rows: Sequence[Sampling]) -> Warps:
        """Gather the settings of some rows."""
        return Warps(
            torch.tensor([row.temperature for row in rows]),
            torch.tensor([row.top_k for row in rows]),
            torch.tensor([row.top_p for row in rows]),
            torch.tensor([row.min_p for row in rows]),
            torch.tensor([row.repetition_penalty for row in rows]),
        )

    def select(self, index: Tensor) -> Warps:
        """Keep these rows, in this order."""
        return Warps(*(tensor[index] for tensor in self._tensors))

    def join(self, other: Warps) -> Warps:
        """Append rows."""
        return Warps(*(torch.cat(pair) for pair in zip(self._tensors, other._tensors, strict=True)))

    @cached_property
    def greedy(self) -> Tensor:
        """Which rows take the likeliest token, shape (N,)."""
        return self.temperature == 0

    @cached_property
    def all_greedy(self) -> bool:
        """Whether every row takes the likeliest token."""
        return bool(self.greedy.all())

    @cached_property
    def any_greedy(self) -> bool:
        """Whether some row takes the likeliest token."""
        return bool(self.greedy.any())

    @cached_property
    def penalised(self) -> bool:
        """Whether some row has a repetition penalty."""
        return bool((self.repetition_penalty != 1).any())

    @cached_property
    def plain(self) -> bool:
        """Whether no row warps its distribution."""
        tempered = (self.temperature != 1) & ~self.greedy
        return not (self.penalised or bool(tempered.any()) or self._cuts)

    @cached_property
    def _cuts(self) -> bool:
        return bool((self.top_k > 0).any() or (self.top_p < 1).any() or (self.min_p > 0).any())

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty


def warp(log_probs: Tensor, warps: Warps, seen: Tensor | None = None) -> Tensor:
    """Apply penalty, temperature, top-k, top-p and min-p.

    Args:
        log_probs: of the product, in nats, shape (N, V).
        warps: the settings of the rows.
        seen: which tokens the rows already hold, shape (N, V); needed for a repetition penalty.

    Returns:
        Unnormalised log-weights, -inf where a token was cut, shape (N, V); temperature 0 is left to the pick.
    """
    if warps.plain:
        return log_probs
    weights = log_probs
    per_row = [to_device(tensor, log_probs.device)[:, None] for tensor in warps._tensors]
    temperature, top_k, top_p, min_p, penalty = per_row
    if warps.penalised and seen is not None:
        weights = torch.where(seen, weights * penalty, weights)
    weights = weights / torch.where(temperature == 0, 1.0, temperature)
    if bool((warps.top_k > 0).any()):
        weights = weights.masked_fill(weights < _kth(weights, warps.top_k, top_k), -torch.inf)
    if bool((warps.top_p < 1).any()):
        weights = weights.masked_fill(~nucleus(weights.log_softmax(-1), top_p), -torch.inf)
    if bool((warps.min_p > 0).any()):
        weights = weights.masked_fill(weights < weights.amax(-1, keepdim=True) + min_p.log(), -torch.inf)
    return weights


def nucleus(log_probs: Tensor, top_p: Tensor | float) -> Tensor:
    """Return which tokens are in the smallest set of likeliest tokens with at least ``top_p`` probability.

    Args:
        log_probs: normalised, in nats, shape (N, V).
        top_p: probability the set must reach, a number or of shape (N, 1); 1 and above keeps all.

    Returns:
        A mask of shape (N, V); the likeliest token is always in it, and of equally likely ones those with the lowest
        ids.
    """
    # Sorting 50,000 tokens is the slowest part of a step, and a nucleus rarely needs more than the first few hundred.
    # Looking whether it does would wait for the device, so GPUs, which sort fast, always sort.
    share = torch.as_tensor(top_p, device=log_probs.device).expand(len(log_probs), 1)
    mask = torch.zeros_like(log_probs, dtype=torch.bool)
    if log_probs.device.type != "cpu" or log_probs.shape[-1] <= _HEAD:
        values, order = log_probs.sort(dim=-1, descending=True, stable=True)
        return mask.scatter(-1, order, _leading(values, share)) | (share >= 1)
    values, order = log_probs.topk(_HEAD, dim=-1, sorted=False)
    order, places = order.sort(dim=-1)
    values, places = values.gather(-1, places).sort(dim=-1, descending=True, stable=True)
    leading = _leading(values, share)
    mask = mask.scatter(-1, order.gather(-1, places), leading)
    # Where the least likely of these is in it, or as likely as one that is, tokens that are not among these may be too.
    least = values.gather(-1, leading.sum(-1, keepdim=True).sub(1).clamp(min=0))
    further = torch.nonzero(((least <= values[:, -1:]) & (share < 1)).squeeze(-1)).flatten()
    if len(further):  # row by row, so that a row's nucleus is the same whoever else is there
        values, order = log_probs[further].sort(dim=-1, descending=True, stable=True)
        mask[further] = torch.zeros_like(mask[further]).scatter(-1, order, _leading(values, share[further]))
    return mask | (share >= 1)


def _leading(values: Tensor, share: Tensor) -> Tensor:
    """Return which of some log-probabilities in falling order come before the given share of probability is reached."""
    probs = values.exp()
    return probs.cumsum(-1) - probs < share


def pick(probs: Tensor, draws: Tensor) -> Tensor:
    """Pick a token for every row by inverting its cumulative distribution.

    Args:
        probs: probabilities up to a factor a row, shape (N, V).
        draws: one number in [0, 1) a row, shape (N,), float64.

    Returns:
        Token ids, shape (N,); never one with probability 0.
    """
    # Two steps, first to a chunk and then inside it: one pass over the vocabulary instead of a cumulative sum.
    chunks = _pad(probs).view(len(probs), -1, _CHUNK)
    cumulative = chunks.sum(-1, dtype=torch.float64).cumsum(-1)
    targets = draws.unsqueeze(-1) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[1] - 1)
    before = torch.where(place > 0, cumulative.gather(1, (place - 1).clamp(min=0)), 0.0)
    inside = chunks[torch.arange(len(probs), device=probs.device), place.squeeze(1)].cumsum(-1, dtype=torch.float64)
    last = inside[:, -1:] * (1 - 2.0**-50)  # the two sums of a chunk may differ in their last bit
    offset = torch.searchsorted(inside, torch.minimum((targets - before).clamp(min=0), last), right=True)
    # NaN sends the search past the end.
    return (place * _CHUNK + offset).squeeze(1).clamp(max=probs.shape[-1] - 1)


def choose(weights: Tensor, warps: Warps, draws: Tensor, probs: Tensor | None = None) -> Tensor:
    """Pick a token for every row: the likeliest in greedy rows, a random one in others.

    Args:
        weights: log-weights of :func:`warp`, shape (N, V).
        warps: the settings of the rows.
        draws: one number in [0, 1) a row, shape (N,), float64.
        probs: what the weights stand for, (N, V), where the caller has it already.

    Returns:
        Token ids, shape (N,).
    """
    if warps.all_greedy:
        return weights.argmax(-1)
    sampled = pick(weights.softmax(-1) if probs is None else probs, draws)
    if not warps.any_greedy:
        return sampled
    return torch.where(to_device(warps.greedy, weights.device), weights.argmax(-1), sampled)


def distribution(weights: Tensor, warps: Warps) -> Tensor:
    """Return what :func:`choose` draws from: probabilities, all on the likeliest token in greedy rows; (N, V)."""
    probs = weights.softmax(-1)
    if not warps.any_greedy:
        return probs
    best, place = weights.max(-1, keepdim=True)
    # Nothing is likeliest where nothing is possible, or where the row is NaN.
    likeliest = torch.zeros_like(probs).scatter(-1, place, best.isfinite().to(probs.dtype))
    return torch.where(to_device(warps.greedy, weights.device)[:, None], likeliest, probs)


def _kth(weights: Tensor, wanted: Tensor, k: Tensor) -> Tensor:
    """Return the k-th largest weight of each row, -inf where k is 0; shape (N, 1)."""
    largest = weights.topk(min(int(wanted.max()), weights.shape[-1]), dim=-1).values
    kth = largest.gather(-1, (k.long() - 1).clamp(0, largest.shape[-1] - 1))
    return torch.where(k > 0, kth, -torch.inf)


def _pad(probs: Tensor) -> Tensor:
    """Add tokens of probability 0 up to whole chunks."""
    extra = -probs.shape[-1] % _CHUNK
    return torch.nn.functional.pad(probs, (0, extra)) if extra else probs.contiguous()


def uniforms(seed: int, prompt: Sequence[int], occurrence: int, answer: int, count: int) -> Tensor:
    """Draw the random numbers of one row, which depend on the request alone and never on the batch.

    Args:
        seed: of the request.
        prompt: its token ids.
        occurrence: how often the same prompt came before in this call.
        answer: which of the prompt's n answers this is.
        count: how many tokens they are for.

    Returns:
        Numbers in [0, 1), shape (count, 3), float64: to draw a token, to test a draft, to draw again where it failed.
    """
    key = seed_of(seed, prompt, occurrence, answer)
    streams = [np.random.Generator(np.random.Philox(each)).random(count) for each in (key, *key.spawn(2))]
    return torch.from_numpy(np.stack(streams, axis=1))


def seed_of(seed: int, prompt: Sequence[int], occurrence: int, answer: int) -> np.random.SeedSequence:
    """Return what all random numbers of one row are made from; :func:`uniforms` says what the arguments are."""
    # numpy mixes every word of a seed in turn, which would take milliseconds a row for long prompts.
    digest = hashlib.blake2b(np.asarray(prompt, dtype="<i8").tobytes(), digest_size=16).digest()
    return np.random.SeedSequence([seed & (2**64 - 1), occurrence, answer, int.from_bytes(digest, "little")])


def _require(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(given=f"{name}={value}", expected=expected, hint=f"change {name}")
