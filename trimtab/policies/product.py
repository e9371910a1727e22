"""Products of policies: the one place where the formula lives.

    pi(y | s) = exp( sum_i w_i log pi_i(y | s) ) / Z(s)

A product of products is one flat list of (factor, exponent); equal factors merge and a factor whose exponent is exactly
0 is not evaluated. A token is possible only if every factor with a positive exponent allows it; a factor with a
negative exponent never adds support: where it allows nothing its log-probability is floored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from trimtab.errors import PolicyError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Exponent, Knob, KnobValues, Scalar, declared_knobs
from trimtab.policies.partial import partial_leaves, refuse_partial
from trimtab.policies.transfer import to_device
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary

FLOOR = 50.0
"""How far under its row maximum, in nats, a factor with a negative exponent can push a token."""


@dataclass(frozen=True)
class Product(Policy):
    """A flat product of policies raised to exponents; build it with ``*``, ``/`` and ``**``.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.5, "b": 0.5}}, name="base")
        >>> guide = Table.of({"": {"a": 0.8, "b": 0.2}}, name="guide")
        >>> [round(p, 4) for p in (base * guide ** 2).next_log_probs(["a"]).exp()[0].tolist()]  # 16 : 1
        [0.9412, 0.0588]
    """

    factors: tuple[tuple[Policy, Exponent], ...]
    base: Policy

    @staticmethod
    def of(factors: Sequence[tuple[Policy, Scalar]]) -> Policy:
        """Multiply policies, flattening products and merging equal factors.

        Returns:
            The product, or the first policy itself where nothing else is left, so ``base * guide ** 0 == base``.

        Raises:
            VocabularyError: the policies speak different tokens.
            KnobError: an exponent is not finite, or one name stands for two knobs.
            UsageError: it divides by a policy that knows some tokens only.
        """
        flat: dict[Policy, Exponent] = {}
        for policy, outer in factors:
            inner = policy.factors if isinstance(policy, Product) else ((policy, Exponent.of(1.0)),)
            for factor, exponent in inner:
                flat[factor] = flat.get(factor, Exponent.of(0.0)) + exponent * Exponent.of(outer)
        reduce(common_vocabulary, (policy.vocabulary for policy, _ in factors))
        first = factors[0][0]
        base = first.base if isinstance(first, Product) else first
        kept = tuple((policy, exponent) for policy, exponent in flat.items() if exponent.terms)
        if kept == ((base, Exponent.of(1.0)),):
            return base
        for policy, exponent in kept:
            if exponent.constant is not None and exponent.constant < 0:
                refuse_partial(policy, "as a divisor")
        product = Product(kept, base)
        _ = product.knobs  # refuses two knobs of one name
        return product

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens its factors share."""
        return reduce(common_vocabulary, (policy.vocabulary for policy, _ in self.factors), self.base.vocabulary)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs of its exponents and of its factors."""
        return declared_knobs(knob for policy, exponent in self.factors for knob in (*exponent.knobs, *policy.knobs))

    @property
    def reference(self) -> Policy:
        """The untouched base: the reference of the leftmost factor."""
        return self.base.reference

    @property
    def cuts(self) -> bool:
        """Whether one of its factors does."""
        return any(policy.cuts for policy, _ in self.factors)

    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return the leaves of the factors whose exponent is not exactly 0 in every row."""
        needed = (policy.leaves(knobs) for policy, exponent in self.factors if not exponent.is_zero(knobs))
        return tuple(dict.fromkeys(leaf for leaves in needed for leaf in leaves))

    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Multiply and renormalise; what leaves say is not normalised first, because constants do not matter.

        Raises:
            PolicyError: every exponent is 0 in some row.
        """
        weighted = self._weighted(knobs)
        if _any_row_empty([exponent for _, exponent in weighted]):
            raise PolicyError(
                given=f"the product {self} with every exponent 0",
                expected="at least one factor with another exponent in every row",
                hint="keep the base's exponent away from 0 when the guides' are 0",
            )
        size = self.vocabulary.size
        policy, exponent = weighted[0]
        if len(weighted) == 1 and isinstance(exponent, float) and exponent == 1.0 and policy.vocabulary.size == size:
            return policy.combine(leaf_logits, knobs)  # bit for bit the factor itself
        scores = [(_scores(policy, leaf_logits, knobs)[..., :size], exponent) for policy, exponent in weighted]
        return _sum(scores).log_softmax(-1)

    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say which factor broke the product, or that their supports do not meet."""
        for policy, _ in self._weighted(knobs):
            said = _scores(policy, leaf_logits, knobs)
            if bool(torch.isnan(said).any()) or bool((said == torch.inf).any()):
                return policy.diagnose(leaf_logits, knobs) or PolicyError(
                    given=f"NaN or +inf from the factor {policy}",
                    expected="a log-probability for every token",
                    hint="check its weights and its dtype",
                )
        if not bool(torch.isnan(self.combine(leaf_logits, knobs)).any()):
            return None
        return PolicyError(
            given=f"factors of {self} that leave no possible token",
            expected="at least one token that every factor with a positive exponent allows",
            hint="widen the supports, for instance a larger top_p in within(...), or use smaller exponents",
        )

    def _weighted(self, knobs: KnobValues) -> list[tuple[Policy, Tensor | float]]:
        """Return the factors that some row needs, with their exponents: numbers, or tensors of shape (B,)."""
        kept = [(policy, exponent.values(knobs)) for policy, exponent in self.factors if not exponent.is_zero(knobs)]
        for policy, exponent in kept if self._partial else ():  # looking at exponents waits for the device
            if policy in self._partial and isinstance(exponent, Tensor) and bool((exponent < 0).any()):
                refuse_partial(policy, "as a divisor")
        return kept

    @cached_property
    def _partial(self) -> frozenset[Policy]:
        """The factors that know some tokens only, by which nothing can be divided."""
        return frozenset(policy for policy, _ in self.factors if partial_leaves(policy))

    def __str__(self) -> str:
        kept = [policy for policy, _ in self.factors]
        text = "" if kept[:1] == [self.base] else f"{self.base}^0"  # divided out, it is still what KL is measured from
        for policy, exponent in self.factors:
            inverse = exponent.constant is not None and exponent.constant < 0 and text != ""
            shown = -exponent if inverse else exponent
            simple = len(shown.terms) == 1 and "*" not in str(shown)
            text += (" / " if inverse else " * " if text else "") + str(policy)
            text += "" if shown.constant == 1.0 else f"^{shown}" if simple else f"^({shown})"
        return text


