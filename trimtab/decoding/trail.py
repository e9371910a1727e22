"""The token-wise search of one prompt: what was tried for it, what was chosen, and what has been found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.generate import to_answer
from trimtab.decoding.hunt import Found
from trimtab.decoding.request import Row, Settings
from trimtab.decoding.trace import Node, Trace
from trimtab.policies.vocabulary import Vocabulary

MOST = 256
"""Candidates of a step that a trace shows beside the chosen one: the likeliest."""


@dataclass(frozen=True)
class Step:
    """What was tried for N rows at once, on the host.

    Args:
        tokens: the candidates that are shown, (N, up to MOST).
        scores: their values.
        live: which of them were not cut.
        chosen: token and value of the chosen one, N pairs.
        kl: of what the token was drawn from to the reference, in nats, (N,).
    """

    tokens: list[list[int]]
    scores: list[list[float]]
    live: list[list[bool]]
    chosen: list[tuple[int, float]]
    kl: list[float]

    @staticmethod
    def of(tokens: Tensor, scores: Tensor, live: Tensor, order: Tensor, places: Tensor, kl: Tensor) -> Step:
        """Fetch k candidates a row, (N, k): show those at ``order``, (N, M); those at ``places``, (N,), were chosen."""
        picked, value = (each.gather(1, places[:, None]).squeeze(1).tolist() for each in (tokens, scores))
        shown = [each.gather(1, order).tolist() for each in (tokens, scores, live)]
        return Step(shown[0], shown[1], shown[2], list(zip(picked, value, strict=True)), kl.tolist())


class Trail:
    """The search of one prompt so far; ``row`` is its answer, once there is one."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self._nodes: list[Node] = []
        self._tip: int | None = None
        self._score = math.nan
        self._kl: list[float] = []

    def take(self, step: Step, i: int, finish: FinishReason | None, texts: list[str]) -> None:
        """Take note of row i of a step; ``texts`` are those of the vocabulary."""
        depth, parent = len(self._kl), self._tip
        token, self._score = step.chosen[i]
        shown = {t: s for t, s, live in zip(step.tokens[i], step.scores[i], step.live[i], strict=True) if live}
        for each, score in {**shown, token: self._score}.items():
            number, kept = len(self._nodes), each == token
            self._nodes.append(Node(number, parent, depth, texts[each], 1, score, int(kept), finish if kept else None))
            if kept:
                self._tip = number
        self._kl.append(step.kl[i])

    def found(self, prompt: str, vocabulary: Vocabulary, settings: Settings) -> Found:
        """Return the answer with its score."""
        assert self.row is not None
        answer = to_answer(self.row, prompt, vocabulary, settings)
        return Found(((answer, self._score),), Trace(tuple(self._nodes)), tuple(self._kl))
