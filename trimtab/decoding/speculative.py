"""Exact speculative steering: a cheap policy drafts a block, every other leaf verifies it in one forward.

A draft y that was drawn from q is accepted with probability min(1, p(y) / q(y)), where p is the product's distribution
after warping; the first one that is not is replaced by a draw from the positive part of p - q. What comes out has the
product's distribution exactly, and greedy rows are those of plain decoding. Each row keeps its own number of drafts.

Reference: Leviathan, Kalman, Matias (2023), Fast Inference from Transformers via Speculative Decoding; for products of
several models, Dekoninck et al. (2024), Controlled Text Generation via Language Model Arithmetic, where every term may
be evaluated later than the others. Here the terms that share the drafter's trunk run at every token, all others once a
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.decoding.drafters import Drafter, Drafts, LookupDrafter
from trimtab.decoding.fed import Fed
from trimtab.decoding.ledger import FOR_TESTS, Ledger
from trimtab.decoding.pace import MOST, Pace
from trimtab.decoding.running import Running
from trimtab.decoding.sampling import distribution
from trimtab.policies.advance import combine, every_leaf, feed
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.state import State
from trimtab.policies.transfer import to_device


@dataclass(frozen=True)
class Cycle:
    """A block of drafts that has been verified, before what was not accepted is forgotten.

    Args:
        running: the rows, with the distributions after their last accepted draft.
        drafts: the drafts, (N, k).
        log_probs: of each policy at every draft, each (N, k, V).
        accepted: how many of them each row keeps, (N,), on the device.
    """

    running: Running
    drafts: Tensor
    log_probs: tuple[Tensor, ...]
    accepted: Tensor


class Speculator:
    """Decides who drafts how many tokens, and runs the cycles.

    Args:
        policies: the product and, where it is metered, its reference.
        drafters: who may draft.
        tokens: drafts a cycle; None adapts to what is measured.
    """

    def __init__(self, policies: Sequence[Policy], drafters: Sequence[Drafter], tokens: int | None) -> None:
        self._policies, self._drafters, self._tokens = policies, drafters, tokens
        self._paces: dict[tuple[int, int], Pace] = {}

    @property
    def drafts(self) -> bool:
        """Whether anybody drafts."""
        return bool(self._drafters)

    @property
    def policies(self) -> list[Policy]:
        """The policies that draft, whose knobs requests may bind too."""
        return [each.policy for each in self._drafters if not isinstance(each, LookupDrafter)]

    @property
    def aside(self) -> list[Leaf]:
        """The leaves that draft and are not the product's; they have a state of their own."""
        mine = (d.policy for d in self._drafters if not isinstance(d, LookupDrafter) and not d.shared)
        return every_leaf(list(mine))

    def plan(self, running: Running) -> tuple[int, int]:
        """Return which drafter drafts and how many tokens; 0 tokens is a plain step."""
        left = int((running.ledger.limits[:, 1] - running.ledger.count).max())
        limit = min(MOST, _room(running), left) if self._drafters else 0
        if limit < 1:
            return 0, 0
        paces = [self._pace(i, len(running)) for i in range(len(self._drafters))]
        if self._tokens is not None:
            return max(range(len(paces)), key=lambda i: paces[i].acceptance), min(self._tokens, limit)
        plans = [(pace.best(), i) for i, pace in enumerate(paces)]
        (k, _), drafter = max(plans, key=lambda plan: (plan[0][1], plan[0][0]))
        return drafter, min(k, limit)

    def saw(self, plan: tuple[int, int], rows: int, seconds: float, accepted: int, tested: int) -> None:
        """Take note of what a step took, and of the drafts that were accepted of those tested."""
        drafter, k = plan
        for i in range(len(self._drafters)):
            pace = self._pace(i, rows)
            if not k:
                pace.saw_plain(seconds)
            elif i == drafter:
                pace.saw_cycle(k, seconds, accepted, tested)

    def run(self, plan: tuple[int, int], running: Running, tokens: Tensor) -> Cycle:
        """Draft, verify, and accept.

        Args:
            plan: of :meth:`plan`, at least one token.
            running: the rows, whose books hold the tokens already.
            tokens: the newest token of each row, (N,), which no leaf has been fed.
        """
        chosen, k = plan
        drafter, ledger, fed = self._drafters[chosen], running.ledger, running.fed
        size = fed.log_probs[0].shape[-1]
        said: dict[Leaf, Tensor] = {}
        if isinstance(drafter, LookupDrafter):
            drafts, aside, rest, ahead = drafter.draft(ledger, k), fed.aside, fed.state, None
        elif drafter.shared:
            ahead, rest = _split(fed.state, every_leaf([drafter.policy]))
            drafts, said, ahead = drafter.draft(ahead, tokens[:, None], ledger, k, size)
            aside = fed.aside
        else:
            assert fed.aside is not None
            block = torch.cat([running.behind, tokens[:, None]], 1)
            drafts, _, aside = drafter.draft(fed.aside, block, ledger, k, size)
            rest, ahead = fed.state, None
        verified = torch.cat([tokens[:, None], drafts.tokens], 1)
        heard, state = feed(rest, verified)
        said |= heard
        if ahead is not None:
            state = _merged(fed.state, ahead, state)
        log_probs = combine(self._policies, said, state.knobs, check=False)
        accepted, pending, redrawn = self._accept(log_probs[0], drafts, ledger)
        rows = torch.arange(len(ledger), device=tokens.device)
        after = Fed(
            state,
            tuple(each[rows, accepted] for each in log_probs),
            {leaf: logits[rows, accepted] for leaf, logits in said.items()},
            aside,
        )
        running = Running(ledger, after, running.behind[:, :0], pending, redrawn)
        return Cycle(running, drafts.tokens, tuple(each[:, :k] for each in log_probs), accepted)

    def _accept(self, log_probs: Tensor, drafts: Drafts, ledger: Ledger) -> tuple[Tensor, Tensor, Tensor]:
        """Return how many drafts each row accepts, what its next token is drawn from, and whether one was rejected."""
        k = drafts.tokens.shape[1]
        wanted = _targets(log_probs, drafts.tokens, ledger)
        p = wanted[:, :k].gather(2, drafts.tokens.unsqueeze(2)).squeeze(2)
        q = torch.ones_like(p)
        if drafts.probs is not None:
            q = drafts.probs.gather(2, drafts.tokens.unsqueeze(2)).squeeze(2)
        numbers = torch.stack([ledger.numbers(FOR_TESTS, ahead) for ahead in range(k)], 1)
        left = to_device(ledger.limits[:, 1] - ledger.count, p.device)
        count = torch.minimum(drafts.count, left)
        passed = (numbers * q < p) & (torch.arange(k, device=p.device) < count[:, None])
        accepted = passed.long().cumprod(1).sum(1)
        rows = torch.arange(len(ledger), device=p.device)
        target, place = wanted[rows, accepted], accepted.clamp(max=k - 1)
        if drafts.probs is None:
            over = torch.zeros_like(target).scatter(1, drafts.tokens[rows, place].unsqueeze(1), 1.0)
        else:
            over = drafts.probs[rows, place]
        rest = (target - over).clamp(min=0)
        rejected = (accepted < count) & (rest.sum(-1) > 0)
        return accepted, torch.where(rejected[:, None], rest, target), rejected

    def _pace(self, drafter: int, rows: int) -> Pace:
        """Return what is known of a drafter at about this number of rows."""
        return self._paces.setdefault((drafter, rows.bit_length()), Pace())


