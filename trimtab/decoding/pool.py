"""The row pool: one loop that prefills prompts, forks them into answers, steps every row and lets finished rows go.

Rows are admitted while others run, as many as fit, each with its own knobs, sampling settings, limits and random
numbers, so a row's result does not depend on its neighbours. Nothing in a step is done row by row, and a step waits for
the device once. It knows token ids, not text, except for stop texts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from trimtab.decoding.answer import FinishReason, Written
from trimtab.decoding.drafters import Draft, drafters
from trimtab.decoding.ledger import Owner
from trimtab.decoding.pace import MOST
from trimtab.decoding.queue import Queue
from trimtab.decoding.request import Bounds, Request, Row, Settings
from trimtab.decoding.running import Running
from trimtab.decoding.speculative import Speculator, forget
from trimtab.decoding.stepper import Stepper
from trimtab.errors import ConfigError
from trimtab.policies.advance import every_leaf, needed_leaves
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.freed import keep_freed_memory


class Pool:
    """Decodes rows of many requests together; drive it with :meth:`step`.

    Args:
        policy: what to sample from.
        leaves: what every row evaluates; by default all leaves, whatever a request's knobs.
        bounds: how much it takes on.
        metered: whether log-probabilities under the reference and the KL to it are measured; without it they are 0.
        draft: who drafts tokens that the policy verifies in blocks: a policy, "lookup", "auto", or nobody.
        draft_tokens: drafts a block, from 1 to 12; None adapts to what pays.

    Raises:
        ConfigError: there is no such drafter.
        VocabularyError: the drafter speaks other tokens than the policy.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> pool = Pool(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> ticket = pool.submit(Request((0,), n=2), Settings(max_new_tokens=3, seed=0))
        >>> while not (finished := pool.step()):
        ...     pass
        >>> [len(row.tokens) for row in finished]
        [3, 3]
    """

    def __init__(
        self,
        policy: Policy,
        *,
        leaves: Sequence[Leaf] | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 -- a frozen value
        metered: bool = True,
        draft: Draft = None,
        draft_tokens: int | None = None,
    ) -> None:
        keep_freed_memory()
        self._stepper = Stepper(policy, metered=metered)
        policies = self._stepper.policies
        leaves = every_leaf(policies) if leaves is None else leaves
        self._speculator = Speculator(policies, drafters(draft, policy, leaves), _drafts(draft_tokens))
        self._queue = Queue(policies, self._speculator.policies, leaves, self._speculator.aside, bounds)
        self._cancelled: set[int] = set()
        self._running: Running | None = None

    @property
    def busy(self) -> bool:
        """Whether rows are running or waiting."""
        return self._running is not None or bool(self._queue)

    def submit(self, request: Request, settings: Settings) -> int:
        """Take a request on.

        Args:
            request: the prompt, the number of answers and the knobs.
            settings: how they are decoded.

        Returns:
            The request's ticket, for :meth:`cancel`. Its rows have consecutive places.

        Raises:
            PromptError: the prompt is empty, holds ids that are no tokens, or does not fit in a context with its new
                tokens.
            KnobError: a knob value is unknown or out of range.
            PolicyError: with these knob values nothing of the policy is left.
            ConfigError: a stop id is no token, or details are asked for that the pool cannot give.
            BusyError: more rows or tokens than the pool's bounds; what runs already is not harmed.
        """
        if request.alternatives is not None and (self._speculator.drafts or not self._stepper.metered):
            raise ConfigError(
                given="details of every token, from a pool that drafts or does not measure",
                expected="a pool without a drafter, which measures log-probabilities under the reference",
                hint="leave draft out, and metered at True",
            )
        return self._queue.add(request, settings, 0 if self._running is None else len(self._running))

    def cancel(self, ticket: int) -> None:
        """Let a request's rows go; :meth:`step` returns them with what they have so far. Unknown tickets do nothing."""
        if ticket in self._queue.tickets:
            self._cancelled.add(ticket)

    def so_far(self, tickets: Collection[int]) -> list[tuple[Owner, Written]]:
        """Return the running rows of some requests, with what each has written; this waits for the device."""
        if self._running is None or not tickets:
            return []
        ledger = self._running.ledger
        rows = [i for i, owner in enumerate(ledger.owners) if owner.ticket in tickets]
        return [(ledger.owners[i], written) for i, written in zip(rows, ledger.written(rows), strict=True)]

    def step(self) -> list[Row]:
        """Admit what fits, pick the next token of every row, and feed it.

        Returns:
            The rows that finished, were cancelled or broke.

        Whatever a forward raises goes on to the caller; the rows that were running are lost then, those that wait are
        not, and the pool can be stepped again.
        """
        finished = self._drop_cancelled()
        try:
            with torch.inference_mode():
                self._admit()
                return finished + self._run()
        except BaseException:
            # Books and caches may no longer agree, so these rows cannot go on; waiting ones can.
            self._running = None
            raise

    def _run(self) -> list[Row]:
        """Pick and feed the next token of every running row; returns those that finished."""
        if self._running is None:
            return []
        started = time.perf_counter()
        picked, done = self._stepper.pick(self._running)
        self._running, tokens, rows = self._stepper.release(self._running, picked, done)
        if self._running is not None:
            rows += self._advance(self._running, tokens, started)
        return rows

    def _admit(self) -> None:
        """Prefill waiting rows when enough places are free to be worth a forward."""
        held = [] if self._running is None else self._running.ledger.owners
        if (newcomers := self._queue.admit(held)) is None:
            return
        fresh = self._stepper.open(*newcomers)
        self._running = fresh if self._running is None else self._running.join(fresh)

    def _drop_cancelled(self) -> list[Row]:
        """Let the rows of cancelled requests go."""
        cancelled, self._cancelled = self._cancelled, set()
        if not cancelled:
            return []
        rows = [_nothing(owner) for owner in self._queue.remove(cancelled)]
        if self._running is not None:
            reasons: list[FinishReason | None] = [
                "cancelled" if owner.ticket in cancelled else None for owner in self._running.ledger.owners
            ]
            none = torch.zeros(len(self._running), dtype=torch.long)
            self._running, _, gone = self._stepper.release(self._running, none, reasons)
            rows += gone
        return rows

    def _advance(self, running: Running, tokens: Tensor, started: float) -> list[Row]:
        """Feed the picked tokens, with a block of drafts where that pays; returns the rows that end in the block."""
        plan, size = self._speculator.plan(running), len(running)
        if not plan[1]:
            self._running = self._stepper.feed(running, tokens)
            self._speculator.saw(plan, size, time.perf_counter() - started, 0, 0)
            return []
        cycle = self._speculator.run(plan, running, tokens)
        k, ledger, before = cycle.drafts.shape[1], running.ledger, running.ledger.count
        costs = self._stepper.costs(cycle.log_probs, cycle.log_probs[0].softmax(-1), cycle.drafts)
        kept = torch.arange(k, device=costs.device) < cycle.accepted[:, None]
        usable = ~(costs.isnan().any(2) & kept).any(1)
        done = self._stepper.write(ledger, cycle.drafts, costs, usable, cycle.accepted)
        accepted = ledger.count - before
        alive, left, rows = self._stepper.release(cycle.running, accepted, done)
        self._running = None if alive is None else forget(alive, k, left)
        tested = int((accepted + 1).clamp(max=k).sum())
        self._speculator.saw(plan, size, time.perf_counter() - started, int(accepted.sum()), tested)
        return rows


def decode(
    policy: Policy,
    requests: Sequence[Request],
    settings: Settings,
    *,
    bounds: Bounds = Bounds(),  # noqa: B008 -- a frozen value
    metered: bool = True,
    draft: Draft = None,
    draft_tokens: int | None = None,
) -> list[Row]:
    """Decode every request to its end.

    Args:
        policy: what to sample from.
        requests: prompts with their number of answers and knob values.
        settings: what all rows share.
        bounds: how many rows run at once.
        metered: whether log-probabilities under the reference and the KL to it are measured.
        draft: who drafts, see :class:`Pool`.
        draft_tokens: drafts a block; None adapts to what pays.

    Returns:
        Finished rows: ``n`` a request, in the order of the requests.

    Raises:
        PromptError: a prompt does not fit in the context with its new tokens.
        PolicyError: a row broke; the others are decoded to their end first.
    """
    policies = [policy, policy.reference] if metered else [policy]
    names = {knob.name for each in policies for knob in each.knobs}  # a drafter may have more
    settled = [{name: value for name, value in each.knobs.items() if name in names} for each in requests]
    needed = needed_leaves(policies, settled)
    pool = Pool(policy, leaves=needed, bounds=bounds, metered=metered, draft=draft, draft_tokens=draft_tokens)
    for request in requests:
        pool.submit(request, settings)
    rows: list[Row] = []
    while pool.busy:
        rows += pool.step()
    rows.sort(key=lambda row: row.place)
    for row in rows:
        if row.error is not None:
            raise row.error
    return rows


def _drafts(tokens: int | None) -> int | None:
    """Return a number of drafts, or refuse it."""
    if tokens is not None and not (isinstance(tokens, int) and 1 <= tokens <= MOST):
        raise ConfigError(
            given=f"draft_tokens={tokens!r}", expected=f"a whole number from 1 to {MOST}, or None", hint="leave it out"
        )
    return tokens


def _nothing(owner: Owner) -> Row:
    """Return a row that was cancelled before it began."""
    return Row(owner.request, owner.place, [], [], [], [], "cancelled")
