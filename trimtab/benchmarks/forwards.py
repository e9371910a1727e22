"""The models' forwards of a decode and nothing else: what a step would cost without a loop around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from trimtab.benchmarks.timing import seconds
from trimtab.policies.advance import init
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.stack import TrunkState
from trimtab.policies.state import State
from trimtab.policies.trunk import Trunk


def prefilled(
    policies: Sequence[Policy], prompts: Sequence[Sequence[int]], leaves: Sequence[Leaf] | None = None
) -> State:
    """Return the state of several policies after their prompts."""
    with torch.inference_mode():
        return init(policies, prompts, leaves=leaves)[1]


def run_forwards(state: State, block: Tensor, count: int = 1) -> None:
    """Feed a (B, T) block to every leaf of a state, ``count`` times one after the other; the state stays as it is."""
    with torch.inference_mode():
        held = [(part.host, part.state) for part in state.parts]
        for _ in range(count):
            held = [(host, host.step(rows, block)[1]) for host, rows in held]


@contextmanager
def clocked(trunk: Trunk) -> Iterator[list[float]]:
    """Collect the seconds of every step that others make with a trunk meanwhile."""
    step, spent = trunk.step, []

    def timed(state: TrunkState, tokens: Tensor) -> tuple[Tensor, TrunkState]:
        found: list[tuple[Tensor, TrunkState]] = []
        spent.append(seconds(lambda: found.append(step(state, tokens))))
        return found[0]

    with patch.object(trunk, "step", timed):
        yield spent


def metered(policy: Policy) -> list[Policy]:
    """Return what a metered decode of a policy evaluates: the policy, and its reference where that is another one."""
    return [policy] if policy.reference == policy else [policy, policy.reference]
