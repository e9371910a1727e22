"""What each factor of a policy adds to the log-probability of a token, up to the step's normaliser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Exponent, KnobValues
from trimtab.policies.product import FLOOR, Product


def parts(policy: Policy) -> tuple[tuple[Policy, Exponent], ...]:
    """Return the factors of a policy with their exponents; a policy that is no product is its own only factor.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base, guide = Table.random(3, seed=0, name="base"), Table.random(3, seed=1, name="guide")
        >>> [(str(factor), str(exponent)) for factor, exponent in parts(base * guide**2)]
        [('base', '1'), ('guide', '2')]
    """
    return policy.factors if isinstance(policy, Product) else ((policy, Exponent.of(1.0)),)


def contributions(
    policy: Policy, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues, tokens: Tensor
) -> dict[str, Tensor]:
    """Return what every factor adds to the log-probabilities of some tokens.

    For the factor i of a product it is w_i log pi_i(y | s), in nats. Over the factors of a row these sum to
    log pi(y | s) + log Z(s), where Z is the step's normaliser.

    Args:
        policy: whose factors.
        leaf_logits: for each leaf what it said, shape (B, V), as the policy's ``combine`` gets it, without a place.
        knobs: the rows' knob values, each of shape (B,).
        tokens: token ids, shape (B, K).

    Returns:
        The factor as text to its contributions, shape (B, K); 0 where its exponent is 0. Of factors that read alike
        the second is numbered ``(2)``.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.5, "b": 0.5}}, name="base")
        >>> guide = Table.of({"": {"a": 0.8, "b": 0.2}}, name="guide")
        >>> said = {leaf: leaf.init([[0]])[0] for leaf in (base, guide)}
        >>> found = contributions(base * guide**2, said, {}, torch.tensor([[0]]))
        >>> [(name, round(value.item(), 3)) for name, value in found.items()]  # ln .5, 2 ln .8
        [('base', -0.693), ('guide', -0.446)]
    """
    placed = {leaf: logits.unsqueeze(1) for leaf, logits in leaf_logits.items()}
    told: dict[str, Tensor] = {}
    for factor, exponent in parts(policy):
        weight = torch.as_tensor(exponent.values(knobs), dtype=torch.float32).expand(len(tokens))[:, None]
        value = torch.zeros(tokens.shape, device=tokens.device)
        if bool(weight.any()):
            said = factor.combine(placed, knobs).squeeze(1)
            weight = weight.to(tokens.device)
            chosen = said.gather(1, tokens)
            floored = torch.maximum(chosen, said.amax(-1, keepdim=True) - FLOOR)
            chosen = torch.where(weight < 0, floored, chosen)
            value = torch.where(weight == 0, value, weight * chosen)
        name = str(factor)
        if name in told:  # two models of one name
            name = f"{name} ({sum(str(each) == name for each, _ in parts(policy)[: len(told) + 1])})"
        told[name] = value
    return told
