"""Chunk search and best-of-N on any engine: a chunk is sampled as an answer to the prompt and what was kept of it.

Shapes, rules, scores and traces are those of ``trimtab.decoding``; of an engine it uses what every engine has. Prompts
run together, and a round waits for its slowest answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from trimtab.decoding.answer import Answer
from trimtab.decoding.boundary import Texts, Tokens
from trimtab.decoding.candidates import Candidates
from trimtab.decoding.generate import requests_of
from trimtab.decoding.hunt import Found, Hunt, Proposal
from trimtab.decoding.ledger import Owner
from trimtab.decoding.queue import check_lengths
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.sampling import seed_of
from trimtab.decoding.search_plan import SearchPlan
from trimtab.decoding.shape import Shape
from trimtab.decoding.stops import StopTexts
from trimtab.engines.abilities import Abilities
from trimtab.engines.base import Engine, Update, drain
from trimtab.engines.explain import explain_shape
from trimtab.engines.explanation import Explanation
from trimtab.errors import PolicyError
from trimtab.policies.view import Begun
from trimtab.values.combine import Sum
from trimtab.values.log_likelihood import LogLikelihood
from trimtab.values.value import Chunk, Value


def search(
    engine: Engine,
    prompts: str | Sequence[str],
    plan: SearchPlan,
    settings: Settings,
    *,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    max_rows: int = 64,
) -> list[Found]:
    """Search on an engine for answers that a value likes; :func:`trimtab.decoding.search.search` says how.

    Best-of-N gives the very answers of the local search for the same seed on the local engine. After the first chunk
    the random numbers are others than there, the distribution is the same.

    Args:
        engine: that nobody else steps meanwhile.
        prompts: one text or several.
        plan: what scores answers so far, with models of its own that run here, and the shape of the search.
        settings: sampling, lengths and seed.
        knobs: knob values for all prompts, or one mapping a prompt.
        max_rows: as many prompts run together as have this many rows, at least one.

    Returns:
        What was found for each prompt, in their order.

    Raises:
        ConfigError: the engine cannot do the search: it chooses among tokens, its chunks end by entropy, or it scores
            by log-probabilities that the engine does not tell.
        PromptError: a prompt is too long for the value.
        VocabularyError: the value reads other tokens.
        RewardError: nothing that was proposed for a prompt could be scored.
        TrimtabError: a request is refused, or everything that was proposed for a prompt broke.

    Example:
        >>> from trimtab.decoding.shape import chunk_beam
        >>> from trimtab.engines.local import LocalEngine
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.values import RewardValue
        >>> engine = LocalEngine(Table.of({"": {"heads": 0.5, "tails": 0.5}}))
        >>> heads = RewardValue(lambda completions, **_: [float(text.count("heads")) for text in completions])
        >>> plan = SearchPlan(heads, chunk_beam(beams=4, branches=4, chunk=1))
        >>> search(engine, "tails", plan, Settings(max_new_tokens=6, seed=0))[0].best.text
        'heads heads heads heads heads heads'
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    requests = requests_of(engine.vocabulary, texts, 1, knobs)
    hunts = hunt(engine, requests, plan, settings, max_rows=max_rows)
    return [each.found(text, engine.vocabulary, settings) for each, text in zip(hunts, texts, strict=True)]


