"""Mixtures of policies in probability space, where a product works in log space.

    pi(y | s)  is proportional to  max(0, sum_i a_i pi_i(y | s))

A weight may be negative: it takes probability away, and what falls below 0 is cut to 0. A mixture is a policy, so it
multiplies, nests and is decoded like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from trimtab.errors import ConfigError, PolicyError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Exponent, Knob, KnobValues, Scalar, declared_knobs
from trimtab.policies.partial import refuse_partial
from trimtab.policies.transfer import to_device
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary


@dataclass(frozen=True)
class Mixture(Policy):
    """A weighted sum of distributions, cut at 0 and renormalised; build it with :func:`mix`."""

    parts: tuple[tuple[Exponent, Policy], ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens its parts share."""
        return reduce(common_vocabulary, (policy.vocabulary for _, policy in self.parts))

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs of its weights and of its parts."""
        return declared_knobs(knob for weight, policy in self.parts for knob in (*weight.knobs, *policy.knobs))

    @property
    def reference(self) -> Policy:
        """The reference of its first part."""
        return self.parts[0][1].reference

    @property
    def cuts(self) -> bool:
        """Whether one of its parts does."""
        return any(policy.cuts for _, policy in self.parts)

    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return the leaves of the parts whose weight is not exactly 0 in every row."""
        needed = (policy.leaves(knobs) for weight, policy in self.parts if not weight.is_zero(knobs))
        return tuple(dict.fromkeys(leaf for leaves in needed for leaf in leaves))

    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Add, cut at 0 and renormalise.

        Raises:
            PolicyError: every weight is 0 in every row.
        """
        weighted = self._weighted(knobs)
        if not weighted:
            raise self._nothing_left()
        size = self.vocabulary.size
        policy, weight = weighted[0]
        positive = bool((torch.as_tensor(weight) > 0).all())  # knobs are on the CPU
        if len(weighted) == 1 and positive and policy.vocabulary.size == size:
            return policy.combine(leaf_logits, knobs)  # bit for bit the part itself
        parts = [(policy.combine(leaf_logits, knobs)[..., :size], weight) for policy, weight in weighted]
        return _log_of_sum(parts).log_softmax(-1)

    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say which part is broken, or that nothing is left."""
        for policy, _ in self._weighted(knobs):
            if (error := policy.diagnose(leaf_logits, knobs)) is not None:
                return error
        return self._nothing_left() if bool(torch.isnan(self.combine(leaf_logits, knobs)).any()) else None

    def _weighted(self, knobs: KnobValues) -> list[tuple[Policy, Tensor | float]]:
        """Return the parts that some row needs, with their weights: numbers, or tensors of shape (B,)."""
        return [(policy, weight.values(knobs)) for weight, policy in self.parts if not weight.is_zero(knobs)]

    def _nothing_left(self) -> PolicyError:
        return PolicyError(
            given=f"{self}, where no token keeps a positive probability in some row",
            expected="a sum that is positive for at least one token",
            hint="raise the positive weights, or bring the negative ones closer to 0",
        )

    def __str__(self) -> str:
        return "mix(" + ", ".join(f"{weight}, {policy}" for weight, policy in self.parts) + ")"


def mix(*parts: tuple[Scalar, Policy]) -> Mixture:
    """Mix policies in probability space.

        pi(y | s)  is proportional to  max(0, sum_i a_i pi_i(y | s))

    Args:
        parts: (weight a_i, policy). A weight is a number or a knob, and may be negative. Equal policies merge.

    Returns:
        The mixture; its reference is that of the first policy.

    Raises:
        ConfigError: there are no parts.
        UsageError: a policy knows some tokens only.
        PolicyError: while decoding, when no token keeps a positive probability.
        VocabularyError: the policies speak different tokens.
        KnobError: a weight is not finite, or one name stands for two knobs.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> plain = Table.of({"": {"a": 0.5, "b": 0.4, "c": 0.1}}, name="plain")
        >>> toxic = Table.of({"": {"a": 0.1, "b": 0.5, "c": 0.4}}, name="toxic")
        >>> mix((2, plain), (-1, toxic)).next_log_probs(["a"]).exp()  # 0.9, 0.3, -0.2 -> 0, over 1.2
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    if not parts:
        raise ConfigError(
            given="mix() of nothing", expected="at least one (weight, policy)", hint="mix((0.5, a), (0.5, b))"
        )
    weights: dict[Policy, Exponent] = {}
    for weight, policy in parts:
        refuse_partial(policy, "in a mixture")
        weights[policy] = weights.get(policy, Exponent.of(0.0)) + Exponent.of(weight)
    mixture = Mixture(tuple((weight, policy) for policy, weight in weights.items()))
    _ = mixture.vocabulary, mixture.knobs  # refuses different tokens, and two knobs of one name
    return mixture


def _log_of_sum(weighted: Sequence[tuple[Tensor, Tensor | float]]) -> Tensor:
    """Return log max(0, sum_i a_i P_i) without underflow in the tail; tensors (B, T, V), weights numbers or (B,)."""
    largest = torch.stack([log_probs for log_probs, _ in weighted]).amax(0)
    shift = torch.where(largest == -torch.inf, torch.zeros_like(largest), largest)
    total = torch.zeros_like(shift)
    for log_probs, weight in weighted:
        if isinstance(weight, Tensor):
            weight = to_device(weight, log_probs.device)[:, None, None]
        total = total + weight * (log_probs - shift).exp()
    return total.clamp(min=0).log() + shift
