"""The prompts of a search that run together: their rows propose a chunk, are scored, and those that are kept branch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.decoding.fed import Fed
from trimtab.decoding.hunt import Hunt, Proposal
from trimtab.decoding.ledger import Owner
from trimtab.decoding.request import Row
from trimtab.decoding.running import Running
from trimtab.decoding.shape import Shape
from trimtab.decoding.stepper import Stepper
from trimtab.policies.base import Leaf
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.reader import log_probs_of
from trimtab.values.value import Chunk, Value


@dataclass(frozen=True)
class _Beam:
    """What one running row goes on from: its prompt's number, the chunk before, its score and its length then."""

    hunt: int
    node: int | None
    score: float
    length: int


@dataclass(frozen=True)
class _Waiting:
    """Rows at the end of their chunks, and their newest tokens, (N,), where these have not been fed."""

    running: Running
    tokens: Tensor | None

    def select(self, index: Tensor) -> _Waiting:
        tokens = None if self.tokens is None else self.tokens[index.to(self.tokens.device)]
        return _Waiting(self.running.select(index), tokens)

    def join(self, other: _Waiting) -> _Waiting:
        both = None if self.tokens is None or other.tokens is None else torch.cat([self.tokens, other.tokens])
        return _Waiting(self.running.join(other.running), both)


class Wave:
    """W * K rows for each of G prompts.

    Args:
        stepper: steps them.
        value: scores them.
        shape: of the search.
        leaves: what every row evaluates.
        owners: of the rows, those of a prompt next to each other.
        fed: where the rows stand after their prompts.
    """

    def __init__(
        self, stepper: Stepper, value: Value, shape: Shape, leaves: Sequence[Leaf], owners: list[Owner], fed: Fed
    ) -> None:
        self._stepper, self._shape = stepper, shape
        running = stepper.open(owners, fed)
        self._draws = running.ledger.draws
        self._firsts = firsts = owners[:: shape.rows]
        self._hunts = [Hunt(owner, shape) for owner in firsts]
        self._watched = value.watched(leaves)
        self._vocabulary: Vocabulary = stepper.policies[0].vocabulary
        state = value.start([owner.request.prompt for owner in firsts], self._vocabulary, self._watched)
        numbers = torch.arange(len(firsts)).repeat_interleave(shape.rows)
        self._value = state.select(numbers)
        self._beams = [_Beam(int(number), None, 0.0, 0) for number in numbers]
        self._running: Running | None = self._handed(running)

    def run(self) -> list[Hunt]:
        """Search to the end."""
        while self._running is not None:
            waiting, chunk, ended = self._propose(self._running)
            self._running = self._branch(waiting, self._keep(chunk, ended))
        return self._hunts

    def _propose(self, running: Running) -> tuple[list[_Waiting], Chunk, dict[int, Row]]:
        """Sample a chunk for every row; rows at the end of theirs wait for the others.

        Returns:
            The rows that wait, in the groups that came to wait together, the chunk, and the rows that have ended.
        """
        start = running.ledger.count
        heard = {leaf: torch.zeros(len(running), device=running.behind.device) for leaf in self._watched}
        waiting: list[_Waiting] = []
        ended: dict[int, Row] = {}
        alive: Running | None = running
        while alive is not None:
            tokens, reasons = self._stepper.pick(alive)
            there = _places(alive).to(tokens.device)
            for leaf, sums in heard.items():
                chosen = log_probs_of(tokens[:, None], alive.fed.said[leaf]).squeeze(1)
                heard[leaf] = sums.index_add(0, there, chosen)
            alive, tokens, rows = self._stepper.release(alive, tokens, reasons)
            ended |= {row.place: row for row in rows}
            if alive is not None:
                alive, reached = self._advance(alive, tokens, start)
                waiting += reached
        return waiting, _chunk(start, heard, waiting, ended, running.behind.device), ended

    def _advance(self, alive: Running, tokens: Tensor, start: Tensor) -> tuple[Running | None, list[_Waiting]]:
        """Feed the rows that are not at the end of their chunks; returns them, and those that wait from now on."""
        boundary = self._shape.boundary
        if boundary is None:
            return self._stepper.feed(alive, tokens), []
        if boundary.ahead:
            alive = self._stepper.feed(alive, tokens)
        reached = boundary.reached(alive, start[_places(alive)], self._vocabulary)
        rows = _Waiting(alive, None if boundary.ahead else tokens)
        if bool(reached.all()):
            return None, [rows]
        waiting = [rows.select(torch.nonzero(reached).flatten())] if bool(reached.any()) else []
        going = rows.select(torch.nonzero(~reached).flatten())
        return self._fed(going), waiting

    def _fed(self, rows: _Waiting) -> Running:
        """Feed rows their newest tokens, unless these have been fed."""
        return rows.running if rows.tokens is None else self._stepper.feed(rows.running, rows.tokens)

    def _keep(self, chunk: Chunk, ended: dict[int, Row]) -> list[int]:
        """Score a chunk and let every prompt keep what it keeps; returns the rows that go on."""
        scores, self._value = self._value.extend(chunk)
        told, tokens = scores.tolist(), chunk.tokens.tolist()
        lengths = [beam.length + count for beam, count in zip(self._beams, chunk.counts.tolist(), strict=True)]
        going: list[int] = []
        for number, hunt in enumerate(self._hunts):
            mine = [i for i, beam in enumerate(self._beams) if beam.hunt == number]
            if not mine:
                continue
            first = len(hunt.nodes)
            picked = hunt.keep(
                [
                    Proposal(
                        self._beams[i].node,
                        self._vocabulary.decode(tokens[i][: int(chunk.counts[i])]),
                        int(chunk.counts[i]),
                        told[i],
                        self._beams[i].score,
                        lengths[i],
                        ended.get(i),
                    )
                    for i in mine
                ]
            )
            going += [mine[place] for place in picked]
            for place, i in enumerate(mine):
                self._beams[i] = _Beam(number, first + place, told[i], lengths[i])
        return going

    def _branch(self, waiting: Sequence[_Waiting], going: list[int]) -> Running | None:
        """Bring the rows that go on together, feed them their newest tokens, and fork them."""
        if not going:
            return None
        kept = [(rows, torch.isin(_places(rows.running), torch.tensor(going))) for rows in waiting]
        beams = _joined([rows.select(torch.nonzero(mine).flatten()) for rows, mine in kept if bool(mine.any())])
        running = self._fed(beams)
        at = {place: i for i, place in enumerate(_places(running).tolist())}
        places = [place for place in going for _ in range(self._shape.branches)]
        self._value = self._value.select(torch.tensor(places))
        self._beams = [self._beams[place] for place in places]
        return self._handed(running.select(torch.tensor([at[place] for place in places])))

    def _handed(self, running: Running) -> Running:
        """Give every row its place and the random numbers of its place among its prompt's rows."""
        taken = [0] * len(self._hunts)
        owners, slots = [], []
        for place, beam in enumerate(self._beams):
            slot = beam.hunt * self._shape.rows + taken[beam.hunt]
            owners.append(replace(self._firsts[beam.hunt], place=place, answer=taken[beam.hunt]))
            slots.append(slot)
            taken[beam.hunt] += 1
        draws = self._draws[torch.tensor(slots, device=self._draws.device)]
        return replace(running, ledger=running.ledger.handed_over(owners, draws))


