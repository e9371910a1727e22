"""One step of running rows: pick their next tokens, write them down with what they cost, feed them.

It decides neither which rows run nor who drafts; nothing in it is done row by row but for rows that end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.detail import details_of
from trimtab.decoding.fed import Fed
from trimtab.decoding.kl import exact_kl
from trimtab.decoding.ledger import FOR_DRAWS, FOR_REDRAWS, Ledger, Owner
from trimtab.decoding.progress import Plan, Progress
from trimtab.decoding.request import Request, Row
from trimtab.decoding.running import Running
from trimtab.decoding.sampling import choose, pick
from trimtab.decoding.stops import StopTexts, cut
from trimtab.errors import PolicyError, TrimtabError
from trimtab.policies.advance import feed
from trimtab.policies.base import Policy


class Stepper:
    """Steps rows of one policy.

    Args:
        policy: what is sampled from.
        metered: whether log-probabilities under the reference and the KL to it are measured; without it they are 0.
    """

    def __init__(self, policy: Policy, *, metered: bool) -> None:
        self.metered = metered
        self.policies = [policy, policy.reference] if metered and policy.reference != policy else [policy]
        self._vocabulary = policy.vocabulary
        self._covers = policy.cuts and len(self.policies) > 1
        self._stops = StopTexts(self._vocabulary)

    def open(self, owners: list[Owner], fed: Fed) -> Running:
        """Open the books of rows whose prompts have been fed."""
        device = fed.log_probs[0].device
        groups = [self._stops.group(owner.settings.stop) for owner in owners]
        progress = [self._progress(owner.request) for owner in owners]
        ledger = Ledger.of(owners, groups, self._vocabulary.end_ids, self._vocabulary.size, device, progress)
        return Running(ledger, fed, torch.zeros((len(owners), 0), dtype=torch.long, device=device))

    def pick(self, running: Running) -> tuple[Tensor, list[FinishReason | None]]:
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
        costs = self.costs(running.fed.log_probs, probs, tokens)
        self._tell(running, tokens)
        return tokens, self.write(ledger, tokens[:, None], costs[:, None], usable & ~costs.isnan().any(1))

    def _tell(self, running: Running, tokens: Tensor) -> None:
        """Write down what the step did in the rows whose requests ask for it."""
        ledger, fed = running.ledger, running.fed
        wanted = {i: n for i, owner in enumerate(ledger.owners) if (n := owner.request.alternatives) is not None}
        if not wanted:
            return
        here = torch.tensor([*wanted])
        there = here.to(tokens.device)
        found = details_of(
            self.policies[0],
            [each[there] for each in fed.log_probs],
            {leaf: said[there] for leaf, said in fed.said.items()},
            {name: values[here] for name, values in fed.state.knobs.items()},
            tokens[there],
            [*wanted.values()],
        )
        told = [*ledger.details]
        for i, detail in zip(wanted, found, strict=True):
            told[i] = (*told[i], detail)
        ledger.details = tuple(told)

    def costs(self, log_probs: Sequence[Tensor], probs: Tensor, tokens: Tensor) -> Tensor:
        """Return what tokens (...) cost: log-probability, that of the reference, KL, covered mass; (..., 4)."""
        own = log_probs[0].gather(-1, tokens.unsqueeze(-1))
        if len(log_probs) == 1:
            nothing = torch.zeros_like(own)
            return torch.cat([own, own if self.metered else nothing, nothing, nothing], -1)
        reference = log_probs[1][..., : probs.shape[-1]]
        theirs = reference.gather(-1, tokens.unsqueeze(-1))
        covered = torch.ones_like(own)
        if self._covers:
            covered = reference.masked_fill(log_probs[0] == -torch.inf, -torch.inf).logsumexp(-1, keepdim=True).exp()
        return torch.cat([own, theirs, exact_kl(log_probs[0], reference, probs).unsqueeze(-1), covered], -1)

    def write(
        self, ledger: Ledger, tokens: Tensor, costs: Tensor, usable: Tensor, wanted: Tensor | None = None
    ) -> list[FinishReason | None]:
        """Write tokens down and say which rows are done; the step's one wait for the device."""
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

    def release(
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

    def feed(self, running: Running, tokens: Tensor) -> Running:
        """Feed one token to every row."""
        said, state = feed(running.fed.state, tokens.unsqueeze(1))
        aside = running.fed.aside
        behind = running.behind if aside is None else torch.cat([running.behind, tokens[:, None]], 1)
        return Running(running.ledger, Fed.of(self.policies, said, state, aside), behind)

    def _reason(self, ledger: Ledger, row: int, *, broken: bool, ended: bool, before: int) -> FinishReason | None:
        """Say why one row is done, if it is; a stop text may come before what else would end it."""
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

    def _row(self, running: Running, index: int, reason: FinishReason) -> Row:
        """Close the books of one row."""
        ledger = running.ledger
        owner = ledger.owners[index]
        length = int(ledger.count[index]) - (reason == "error")
        own, theirs, kl, covered = ledger.costs[index, :length].T.tolist() if length else ([], [], [], [])
        error = self._diagnose(running, index) if reason == "error" else None
        tokens = ledger.tokens[index, :length].tolist()
        covered = covered if self._covers else []
        return Row(
            owner.request,
            owner.place,
            tokens,
            own,
            theirs,
            kl,
            reason,
            error,
            covered,
            self._unmet(owner, tokens, reason),
            ledger.details[index][:length],
        )

    def _unmet(self, owner: Owner, tokens: list[int], reason: FinishReason) -> tuple[str, ...]:
        """Return the keywords that a row's text lacks, which ends before the stop that ended it."""
        if (progress := self._progress(owner.request)) is None:
            return ()
        settings, decode = owner.settings, self._vocabulary.decode
        if reason == "stop":
            tokens = tokens[:-1] if tokens[-1] in settings.stop_ids else tokens
            end = cut(self._vocabulary, settings.stop, tokens, settings.min_new_tokens)
            if end is not None:
                tokens = tokens[: max(n for n in range(len(tokens)) if len(decode(tokens[:n])) <= end)]
        return progress.over(tokens).unmet

    def _progress(self, request: Request) -> Progress | None:
        """Return where a row stands with its keywords when it begins."""
        if request.keywords is None:
            return None
        return Plan.of(request.keywords, self._vocabulary).start(request.prompt)

    def _diagnose(self, running: Running, index: int) -> TrimtabError:
        """Say what broke a row."""
        said = {leaf: logits[index : index + 1].unsqueeze(1) for leaf, logits in running.fed.said.items()}
        knobs = {name: values[index : index + 1] for name, values in running.fed.state.knobs.items()}
        errors = (policy.diagnose(said, knobs) for policy in self.policies)
        return next(filter(None, errors), None) or PolicyError(
            given=f"{self.policies[0]} in a row without any token to pick",
            expected="a probability for every token, some of them above 0",
            hint="lower min_new_tokens if only an end is possible, and let keywords come in any order",
        )
