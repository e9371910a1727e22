"""What is known of running rows beside their state: a tensor each, so that a step does nothing row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.decoding.answer import Written
from trimtab.decoding.detail import Detail
from trimtab.decoding.held import Held
from trimtab.decoding.progress import Progress
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Warps, uniforms, warp
from trimtab.policies.transfer import to_device

FOR_DRAWS, FOR_TESTS, FOR_REDRAWS = range(3)
"""Random numbers of a token: to draw it or its draft, to test the draft, to draw again where the test failed."""


@dataclass(frozen=True)
class Owner:
    """Whose a row is.

    Args:
        ticket: number of the request.
        request: the request.
        settings: how it is decoded.
        place: number of the row among all rows.
        answer: which of the request's n answers it is.
    """

    ticket: int
    request: Request
    settings: Settings
    place: int
    answer: int


@dataclass
class Ledger:
    """The books of N rows with room for C tokens each; one more column takes what must not be kept.

    Args:
        owners: whose rows these are.
        count: tokens written so far, shape (N,), on the CPU.
        limits: fewest and most tokens, shape (N, 2), on the CPU.
        warps: sampling settings.
        groups: number of the row's set of stop texts, shape (N,).
        ends: ids that end the row, shape (N, E), -1 where there are fewer.
        prompts: token ids of the prompts, aligned to the right, shape (N, P), -1 before them.
        draws: random numbers, shape (N, C + 1, 3).
        tokens: token ids, shape (N, C + 1).
        costs: log-probability, that of the reference, KL, and covered mass of each token, shape (N, C + 1, 4).
        seen: which tokens the row holds, shape (N, V), where a row has a repetition penalty.
        progress: how far each row that has keywords is with them.
        details: of each row's tokens, where its request asks for them.
    """

    owners: list[Owner]
    count: Tensor
    limits: Tensor
    warps: Warps
    groups: Tensor
    ends: Tensor
    prompts: Tensor
    draws: Tensor
    tokens: Tensor
    costs: Tensor
    seen: Tensor | None
    progress: tuple[Progress | None, ...]
    details: tuple[tuple[Detail, ...], ...]

    def __len__(self) -> int:
        return len(self.owners)

    @staticmethod
    def of(
        owners: list[Owner],
        groups: list[int],
        end_ids: frozenset[int],
        size: int,
        device: torch.device,
        progress: Sequence[Progress | None] | None = None,
    ) -> Ledger:
        """Open the books of new rows.

        Args:
            owners: whose rows these are.
            groups: number of each row's set of stop texts.
            end_ids: ids that end every row.
            size: number of tokens in the vocabulary.
            device: where the policies are.
            progress: where each row that has keywords stands with them; none has any by default.
        """
        settings = [owner.settings for owner in owners]
        room = max(each.max_new_tokens for each in settings) + 1
        ends = [sorted(end_ids.union(each.stop_ids)) for each in settings]
        widest = max(map(len, ends))
        prompts = [owner.request.prompt for owner in owners]
        longest = max(map(len, prompts))
        ledger = Ledger(
            owners,
            torch.zeros(len(owners), dtype=torch.long),
            torch.tensor([[each.min_new_tokens, each.max_new_tokens] for each in settings]),
            Warps.of([each.sampling for each in settings]),
            torch.tensor(groups, device=device),
            torch.tensor([[*row, *[-1] * (widest - len(row))] for row in ends], device=device).view(len(owners), -1),
            torch.tensor([[*[-1] * (longest - len(prompt)), *prompt] for prompt in prompts], device=device),
            torch.stack([_draws(owner, room) for owner in owners]).to(device),
            torch.zeros((len(owners), room), dtype=torch.long, device=device),
            torch.zeros((len(owners), room, 4), device=device),
            None,
            (None,) * len(owners) if progress is None else tuple(progress),
            ((),) * len(owners),
        )
        ledger.seen = ledger._seen(size) if ledger.warps.penalised else None
        return ledger

    def select(self, index: Tensor) -> Ledger:
        """Keep these rows, in this order."""
        there = index.to(self.tokens.device)
        return Ledger(
            [self.owners[i] for i in index.tolist()],
            self.count[index],
            self.limits[index],
            self.warps.select(index),
            self.groups[there],
            self.ends[there],
            self.prompts[there],
            self.draws[there],
            self.tokens[there],
            self.costs[there],
            None if self.seen is None else self.seen[there],
            tuple(self.progress[i] for i in index.tolist()),
            tuple(self.details[i] for i in index.tolist()),
        )

    def handed_over(self, owners: list[Owner], draws: Tensor) -> Ledger:
        """Give the rows to others, with their random numbers, (N, C + 1, 3)."""
        return replace(self, owners=owners, draws=draws)

    def join(self, other: Ledger, size: int) -> Ledger:
        """Append rows; ``size`` is the number of tokens in the vocabulary."""
        seen = self.seen is not None or other.seen is not None
        a, b = self._widened(other, size if seen else None), other._widened(self, size if seen else None)
        return Ledger(
            [*a.owners, *b.owners],
            torch.cat([a.count, b.count]),
            torch.cat([a.limits, b.limits]),
            a.warps.join(b.warps),
            torch.cat([a.groups, b.groups]),
            torch.cat([a.ends, b.ends]),
            torch.cat([a.prompts, b.prompts]),
            torch.cat([a.draws, b.draws]),
            torch.cat([a.tokens, b.tokens]),
            torch.cat([a.costs, b.costs]),
            None if a.seen is None or b.seen is None else torch.cat([a.seen, b.seen]),
            a.progress + b.progress,
            a.details + b.details,
        )

    def text(self) -> tuple[Tensor, Tensor]:
        """Return prompts and tokens, (N, W), -1 before them, and where each row's text ends, (N,)."""
        text = torch.cat([self.prompts, self.tokens[:, :-1]], 1)
        return text, to_device(self.prompts.shape[1] + self.count, text.device)

    def written(self, rows: Sequence[int]) -> list[Written]:
        """Return what some rows have written, and what it cost; this waits for the device."""
        counts = self.count[torch.tensor(rows, dtype=torch.long)].tolist()
        longest = max(counts, default=0)
        there = torch.tensor(rows, dtype=torch.long, device=self.tokens.device)
        tokens, costs = self.tokens[there, :longest].tolist(), self.costs[there, :longest, :3].mT.tolist()
        return [
            Written(tuple(ids[:n]), tuple(own[:n]), tuple(theirs[:n]), tuple(kl[:n]), self.details[i][:n])
            for i, n, ids, (own, theirs, kl) in zip(rows, counts, tokens, costs, strict=True)
        ]

    def numbers(self, purpose: int, ahead: int = 0) -> Tensor:
        """Return the random number of each row's next token, or of one further ahead, shape (N,)."""
        place = to_device((self.count + ahead).clamp(max=self.tokens.shape[1] - 1), self.draws.device)
        return self.draws[torch.arange(len(self), device=self.draws.device), place, purpose]

    @property
    def held(self) -> Held:
        """What the rows hold that decides what may come next."""
        return Held(self.seen, self.progress)

    def without_early_ends(self, log_probs: Tensor, ahead: int = 0, held: Held | None = None) -> Tensor:
        """Cut the tokens that would end a row before its minimum length, or before its keywords are there, (N, V)."""
        held = self.held if held is None else held
        early = self.count + ahead < self.limits[:, 0]
        early = early | held.must_go_on if held.constrained else early
        if not self.ends.shape[1] or not bool(early.any()):
            return log_probs
        barred = torch.where(to_device(early, self.ends.device)[:, None] & (self.ends >= 0), -torch.inf, 0.0)
        return log_probs.scatter_add(1, self.ends.clamp(min=0), barred.to(log_probs.dtype))

    def weights(self, log_probs: Tensor, ahead: int = 0, held: Held | None = None) -> Tensor:
        """Return log-weights that each row's next token is picked by, or one further ahead, (N, V).

        Args:
            log_probs: of the policy, (N, V).
            ahead: tokens between the row's last and this one.
            held: what the rows will hold then; by default what they hold now.
        """
        held = self.held if held is None else held
        allowed = self.without_early_ends(held.barred(log_probs), ahead, held)
        return warp(allowed, self.warps, held.seen)

    def write(self, tokens: Tensor, costs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Write the first ``wanted[n]`` of T tokens of each row, up to the first one that ends it.

        Args:
            tokens: token ids, shape (N, T).
            costs: log-probability, that of the reference, KL and covered mass of each, shape (N, T, 4).
            wanted: how many, shape (N,), on the device.

        Returns:
            How many were written and whether the last of them ends the row, both (N,), on the device. The caller
            brings them to the host, among other things, and then calls :meth:`advance`.
        """
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        ends = (tokens.unsqueeze(2) == self.ends.unsqueeze(1)).any(2)
        first = torch.where(ends, steps, tokens.shape[1]).amin(1)
        kept = torch.minimum(wanted, first + 1)
        place = to_device(self.count, tokens.device)[:, None] + steps
        place = torch.where(steps < kept[:, None], place, self.tokens.shape[1] - 1)
        rows = torch.arange(len(self), device=tokens.device)[:, None]
        self.tokens[rows, place] = tokens
        self.costs[rows, place] = costs
        if self.seen is not None:
            counts = torch.zeros(self.seen.shape, dtype=torch.int32, device=tokens.device)
            self.seen = self.seen | (counts.scatter_add(1, tokens, (steps < kept[:, None]).int()) > 0)
        return kept, first < kept

    def advance(self, written: Tensor) -> None:
        """Count the tokens that were written, shape (N,), on the CPU."""
        before, self.count = self.count, self.count + written
        if self.held.constrained:
            told = self.tokens[:, : int(self.count.max())].tolist()
            spans = zip(told, before.tolist(), self.count.tolist(), strict=True)
            self.progress = tuple(
                each and each.over(row[start:end]) for each, (row, start, end) in zip(self.progress, spans, strict=True)
            )

    def _seen(self, size: int) -> Tensor:
        seen = torch.zeros((len(self), size), dtype=torch.bool, device=self.tokens.device)
        for i, owner in enumerate(self.owners):
            held = [*owner.request.prompt, *self.tokens[i, : int(self.count[i])].tolist()]
            seen[i, torch.tensor([token for token in held if token < size], device=seen.device)] = True
        return seen

    def _widened(self, other: Ledger, size: int | None) -> Ledger:
        """Make room for as much as another ledger has; with a ``size``, for the tokens seen too."""
        room = max(self.tokens.shape[1], other.tokens.shape[1])
        more = room - self.tokens.shape[1]
        longest = max(self.prompts.shape[1], other.prompts.shape[1])
        widest = max(self.ends.shape[1], other.ends.shape[1])
        return replace(
            self,
            ends=F.pad(self.ends, (0, widest - self.ends.shape[1]), value=-1),
            prompts=F.pad(self.prompts, (longest - self.prompts.shape[1], 0), value=-1),
            draws=F.pad(self.draws, (0, 0, 0, more)),
            tokens=F.pad(self.tokens, (0, more)),
            costs=F.pad(self.costs, (0, 0, 0, more)),
            seen=self._seen(size) if self.seen is None and size is not None else self.seen,
        )


def _draws(owner: Owner, room: int) -> Tensor:
    """Return the random numbers of a row, (room, 3), which depend on its request alone."""
    settings, request = owner.settings, owner.request
    drawn = uniforms(settings.seed, request.prompt, request.occurrence, owner.answer, settings.max_new_tokens)
    return F.pad(drawn, (0, 0, 0, room - len(drawn)))