def _places(running: Running) -> Tensor:
    return torch.tensor([owner.place for owner in running.ledger.owners])


def _joined(groups: Sequence[_Waiting]) -> _Waiting:
    """Join groups of rows in pairs, since a join copies both."""
    while len(groups) > 1:
        pairs = itertools.zip_longest(groups[::2], groups[1::2])
        groups = [a if b is None else a.join(b) for a, b in pairs]
    return groups[0]


def _chunk(
    start: Tensor,
    heard: dict[Leaf, Tensor],
    waiting: Sequence[_Waiting],
    ended: dict[int, Row],
    device: torch.device,
) -> Chunk:
    """Gather what was written after ``start`` by the rows that wait and by those that have ended."""
    first = start.tolist()
    written = {place: (row.tokens[first[place] :], row.log_probs[first[place] :]) for place, row in ended.items()}
    for ledger in (rows.running.ledger for rows in waiting):
        columns = (ledger.tokens.tolist(), ledger.costs[..., 0].tolist(), ledger.count.tolist())
        for owner, tokens, log_probs, count in zip(ledger.owners, *columns, strict=True):
            new = slice(first[owner.place], count)
            written[owner.place] = (tokens[new], log_probs[new])
    pieces = [written[place][0] for place in range(len(first))]
    counts = torch.tensor([len(piece) for piece in pieces])
    width = int(counts.max())
    block = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces], dtype=torch.long, device=device)
    return Chunk(
        block.view(len(first), width),
        counts,
        torch.tensor([place in ended for place in range(len(first))]),
        heard,
        torch.tensor([math.fsum(written[place][1]) for place in range(len(first))]),
    )
