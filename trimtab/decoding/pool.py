"""The row pool: one loop that prefills prompts, forks them into answers, steps every row and lets finished rows go.

Rows are admitted while others run, as many as fit, each with its own knobs, sampling settings, limits and random
numbers, so a row's result does not depend on its neighbours. Nothing in a step is done row by row, and a step waits for
the device once. It knows token ids, not text, except for stop texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.drafters import Draft, drafters
from trimtab.decoding.fed import Fed
from trimtab.decoding.ledger import FOR_DRAWS, FOR_REDRAWS, Ledger, Owner
from trimtab.decoding.pace import MOST
from trimtab.decoding.queue import Queue
from trimtab.decoding.request import Bounds, Request, Row, Settings
from trimtab.decoding.running import Running
from trimtab.decoding.sampling import choose, pick
from trimtab.decoding.speculative import Speculator, forget
from trimtab.decoding.stops import StopTexts
from trimtab.errors import ConfigError, PolicyError, TrimtabError
from trimtab.policies.advance import every_leaf, feed, needed_leaves
from trimtab.policies.base import Leaf, Policy


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
        self.policy = policy
        self.policies = [policy, policy.reference] if metered and policy.reference != policy else [policy]
        self.metered = metered
        self._vocabulary = policy.vocabulary
        _keep_freed_memory()
        self._stops: StopTexts | None = None
        leaves = every_leaf(self.policies) if leaves is None else leaves
        self._speculator = Speculator(self.policies, drafters(draft, policy, leaves), _drafts(draft_tokens))
        self._queue = Queue(self.policies, self._speculator.policies, leaves, self._speculator.aside, bounds)
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
            ConfigError: a stop id is no token.
            BusyError: more rows or tokens than the pool's bounds; what runs already is not harmed.
        """
        return self._queue.add(request, settings, 0 if self._running is None else len(self._running))

    def cancel(self, ticket: int) -> None:
        """Let a request's rows go; :meth:`step` returns them with what they have so far. Unknown tickets do nothing."""
        if ticket in self._queue.tickets:
            self._cancelled.add(ticket)

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
        picked, done = self._pick(self._running)
        self._running, tokens, rows = self._release(self._running, picked, done)
        if self._running is not None:
            rows += self._advance(self._running, tokens, started)
        return rows

    def _admit(self) -> None:
        """Prefill waiting rows when enough places are free to be worth a forward."""
        held = [] if self._running is None else self._running.ledger.owners
        if (newcomers := self._queue.admit(held)) is None:
            return
        owners, fed = newcomers
        device = fed.log_probs[0].device
        if self._stops is None:
            self._stops = StopTexts(self._vocabulary, device)
        groups = [self._stops.group(owner.settings.stop) for owner in owners]
        ledger = Ledger.of(owners, groups, self._vocabulary.end_ids, self._vocabulary.size, device)
        nothing = torch.zeros((len(owners), 0), dtype=torch.long, device=device)
        fresh = Running(ledger, fed, nothing)
        self._running = fresh if self._running is None else self._running.join(fresh)

    def _pick(self, running: Running) -> tuple[Tensor, list[FinishReason | None]]:
        """Pick the next token of every row, write it down with what it cost, and say which rows are done, and why."""
        ledger, log_probs = running.ledger, running.fed.log_probs[0]
        probs = log_probs.softmax(-1)
        if running.pending is None:
            weights = ledger.weights(log_probs)
            tokens = choose(weights, ledger.warps, ledger.numbers(FOR_DRAWS), probs if weights is log_probs else None)
            usable = torch.isfinite(weights.gather(1, tokens[:, None]).squeeze(1))
        else:
            assert running.redrawn is not None
            draws = torch.where(running.redrawn, ledger.numbers(FOR_REDRAWS), ledger.numbers(FOR_DRAWS))
            tokens = pick(running.pending, draws)
            usable = running.pending.gather(1, tokens[:, None]).squeeze(1) > 0
        costs = self._costs(running.fed.log_probs, probs, tokens)
        return tokens, self._write(ledger, tokens[:, None], costs[:, None], usable & ~costs.isnan().any(1))

    def _costs(self, log_probs: Sequence[Tensor], probs: Tensor, tokens: Tensor) -> Tensor:
        """Return what picked tokens cost: log-probability, that of the reference, KL; (..., 3) for tokens (...)."""
        own = log_probs[0].gather(-1, tokens.unsqueeze(-1))
        if len(log_probs) == 1:
            nothing = torch.zeros_like(own)
            return torch.cat([own, own if self.metered else nothing, nothing], -1)
        reference = log_probs[1][..., : probs.shape[-1]]
        theirs = reference.gather(-1, tokens.unsqueeze(-1))
        return torch.cat([own, theirs, exact_kl(log_probs[0], reference, probs).unsqueeze(-1)], -1)

    def _write(
        self, ledger: Ledger, tokens: Tensor, costs: Tensor, usable: Tensor, wanted: Tensor | None = None
    ) -> list[FinishReason | None]:
        """Write tokens down and say which rows are done; the step's one wait for the device."""
        assert self._stops is not None
        wanted = torch.ones(len(ledger), dtype=torch.long, device=tokens.device) if wanted is None else wanted
        kept, ended = ledger.write(tokens, costs, wanted)
        may_stop = self._stops.may_stop(ledger.groups, tokens)
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        suspects = torch.zeros_like(ended) if may_stop is None else (may_stop & (steps < kept[:, None])).any(1)
        written, done, broken, suspected = torch.stack([kept, ended, ~usable, suspects]).cpu()
        before = ledger.count
        ledger.advance(written)
        full = ledger.count >= ledger.limits[:, 1]
        reasons: list[FinishReason | None] = [None] * len(ledger)
        for i in torch.nonzero(full | done.bool() | broken.bool() | suspected.bool()).flatten().tolist():
            reasons[i] = self._reason(ledger, i, broken=bool(broken[i]), ended=bool(done[i]), before=int(before[i]))
        return reasons

    def _reason(self, ledger: Ledger, row: int, *, broken: bool, ended: bool, before: int) -> FinishReason | None:
        """Say why one row is done, if it is; a stop text may come before what else would end it."""
        assert self._stops is not None
        settings = ledger.owners[row].settings
        if broken:
            return "error"
        tokens = ledger.tokens[row, : int(ledger.count[row])].tolist()
        if settings.stop:
            length = self._stops.length(settings.stop, tokens, before, settings.min_new_tokens)
            if length is not None:
                ledger.count[row] = length
                return "stop"
        if ended:
            return "end" if tokens[-1] in self._vocabulary.end_ids else "stop"
        return "length" if len(tokens) >= settings.max_new_tokens else None

    def _release(
        self, running: Running, tokens: Tensor, reasons: Sequence[FinishReason | None]
    ) -> tuple[Running | None, Tensor, list[Row]]:
        """Let finished rows go; returns the others and their tokens."""
        if not any(reasons):
            return running, tokens, []
        rows = [self._row(running, i, reason) for i, reason in enumerate(reasons) if reason is not None]
        alive = torch.tensor([i for i, reason in enumerate(reasons) if reason is None], dtype=torch.long)
        if not len(alive):
            return None, tokens, rows
        return running.select(alive), tokens[alive.to(tokens.device)], rows

    def _row(self, running: Running, index: int, reason: FinishReason) -> Row:
        """Close the books of one row."""
        ledger = running.ledger
        owner = ledger.owners[index]
        length = int(ledger.count[index]) - (reason == "error")
        own, theirs, kl = ledger.costs[index, :length].T.tolist() if length else ([], [], [])
        error = self._diagnose(running, index) if reason == "error" else None
        tokens = ledger.tokens[index, :length].tolist()
        return Row(owner.request, owner.place, tokens, own, theirs, kl, reason, error)

    def _diagnose(self, running: Running, index: int) -> TrimtabError:
        """Say what broke a row."""
        said = {leaf: logits[index : index + 1].unsqueeze(1) for leaf, logits in running.fed.said.items()}
        knobs = {name: values[index : index + 1] for name, values in running.fed.state.knobs.items()}
        errors = (policy.diagnose(said, knobs) for policy in self.policies)
        return next(filter(None, errors), None) or PolicyError(
            given=f"{self.policy} in a row without any token to pick",
            expected="a probability for every token, some of them above 0",
            hint="lower min_new_tokens if only an end is possible",
        )

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
            self._running, _, gone = self._release(self._running, none, reasons)
            rows += gone
        return rows

    def _advance(self, running: Running, tokens: Tensor, started: float) -> list[Row]:
        """Feed the picked tokens, with a block of drafts where that pays; returns the rows that end in the block."""
        plan, size = self._speculator.plan(running), len(running)
        if not plan[1]:
            self._running = self._plain(running, tokens)
            self._speculator.saw(plan, size, time.perf_counter() - started, 0, 0)
            return []
        cycle = self._speculator.run(plan, running, tokens)
        k, ledger, before = cycle.drafts.shape[1], running.ledger, running.ledger.count
        costs = self._costs(cycle.log_probs, cycle.log_probs[0].softmax(-1), cycle.drafts)
        kept = torch.arange(k, device=costs.device) < cycle.accepted[:, None]
        usable = ~(costs.isnan().any(2) & kept).any(1)
        done = self._write(ledger, cycle.drafts, costs, usable, cycle.accepted)
        accepted = ledger.count - before
        alive, left, rows = self._release(cycle.running, accepted, done)
        self._running = None if alive is None else forget(alive, k, left)
        tested = int((accepted + 1).clamp(max=k).sum())
        self._speculator.saw(plan, size, time.perf_counter() - started, int(accepted.sum()), tested)
        return rows

    def _plain(self, running: Running, tokens: Tensor) -> Running:
        """Feed one token to every row."""
        said, state = feed(running.fed.state, tokens.unsqueeze(1))
        aside = running.fed.aside
        behind = running.behind if aside is None else torch.cat([running.behind, tokens[:, None]], 1)
        return Running(running.ledger, Fed.of(self.policies, said, state, aside), behind)


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


