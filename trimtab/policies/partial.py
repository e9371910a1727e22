"""Policies that know the likeliest tokens only, and what cannot be done with them.

With all other tokens taken as impossible, they can be multiplied by; they can be neither divided by nor added to.
"""

from __future__ import annotations

from trimtab.errors import UsageError
from trimtab.policies.advance import every_leaf
from trimtab.policies.base import Leaf, Policy


def refuse_partial(policy: Policy, use: str) -> None:
    """Refuse a policy that knows only some tokens' probabilities, where every token's is needed.

    Args:
        policy: what is used.
        use: how, for the message: "as a divisor".

    Raises:
        UsageError: one of its leaves knows only some.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> refuse_partial(Table.random(3, seed=0), "as a divisor")  # a table knows all
    """
    for leaf in partial_leaves(policy):
        raise UsageError(
            given=f"{leaf}, which gives the probabilities of its likeliest tokens only, {use}",
            expected="a policy that gives every token's probability",
            hint="multiply by it with a positive exponent, and use models in memory for the rest",
        )


def partial_leaves(policy: Policy) -> list[Leaf]:
    """Return the leaves of a policy that know only some tokens' probabilities."""
    return [leaf for leaf in every_leaf([policy]) if leaf.partial]
