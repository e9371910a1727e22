"""The prompts of a token-wise search that run together: the policy names candidates, a value decides among them.

The policy runs one row a prompt. A value that knows what all next tokens are worth is looked up and reads the token
that was chosen; another reads every candidate in a row of its own, and the rows that were chosen go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.decoding.candidates import Candidates
from trimtab.decoding.fed import Fed
from trimtab.decoding.kl import exact_kl
from trimtab.decoding.ledger import Ledger, Owner
from trimtab.decoding.running import Running
from trimtab.decoding.sampling import distribution
from trimtab.decoding.stepper import Stepper
from trimtab.decoding.trail import MOST, Step, Trail
from trimtab.errors import RewardError
from trimtab.policies.base import Leaf
from trimtab.policies.transfer import to_device
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.reader import log_probs_of
from trimtab.values.value import Chunk, Value, ValueState


@dataclass(frozen=True)
class _Tried:
    """The k likeliest tokens of N rows.

    Args:
        tokens: their ids, (N, k).
        weights: their log-weights under the policy, (N, k); -inf where they were cut.
        scores: their values, (N, k); NaN where they were cut or could not be scored.
        heard: for each watched leaf their log-probabilities, (N, k).
        own: their log-probabilities under the policy, (N, k).
        state: the value with a row for each live one, in order, where that is at hand.
    """

    tokens: Tensor
    weights: Tensor
    scores: Tensor
    heard: Mapping[Leaf, Tensor]
    own: Tensor
    state: ValueState | None

    @property
    def live(self) -> Tensor:
        """Which were not cut, (N, k)."""
        return self.weights.isfinite()


class TokenWise:
    """One row for each of G prompts.

    Args:
        stepper: steps them.
        value: decides among candidates.
        settings: how many there are, and how much the value counts.
        most: rows that the value reads at once.
        owners: of the rows.
        fed: where the rows stand after their prompts.
    """

    def __init__(
        self, stepper: Stepper, value: Value, settings: Candidates, most: int, owners: list[Owner], fed: Fed
    ) -> None:
        self._stepper, self._settings, self._most = stepper, settings, most
        self._running: Running | None = stepper.open(owners, fed)
        self._vocabulary: Vocabulary = stepper.policies[0].vocabulary
        self._watched = value.watched(list(fed.said))
        self._value = value.start([owner.request.prompt for owner in owners], self._vocabulary, self._watched)
        self._trails = {owner.place: Trail() for owner in owners}

    def run(self) -> list[Trail]:
        """Search to the end.

        Raises:
            RewardError: the value allows none of a row's candidates.
            PolicyError: a row broke.
        """
        while self._running is not None:
            self._running = self._step(self._running)
        return list(self._trails.values())

    def _step(self, running: Running) -> Running | None:
        """Choose the next token of every row; returns the rows that go on."""
        tried, probs = self._choice(running)
        aside = torch.zeros(len(running), dtype=torch.bool, device=probs.device)
        picked, reasons = self._stepper.pick(replace(running, pending=probs, redrawn=aside))
        places = (tried.tokens == picked[:, None]).int().argmax(1)
        order = tried.weights.topk(min(MOST, tried.weights.shape[1])).indices
        step = Step.of(tried.tokens, tried.scores, tried.live, order, places, self._kl(running, probs))
        texts = self._vocabulary.texts()
        for i, owner in enumerate(running.ledger.owners):
            self._trails[owner.place].take(step, i, reasons[i], texts)
        alive, left, rows = self._stepper.release(running, picked, reasons)
        for row in rows:
            if row.error is not None:
                raise row.error
            self._trails[row.place].row = row
        if alive is None:
            return None
        self._follow(tried, places, torch.tensor([i for i, reason in enumerate(reasons) if reason is None]))
        return self._stepper.feed(alive, left)

    def _choice(self, running: Running) -> tuple[_Tried, Tensor]:
        """Return what may come next in every row, and the probabilities it is drawn with, (N, V)."""
        ledger = running.ledger
        weights = ledger.weights(running.fed.log_probs[0])
        if self._settings.top_k is None:
            likeliest, tokens = weights, torch.arange(weights.shape[1], device=weights.device).expand_as(weights)
        else:
            likeliest, tokens = weights.topk(self._settings.top_k)
        tried = self._try(running, tokens, likeliest)
        temperature = to_device(ledger.warps.temperature, weights.device)[:, None]
        bonus = self._settings.bonus(tried.scores) / torch.where(temperature == 0, 1.0, temperature)
        tilted = torch.where(tried.scores.isnan(), -torch.inf, likeliest + bonus)
        self._refuse_the_undecidable(ledger, tried, tilted)
        everything = torch.full_like(weights, -torch.inf).scatter(1, tokens, tilted)
        return tried, distribution(everything, ledger.warps)

    def _try(self, running: Running, tokens: Tensor, weights: Tensor) -> _Tried:
        """Score candidates: look them up, or read each in a row of its own."""
        heard = {leaf: log_probs_of(tokens, running.fed.said[leaf]) for leaf in self._watched}
        own = running.fed.log_probs[0].gather(1, tokens)
        live = weights.isfinite()
        scores = torch.full(tokens.shape, torch.nan, device=tokens.device)
        known = self._value.ahead(tokens, heard)
        if known is not None:
            return _Tried(tokens, weights, torch.where(live, known.to(scores), scores), heard, own, None)
        rows, places = torch.nonzero(live, as_tuple=True)
        state: ValueState | None = None
        for start in range(0, len(rows), self._most):
            row, place = rows[start : start + self._most], places[start : start + self._most]
            each = {leaf: said[row, place] for leaf, said in heard.items()}
            ends = _ends(running.ledger, row, tokens[row, place])
            chunk = _one_each(tokens[row, place], ends, each, own[row, place])
            found, state = self._value.select(row.cpu()).extend(chunk)
            scores[row, place] = found.to(scores)
        return _Tried(tokens, weights, scores, heard, own, state if len(rows) <= self._most else None)

    def _follow(self, tried: _Tried, places: Tensor, going: Tensor) -> None:
        """Let the value go on with the chosen candidates of the rows that go on."""
        there = going.to(places.device)
        chosen = places[there]
        if tried.state is not None:
            numbers = tried.live.flatten().cumsum(0).view(tried.live.shape) - 1
            self._value = tried.state.select(numbers[there, chosen].cpu())
            return
        heard = {leaf: said[there, chosen] for leaf, said in tried.heard.items()}
        unfinished = torch.zeros(len(going), dtype=torch.bool)
        chunk = _one_each(tried.tokens[there, chosen], unfinished, heard, tried.own[there, chosen])
        value = self._value if len(going) == len(tried.tokens) else self._value.select(going)
        self._value = value.extend(chunk)[1]

    def _kl(self, running: Running, probs: Tensor) -> Tensor:
        """Return the KL of what is drawn from to the reference, (N,)."""
        return exact_kl(probs.log(), running.fed.log_probs[-1][:, : probs.shape[1]], probs)

    def _refuse_the_undecidable(self, ledger: Ledger, tried: _Tried, tilted: Tensor) -> None:
        """Refuse rows that have candidates, but none of them with a finite score."""
        wrong = (tried.live.any(1) & ~tilted.amax(1).isfinite()).tolist()
        if not any(wrong):
            return
        row = wrong.index(True)
        prompt = self._vocabulary.decode(list(ledger.owners[row].request.prompt))
        raise RewardError(
            given=f"the values {tried.scores[row][tried.live[row]][:8].tolist()} of candidates for {prompt!r}",
            expected="a finite value for at least one candidate, and none of +inf",
            hint="the warnings above say what failed; more candidates, or clamp=(lowest, highest), may help",
        )


def _one_each(tokens: Tensor, finished: Tensor, heard: Mapping[Leaf, Tensor], log_probs: Tensor) -> Chunk:
    """Return a chunk of one token a row."""
    return Chunk(tokens[:, None], torch.ones(len(tokens), dtype=torch.long), finished, heard, log_probs.cpu())


def _ends(ledger: Ledger, rows: Tensor, tokens: Tensor) -> Tensor:
    """Return which tokens would end their rows, on the CPU; a stop text is only seen when it is there."""
    ended = (tokens[:, None] == ledger.ends[rows]).any(1).cpu()
    return ended | (ledger.count + 1 >= ledger.limits[:, 1])[rows.cpu()]