def exact_kl(log_probs: Tensor, reference_log_probs: Tensor, probs: Tensor | None = None) -> Tensor:
    """Return KL(policy || reference) = sum_y pi(y) (log pi(y) - log pi_ref(y)) over the last axis, in nats.

    Args:
        log_probs: of the policy, (..., V).
        reference_log_probs: of the reference, (..., V).
        probs: the policy's probabilities, (..., V), where the caller has it already.

    Example:
        >>> half = torch.tensor([0.5, 0.5]).log()
        >>> round(exact_kl(torch.tensor([0.9, 0.1]).log(), half).item(), 4)  # .9 ln 1.8 + .1 ln .2
        0.3681
    """
    # Not exp(): where probabilities are below 1e-38, and steered ones often are, it is up to twenty times slower.
    probs = log_probs.softmax(-1) if probs is None else probs
    gap = (log_probs - reference_log_probs).masked_fill(probs == 0, 0.0)
    kl: Tensor = torch.linalg.vecdot(probs, gap)
    return kl


def _drafts(tokens: int | None) -> int | None:
    """Return a number of drafts, or refuse it."""
    if tokens is not None and not (isinstance(tokens, int) and 1 <= tokens <= MOST):
        raise ConfigError(
            given=f"draft_tokens={tokens!r}", expected=f"a whole number from 1 to {MOST}, or None", hint="leave it out"
        )
    return tokens


def _keep_freed_memory() -> None:
    """Make the C library keep what a step frees for the next step.

    glibc maps large blocks afresh each time, which costs more than what is computed in them, until it has seen one of
    that size freed; the largest that counts is 32 MiB. Elsewhere this does nothing.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _nothing(owner: Owner) -> Row:
    """Return a row that was cancelled before it began."""
    return Row(owner.request, owner.place, [], [], [], [], "cancelled")
