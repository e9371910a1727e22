"""Cutting a policy's support: which tokens stay possible is decided by a policy, by default by the one that is cut.

Unlike the top-p of decoding, which acts after the product, a cut here is part of the policy and so of the formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from trimtab.errors import ConfigError, PolicyError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Knob, KnobValues, declared_knobs, number_text
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary


class Rule(Protocol):
    """Which tokens a distribution keeps."""

    def keeps(self, log_probs: Tensor) -> Tensor:
        """Return True where a token is kept; log-probabilities and result of shape (B, T, V)."""
        ...

    def write(self, inside: str, of: str) -> str:
        """Write the call that builds the cut; ``of`` is empty or starts with a comma."""
        ...


@dataclass(frozen=True)
class Nucleus:
    """Keep the smallest set of likeliest tokens with at least ``top_p`` probability; of equals, the lower id first."""

    top_p: float

    def keeps(self, log_probs: Tensor) -> Tensor:
        """Return True where a token is in the nucleus."""
        ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
        probs = ordered.exp()
        before = probs.cumsum(-1) - probs
        return torch.zeros_like(log_probs, dtype=torch.bool).scatter(-1, order, before < self.top_p)

    def write(self, inside: str, of: str) -> str:
        """Write the call that builds the cut."""
        return f"within({inside}, {number_text(self.top_p)}{of})"


@dataclass(frozen=True)
class Plausible:
    """Keep the tokens with at least ``alpha`` times the likeliest token's probability."""

    alpha: float

    def keeps(self, log_probs: Tensor) -> Tensor:
        """Return True where a token is plausible."""
        return log_probs >= log_probs.amax(-1, keepdim=True) + math.log(self.alpha)

    def write(self, inside: str, of: str) -> str:
        """Write the call that builds the cut."""
        return f"plausible({inside}, {number_text(self.alpha)}{of})"


@dataclass(frozen=True)
class Top:
    """Keep the k likeliest tokens; of equals, the lower id first."""

    k: int

    def keeps(self, log_probs: Tensor) -> Tensor:
        """Return True where a token is one of the k."""
        least = log_probs.topk(min(self.k, log_probs.shape[-1])).values[..., -1:]
        above, equal = log_probs > least, log_probs == least
        return above | (equal & (equal.cumsum(-1) <= self.k - above.sum(-1, keepdim=True)))

    def write(self, inside: str, of: str) -> str:
        """Write the call that builds the cut."""
        return f"top_k({inside}, {self.k}{of})"


