"""The prompts of a search that run together: their rows propose a chunk, are scored, and those that are kept branch."""

from __future__ import annotations

import itertools
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
from trimtab.values.value import Chunk, Value


@dataclass(frozen=True)
class _Beam:
    """What one running row goes on from: its prompt's number, the chunk before, and its score then."""

    hunt: int
    node: int | None
    score: float


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
        self._beams = [_Beam(int(number), None, 0.0) for number in numbers]
        self._running: Running | None = self._handed(running)

    def run(self) -> list[Hunt]:
        """Search to the end."""
        while self._running is not None:
            running, tokens, chunk, ended = self._propose(self._running)
            going = self._keep(chunk, ended)
            self._running = None if running is None else self._branch(running, tokens, going)
        return self._hunts

    def _propose(self, running: Running) -> tuple[Running | None, Tensor, Chunk, dict[int, Row]]:
        """Sample a chunk for every row.

        Returns:
            The rows that have not ended, their newest tokens, which have not been fed, the chunk, and the ended rows.
        """
        start, count = running.ledger.count, len(running)
        heard = {leaf: torch.zeros(count, device=running.behind.device) for leaf in self._watched}
        ended: dict[int, Row] = {}
        alive: Running | None = running
        pieces: list[list[int]] = [[] for _ in range(count)]
        for number in itertools.count(1):
            assert alive is not None
            tokens, reasons = self._stepper.pick(alive)
            places = torch.tensor([owner.place for owner in alive.ledger.owners], device=tokens.device)
            for leaf, sums in heard.items():
                logits = alive.fed.said[leaf]
                chosen = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
                heard[leaf] = sums.index_add(0, places, chosen)
            alive, tokens, rows = self._stepper.release(alive, tokens, reasons)
            ended |= {row.place: row for row in rows}
            if alive is None or number == self._shape.chunk:
                break
            alive = self._stepper.feed(alive, tokens)
        for place, row in ended.items():
            pieces[place] = row.tokens[int(start[place]) :]
        if alive is not None:
            texts, lengths = alive.ledger.tokens.tolist(), alive.ledger.count.tolist()
            for owner, text, length in zip(alive.ledger.owners, texts, lengths, strict=True):
                pieces[owner.place] = text[int(start[owner.place]) : length]
        counts = torch.tensor([len(piece) for piece in pieces])
        width = int(counts.max())
        block = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces], device=tokens.device)
        finished = torch.tensor([place in ended for place in range(count)])
        return alive, tokens, Chunk(block.long().view(count, width), counts, finished, heard), ended

    def _keep(self, chunk: Chunk, ended: dict[int, Row]) -> list[int]:
        """Score a chunk and let every prompt keep what it keeps; returns the rows that go on."""
        scores, self._value = self._value.extend(chunk)
        told, tokens = scores.tolist(), chunk.tokens.tolist()
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
                        ended.get(i),
                    )
                    for i in mine
                ]
            )
            going += [mine[place] for place in picked]
            for place, i in enumerate(mine):
                self._beams[i] = _Beam(number, first + place, told[i])
        return going

    def _branch(self, alive: Running, tokens: Tensor, going: list[int]) -> Running | None:
        """Feed the rows that go on their newest tokens, and fork them."""
        if not going:
            return None
        at = {owner.place: i for i, owner in enumerate(alive.ledger.owners)}
        index = torch.tensor([at[place] for place in going])
        beams = self._stepper.feed(alive.select(index), tokens[index.to(tokens.device)])
        branches = torch.arange(len(going)).repeat_interleave(self._shape.branches)
        kept = torch.tensor(going)[branches]
        self._value = self._value.select(kept)
        self._beams = [self._beams[i] for i in kept.tolist()]
        return self._handed(beams.select(branches))

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