def _any_row_empty(exponents: Sequence[Tensor | float]) -> bool:
    """Return whether no factor is left in some row; a number here is never 0, tensors are of shape (B,)."""
    per_row = [exponent != 0 for exponent in exponents if isinstance(exponent, Tensor)]
    if len(per_row) < len(exponents):
        return False
    return not per_row or not bool(torch.stack(per_row).any(0).all())


def _scores(policy: Policy, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
    """Return a factor's log-probabilities, up to a constant a row; (B, T, V)."""
    return leaf_logits[policy] if isinstance(policy, Leaf) else policy.combine(leaf_logits, knobs)


def _sum(weighted: Sequence[tuple[Tensor, Tensor | float]]) -> Tensor:
    """Add weighted log-probabilities under the support rules; tensors (B, T, V), exponents numbers or (B,)."""
    total: Tensor | None = None
    for scores, exponent in weighted:
        if isinstance(exponent, float):
            if exponent < 0:
                scores = _floored(scores)
            if total is None:
                total = scores if exponent == 1.0 else scores * exponent
            else:
                total = torch.add(total, scores, alpha=exponent)
            continue
        negative, zero = bool((exponent < 0).any()), bool((exponent == 0).any())  # knobs are on the CPU
        weight = to_device(exponent, scores.device)[:, None, None]
        if zero:  # 0 * -inf would be NaN
            scores = torch.where(weight == 0, torch.zeros_like(scores), scores)
        if negative:
            scores = torch.where(weight < 0, _floored(scores), scores)
        total = scores * weight if total is None else torch.addcmul(total, scores, weight)
    assert total is not None
    return total


def _floored(scores: Tensor) -> Tensor:
    """Raise what is more than FLOOR nats under its row's maximum."""
    return torch.maximum(scores, scores.amax(-1, keepdim=True) - FLOOR)