def forget(running: Running, k: int, accepted: Tensor) -> Running:
    """Roll every leaf back to the drafts that were accepted, (N,) on the CPU."""
    dropped = k - accepted
    state, aside = running.fed.state, running.fed.aside
    shorter = state.rollback(state.lengths - dropped)
    return replace(
        running,
        fed=replace(running.fed, state=shorter, aside=aside and aside.rollback(aside.lengths - dropped)),
    )


def _targets(log_probs: Tensor, drafts: Tensor, ledger: Ledger) -> Tensor:
    """Return the product's warped distribution before each draft and after the last, (N, k + 1, V)."""
    held, found = ledger.held, []
    for ahead in range(drafts.shape[1] + 1):
        found.append(distribution(ledger.weights(log_probs[:, ahead], ahead, held), ledger.warps))
        if ahead < drafts.shape[1]:
            held = held.after(drafts[:, ahead])
    return torch.stack(found, 1)


def _room(running: Running) -> int:
    """Return how many drafts the shortest context leaves room for."""
    fed = running.fed
    states = [fed.state] if fed.aside is None else [fed.state, fed.aside]
    longest = int(fed.state.lengths.max())
    limits = [leaf.context_length for state in states for part in state.parts for leaf in part.leaves]
    known = [limit for limit in limits if limit is not None]
    return min(known) - longest - 1 if known else MOST


def _split(state: State, leaves: Sequence[Leaf]) -> tuple[State, State]:
    """Separate the parts on the hosts of some leaves from the others."""
    hosts = {leaf.host for leaf in leaves}
    inside = tuple(part for part in state.parts if part.host in hosts)
    outside = tuple(part for part in state.parts if part.host not in hosts)
    return replace(state, parts=inside), replace(state, parts=outside)


def _merged(before: State, first: State, second: State) -> State:
    """Put parts that were advanced apart together again, in their old order."""
    parts = {part.host: part for part in (*first.parts, *second.parts)}
    return replace(second, parts=tuple(parts[part.host] for part in before.parts))