@dataclass(frozen=True)
class Cut(Policy):
    """A policy without the tokens that a rule drops, renormalised; :func:`within` and its kin build it.

    Args:
        policy: what is cut.
        rule: which tokens a distribution keeps.
        other: the policy whose distribution the rule looks at; None where it is the one that is cut.
    """

    policy: Policy
    rule: Rule
    other: Policy | None = None

    @property
    def both(self) -> tuple[Policy, ...]:
        """The policy, and the other if there is one: each once, so that cuts of cuts stay cheap."""
        return (self.policy,) if self.other is None else (self.policy, self.other)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens both policies share."""
        return reduce(common_vocabulary, (policy.vocabulary for policy in self.both))

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs of both policies."""
        return declared_knobs(knob for policy in self.both for knob in policy.knobs)

    @property
    def reference(self) -> Policy:
        """The reference of the policy that is cut, itself uncut."""
        return self.policy.reference

    @property
    def cuts(self) -> bool:
        """It does."""
        return True

    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return the leaves of both policies."""
        return tuple(dict.fromkeys(leaf for policy in self.both for leaf in policy.leaves(knobs)))

    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Drop tokens and renormalise."""
        size = self.vocabulary.size
        log_probs = self.policy.combine(leaf_logits, knobs)[..., :size]
        judge = log_probs if self.other is None else self.other.combine(leaf_logits, knobs)[..., :size]
        return torch.where(self.rule.keeps(judge), log_probs, -torch.inf).log_softmax(-1)

    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say which policy is broken, or that nothing is left."""
        for policy in self.both:
            if (error := policy.diagnose(leaf_logits, knobs)) is not None:
                return error
        if not bool(torch.isnan(self.combine(leaf_logits, knobs)).any()):
            return None
        return PolicyError(
            given=f"{self}, which leaves no possible token",
            expected="at least one kept token that the policy allows",
            hint="widen the cut: a larger top_p or k, or a smaller alpha",
        )

    def __str__(self) -> str:
        of = "" if self.other is None else f", {self.other}"
        return self.rule.write(str(self.policy), of)


def within(policy: Policy, top_p: float, of: Policy | None = None) -> Policy:
    """Keep only the nucleus: the smallest set of likeliest tokens with at least ``top_p`` probability.

    Args:
        policy: what is cut.
        top_p: probability the nucleus holds at least, above 0 and at most 1; 1 keeps everything.
        of: whose nucleus; by default the policy's own.

    Returns:
        The policy, zero outside the nucleus and renormalised inside.

    Raises:
        ConfigError: ``top_p`` is out of its range.
        VocabularyError: the two policies speak different tokens.
        PolicyError: while decoding, when the policy allows none of the tokens kept.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.6, "b": 0.3, "c": 0.1}}, name="base")
        >>> within(base, 0.8).next_log_probs(["a"]).exp()  # a and b hold 0.9
        tensor([[0.6667, 0.3333, 0.0000]])

    Reference: Holtzman, Buys, Du, Forbes, Choi (2020), The Curious Case of Neural Text Degeneration; as a factor of a
    product, Liu et al. (2021), DExperts, where the base is cut at 0.9.
    """
    return _cut(policy, Nucleus(_share("top_p", top_p)), of, whole=top_p == 1)


def plausible(policy: Policy, alpha: float, of: Policy | None = None) -> Policy:
    """Keep only the plausible tokens: those with at least ``alpha`` times the likeliest token's probability.

    Args:
        policy: what is cut.
        alpha: share of the largest probability, above 0 and at most 1; 1 keeps the likeliest token alone.
        of: whose probabilities decide; by default the policy's own.

    Returns:
        The policy, zero on the other tokens and renormalised.

    Raises:
        ConfigError: ``alpha`` is out of its range.
        VocabularyError: the two policies speak different tokens.
        PolicyError: while decoding, when the policy allows none of the tokens kept.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> expert = Table.of({"": {"a": 0.6, "b": 0.36, "c": 0.04}}, name="expert")
        >>> plausible(expert, 0.1).next_log_probs(["a"]).exp()  # c is under 0.1 * 0.6
        tensor([[0.6250, 0.3750, 0.0000]])

    Reference: Li et al. (2023), Contrastive Decoding.
    """
    return _cut(policy, Plausible(_share("alpha", alpha)), of, whole=False)


def top_k(policy: Policy, k: int, of: Policy | None = None) -> Policy:
    """Keep only the k likeliest tokens: what a service that returns k log-probabilities a token lets one know.

        pi_k(y | s) = pi(y | s) / m(s) for the k likeliest y, and 0 for all others; m(s) is what those k hold together

    A product with it ranks those k tokens anew and adds none. The reference stays the uncut policy's, and the KL to it
    is known from the k tokens alone: of any policy on them it is the KL to ``pi_k`` plus ``-log m(s)``. Answers carry
    the mass the policy covers at each token (``Answer.covered``).

    Args:
        policy: what is cut.
        k: how many are kept, at least 1; as many as there are tokens, or more, keeps everything.
        of: whose likeliest tokens; by default the policy's own.

    Returns:
        The policy, zero on the other tokens and renormalised.

    Raises:
        ConfigError: ``k`` is no whole number of at least 1.
        VocabularyError: the two policies speak different tokens.
        PolicyError: while decoding, when the policy allows none of the tokens kept.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.6, "b": 0.2, "c": 0.2}}, name="base")
        >>> top_k(base, 2).next_log_probs(["a"]).exp()  # of the equals b and c, b comes first
        tensor([[0.7500, 0.2500, 0.0000]])
        >>> top_k(base, 2).generate("a", max_new_tokens=1, seed=0)[0].covered
        (0.8...,)

    Reference: Lu et al. (2023), Inference-Time Policy Adapters, whose GPT-3 gives 100 tokens. There all others get a
    logit of -50000; here they are impossible.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(given=f"k={k!r}", expected="a whole number of at least 1", hint="services give 20 or 100")
    return _cut(policy, Top(k), of, whole=k >= policy.vocabulary.size)


def _cut(policy: Policy, rule: Rule, of: Policy | None, *, whole: bool) -> Policy:
    """Build a cut, after checking that the policies fit together; a cut that keeps the whole is the policy itself."""
    cut = Cut(policy, rule, None if of == policy else of)
    _ = cut.vocabulary, cut.knobs
    return policy if whole else cut


def _share(name: str, value: float) -> float:
    """Return a share, or refuse it."""
    if not 0 < value <= 1:
        raise ConfigError(
            given=f"{name}={value}", expected="a number above 0 and at most 1", hint="0.9 and 0.1 are common"
        )
    return float(value)