def hunt(
    engine: Engine, requests: Sequence[Request], plan: SearchPlan, settings: Settings, *, max_rows: int = 64
) -> list[Hunt]:
    """Search for answers to prompts that are token ids; :func:`search` says how, and what is raised.

    Args:
        engine: that nobody else steps meanwhile.
        requests: one a prompt; how many answers they ask for is up to the search.
        plan: what scores answers so far, and the shape of the search.
        settings: sampling, lengths and seed.
        max_rows: as many prompts run together as have this many rows, at least one.

    Returns:
        What each search has tried and found, in the order of the requests.
    """
    shape, value = _able(plan.shape, engine.abilities), plan.value
    if shape.likelihood:
        likely: Value = LogLikelihood()
        value = Sum(((1.0, value), (shape.likelihood, likely)))
    requests = [replace(request, n=shape.rows) for request in requests]
    check_lengths(value.leaves, [request.prompt for request in requests], settings.max_new_tokens)
    at_once = max(1, max_rows // shape.rows)
    hunts: list[Hunt] = []
    with torch.inference_mode():
        for start in range(0, len(requests), at_once):
            hunts += _Rounds(engine, value, shape, requests[start : start + at_once], settings).run()
    return hunts


def _able(shape: Shape | Candidates, abilities: Abilities) -> Shape:
    """Return a shape that an engine of finished chunks can do, or refuse it."""
    part = explain_shape("the shape", shape, replace(abilities, every_token=False))
    Explanation("the search", abilities.name, (part,)).check()
    assert isinstance(shape, Shape)  # candidates were refused
    return shape


@dataclass(frozen=True)
class _Beam:
    """What rows go on from: their prompt's number, the chunk before, its score, and what is written."""

    hunt: int
    node: int | None
    score: float
    row: Row


class _Rounds:
    """The searches of some prompts, a chunk a round.

    Args:
        engine: proposes.
        value: scores.
        shape: of the search.
        requests: one a prompt.
        settings: of whole answers.
    """

    def __init__(
        self, engine: Engine, value: Value, shape: Shape, requests: Sequence[Request], settings: Settings
    ) -> None:
        self._engine, self._shape, self._settings, self._requests = engine, shape, settings, requests
        self._hunts = [Hunt(Owner(0, request, settings, 0, 0), shape) for request in requests]
        self._state = value.start([request.prompt for request in requests], engine.vocabulary, ())
        self._stops = StopTexts(engine.vocabulary)

    def run(self) -> list[Hunt]:
        """Search to the end."""
        beams = [
            _Beam(i, None, 0.0, Row(request, i, [], [], [], [], "length")) for i, request in enumerate(self._requests)
        ]
        branches, depth = [self._shape.rows] * len(beams), 0
        while beams:
            parents, rows, ended = self._propose(beams, branches, depth)
            beams, branches = self._keep(parents, rows, ended)
            depth += 1
        return self._hunts

    def _propose(
        self, beams: Sequence[_Beam], branches: Sequence[int], depth: int
    ) -> tuple[list[_Beam], list[Row], list[bool]]:
        """Sample chunks from every beam; returns for each the beam, what is written then, and whether it ends there."""
        before: Counter[tuple[int, ...]] = Counter()
        asked = []
        for beam, n in zip(beams, branches, strict=True):
            key = (beam.hunt, *beam.row.tokens)
            asked.append(self._asked(beam.row, n, depth, before[key]))
            before[key] += 1
        told = drain(self._engine, asked)
        grown = [
            (place, *self._grown(beam.row, update))
            for place, (beam, updates) in enumerate(zip(beams, told, strict=True))
            for update in updates
        ]
        self._state = self._state.select(torch.tensor([place for place, _, _ in grown]))
        return [beams[place] for place, _, _ in grown], [row for _, row, _ in grown], [ended for _, _, ended in grown]

    def _asked(self, row: Row, n: int, depth: int, before: int) -> tuple[Request, Settings]:
        """Return what asks for n chunks that go on from what is written; ``before`` beams have written the same."""
        request, settings, boundary, written = row.request, self._settings, self._shape.boundary, len(row.tokens)
        longest = settings.max_new_tokens - written
        stop = settings.stop
        if isinstance(boundary, Tokens):
            longest = min(longest, boundary.count)
        elif isinstance(boundary, Texts):
            longest = min(longest, boundary.longest)
            stop = (*stop, *boundary.texts) if self._engine.abilities.stops else stop
        seed, occurrence = settings.seed, request.occurrence
        if depth:  # no row and no rule has these random numbers
            key = seed_of(seed, request.prompt, occurrence, self._shape.rows + depth)
            seed, occurrence = int(key.generate_state(1, np.uint64)[0]) >> 1, before
        shortest = min(max(settings.min_new_tokens - written, 0), longest)
        prompt = Begun((*request.prompt, *row.tokens), len(row.tokens))
        asked = replace(request, prompt=prompt, n=n, occurrence=occurrence)
        how = replace(settings, max_new_tokens=longest, min_new_tokens=shortest, stop=stop, seed=seed)
        return asked, how

    def _grown(self, row: Row, update: Update) -> tuple[Row, bool]:
        """Return a row with a new chunk, and whether it ends there."""
        answer, settings, boundary = update.answer, self._settings, self._shape.boundary
        assert answer is not None  # it is the last word
        tokens = list(answer.token_ids)
        # Where the engine does not stop at these texts, what it wrote after one is let go.
        there = self._stops.length(boundary.texts, tokens, 0, 0) if isinstance(boundary, Texts) else None
        longer = _longer(row, answer, len(tokens) if there is None else there)
        if update.error is not None:
            return replace(longer, finish="error", error=update.error), True
        if settings.stop:  # one may straddle two chunks
            stopped = self._stops.length(settings.stop, longer.tokens, len(row.tokens), settings.min_new_tokens)
            if stopped is not None:
                return replace(_longer(row, answer, stopped - len(row.tokens)), finish="stop"), True
        if there is None and answer.finish_reason != "length":
            return replace(longer, finish=answer.finish_reason), True
        if boundary is None or len(longer.tokens) >= settings.max_new_tokens:
            return longer, True
        if not tokens:
            return replace(longer, finish="error", error=_empty(self._engine.abilities)), True
        return longer, False

    def _keep(
        self, parents: Sequence[_Beam], rows: Sequence[Row], ended: Sequence[bool]
    ) -> tuple[list[_Beam], list[int]]:
        """Score the chunks and let every prompt keep what it keeps; returns the next beams and their branches."""
        chunk = _chunk([beam.row for beam in parents], rows, ended)
        scores, state = self._state.extend(chunk)
        told, written, counts = scores.tolist(), chunk.tokens.tolist(), chunk.counts.tolist()
        going: Counter[int] = Counter()
        nodes: dict[int, int] = {}
        for number, hunt in enumerate(self._hunts):
            mine = [i for i, beam in enumerate(parents) if beam.hunt == number]
            if not mine:
                continue
            nodes |= {i: len(hunt.nodes) + place for place, i in enumerate(mine)}
            proposed = [
                Proposal(
                    parent=parents[i].node,
                    text=self._engine.vocabulary.decode(written[i][: counts[i]]),
                    tokens=counts[i],
                    score=told[i],
                    before=parents[i].score,
                    length=len(rows[i].tokens),
                    row=rows[i] if ended[i] else None,
                )
                for i in mine
            ]
            going.update(mine[place] for place in hunt.keep(proposed))
        if going:
            self._state = state.select(torch.tensor(list(going)))
        beams = [_Beam(parents[i].hunt, nodes[i], told[i], rows[i]) for i in going]
        return beams, [times * self._shape.branches for times in going.values()]


def _longer(row: Row, answer: Answer, length: int) -> Row:
    """Return a row with the first tokens of an answer and what is known of them."""
    return replace(
        row,
        tokens=[*row.tokens, *answer.token_ids[:length]],
        log_probs=[*row.log_probs, *answer.log_probs[:length]],
        reference_log_probs=[*row.reference_log_probs, *answer.reference_log_probs[:length]],
        kl=[*row.kl, *answer.kl[:length]],
        covered=[*row.covered, *answer.covered[:length]],
    )


def _chunk(before: Sequence[Row], rows: Sequence[Row], ended: Sequence[bool]) -> Chunk:
    """Return what rows have written since, as a value reads it; NaN for log-probabilities that were not told."""
    pairs = list(zip(before, rows, strict=True))
    pieces = [row.tokens[len(start.tokens) :] for start, row in pairs]
    told = (row.log_probs[len(start.log_probs) :] for start, row in pairs)
    width = max(map(len, pieces))
    block = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces], dtype=torch.long)
    sums = [math.fsum(each) if len(each) == len(piece) else math.nan for each, piece in zip(told, pieces, strict=True)]
    return Chunk(
        block.view(len(pieces), width),
        torch.tensor([len(piece) for piece in pieces]),
        torch.tensor(ended),
        {},
        torch.tensor(sums),
    )


def _empty(abilities: Abilities) -> PolicyError:
    return PolicyError(
        given=f"a chunk without tokens from the engine {abilities.name}, though its answer did not end there",
        expected="at least one token a chunk",
        hint="take longer chunks: half a character at the end of a text is no token",
    )
