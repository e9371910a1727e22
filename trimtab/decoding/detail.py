"""What steering did to one token: its log-probability under the policy and the reference, and what each factor added.

It is made only for rows whose request asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Policy
from trimtab.policies.contributions import contributions
from trimtab.policies.knob import KnobValues

MOST_ALTERNATIVES = 20
"""Alternatives that a request may ask for at each token."""


@dataclass(frozen=True)
class Choice:
    """A token that a step could pick.

    Args:
        token: its id.
        log_prob: under the policy at temperature 1, in nats.
        reference_log_prob: under the reference.
        factors: factor to what it adds, its exponent times its log-probability; these sum to ``log_prob`` up to the
            step's normaliser.
    """

    token: int
    log_prob: float
    reference_log_prob: float
    factors: Mapping[str, float]


@dataclass(frozen=True)
class Detail:
    """A step: the token that was picked, and the likeliest ones.

    Args:
        chosen: what was picked.
        alternatives: the likeliest tokens under the policy, best first; the chosen one may be among them.
    """

    chosen: Choice
    alternatives: tuple[Choice, ...]


def details_of(
    policy: Policy,
    log_probs: Sequence[Tensor],
    leaf_logits: Mapping[Leaf, Tensor],
    knobs: KnobValues,
    tokens: Tensor,
    counts: Sequence[int],
) -> list[Detail]:
    """Return what a step did in some rows; it waits for the device.

    Args:
        policy: what was sampled from.
        log_probs: of the policy and, where it is another, of the reference; each (B, V).
        leaf_logits: what every leaf said, (B, V).
        knobs: the rows' knob values, each (B,).
        tokens: what was picked, (B,).
        counts: alternatives that each row wants.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.5, "b": 0.5}}, name="base")
        >>> said = base.init([[0]])[0]
        >>> (one,) = details_of(base, [said], {base: said}, {}, torch.tensor([1]), [1])
        >>> one.chosen.token, one.alternatives[0].token, round(one.chosen.factors["base"], 3)
        (1, 0, -0.693)
    """
    own, theirs = log_probs[0], log_probs[-1]
    wanted = torch.cat([tokens[:, None], own.topk(min(max(counts), own.shape[1]), 1).indices], 1)
    added = contributions(policy, leaf_logits, knobs, wanted)
    ids, mine, reference = wanted.tolist(), own.gather(1, wanted).tolist(), theirs.gather(1, wanted).tolist()
    told = {name: values.tolist() for name, values in added.items()}
    found = []
    for row, count in enumerate(counts):
        choices = [
            Choice(token, mine[row][i], reference[row][i], {name: values[row][i] for name, values in told.items()})
            for i, token in enumerate(ids[row][: count + 1])
        ]
        found.append(Detail(choices[0], tuple(choices[1:])))
    return found
