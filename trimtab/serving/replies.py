"""Answers in the shapes of OpenAI's API, with our own numbers beside them under ``trimtab``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.decoding.answer import FinishReason
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.numbers import finite, told
from trimtab.serving.spelled import Piece, piece_to_dict

Kind = Literal["completion", "chat"]

FINISH: dict[FinishReason, str] = {"end": "stop", "stop": "stop", "length": "length"}
"""Why answers end, in OpenAI's words."""


@dataclass(frozen=True)
class Chosen:
    """One finished answer.

    Args:
        index: its number in the reply.
        text: of it.
        finish: why it ended.
        pieces: its tokens; empty where nobody asked for them.
        kl: to the reference, nats a token; None where it was not measured.
        tokens: how many it has.
        score: of a search.
        found: all that a search tried as JSON has it, where that was asked for.
    """

    index: int
    text: str
    finish: FinishReason
    pieces: Sequence[Piece]
    kl: float | None
    tokens: int
    score: float | None = None
    found: dict[str, Any] | None = None


@dataclass
class Shape:
    """How the replies to one request are written.

    Args:
        kind: of the request.
        ticket: the reply's id.
        created: when, in seconds since 1970.
        model: as the client has called it.
        fingerprint: of what is served.
        vocabulary: that spells tokens.
        alternatives: log-probabilities in OpenAI's form, with so many likely tokens; None leaves them out.
        details: ``trimtab.tokens`` are told, with so many likely tokens; None leaves them out.
    """

    kind: Kind
    ticket: str
    created: int
    model: str
    fingerprint: str
    vocabulary: Vocabulary
    alternatives: int | None
    details: int | None
    _offsets: dict[int, int] = field(default_factory=dict)

    def whole(self, choices: Sequence[Chosen], prompt_tokens: int, own: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a request that is not streamed."""
        object_ = "text_completion" if self.kind == "completion" else "chat.completion"
        return {
            **self._head(object_),
            "choices": [self._choice(each) for each in choices],
            "usage": usage(prompt_tokens, sum(each.tokens for each in choices)),
            "trimtab": own,
        }

    def first(self, index: int) -> dict[str, Any] | None:
        """Return the piece of a stream that opens an answer, which chats have."""
        if self.kind == "completion":
            return None
        return self._chunk([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def piece(self, index: int, text: str, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the piece of a stream that goes on with an answer."""
        return self._chunk([self._part(index, text, pieces, None)])

    def last(self, chosen: Chosen) -> dict[str, Any]:
        """Return the piece of a stream that ends an answer."""
        part = self._part(chosen.index, "", (), FINISH[chosen.finish])
        return self._chunk([{**part, "trimtab": self._own(chosen, tokens=False)}])

    def counted(self, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """Return the piece of a stream that says how many tokens there were."""
        return {**self._chunk([]), "usage": usage(prompt_tokens, tokens)}

    def _head(self, object_: str) -> dict[str, Any]:
        head = {"id": self.ticket, "object": object_, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        object_ = "text_completion" if self.kind == "completion" else "chat.completion.chunk"
        return {**self._head(object_), "choices": choices}

    def _choice(self, chosen: Chosen) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": chosen.index, "finish_reason": FINISH[chosen.finish]}
        choice["logprobs"] = self._log_probs(chosen.index, chosen.pieces)
        choice["trimtab"] = self._own(chosen, tokens=True)
        if self.kind == "completion":
            return {"text": chosen.text, **choice}
        return {"message": {"role": "assistant", "content": chosen.text, "refusal": None}, **choice}

    def _part(self, index: int, text: str, pieces: Sequence[Piece], finish: str | None) -> dict[str, Any]:
        part: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
        if pieces:
            part["logprobs"] = self._log_probs(index, pieces)
            if self.details is not None:
                part["trimtab"] = {"tokens": self._tokens(pieces)}
        if self.kind == "completion":
            return {"text": text, **part}
        return {"delta": {"content": text} if finish is None else {}, **part}

    def _own(self, chosen: Chosen, *, tokens: bool) -> dict[str, Any]:
        own: dict[str, Any] = {"kl": finite(chosen.kl)}
        if self.details is not None and tokens:
            own["tokens"] = self._tokens(chosen.pieces)
        if chosen.score is not None:
            own["score"] = finite(chosen.score)
        if chosen.found is not None:
            own["found"] = chosen.found
        return own

    def _tokens(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        return [piece_to_dict(each, self.vocabulary, self.details or 0) for each in pieces]

    def _log_probs(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """Return log-probabilities in OpenAI's form, as chats or completions have them."""
        if self.alternatives is None:
            return None
        if self.kind == "chat":
            return {"content": [self._content(each) for each in pieces], "refusal": None}
        start = self._offsets.get(index, 0)
        offsets = [start]
        for each in pieces:
            offsets.append(offsets[-1] + len(each.text))
        self._offsets[index] = offsets.pop()
        return {
            "tokens": [each.text for each in pieces],
            "token_logprobs": [told(each.log_prob) for each in pieces],
            "top_logprobs": [self._by_text(each) for each in pieces] if self.alternatives else None,
            "text_offset": offsets,
        }

    def _by_text(self, piece: Piece) -> dict[str, float]:
        """Return likely tokens by their text, of those with one text the likeliest, and the picked one among them."""
        found = {piece.text: told(piece.log_prob)}
        for text, log_prob in self._likely(piece):
            found.setdefault(text, log_prob)
        return found

    def _content(self, piece: Piece) -> dict[str, Any]:
        top = [_told(text, log_prob) for text, log_prob in self._likely(piece)]
        return {**_told(piece.text, piece.log_prob), "top_logprobs": top}

    def _likely(self, piece: Piece) -> list[tuple[str, float]]:
        choices = () if piece.detail is None else piece.detail.alternatives[: self.alternatives]
        return [(self.vocabulary.decode([each.token]), told(each.log_prob)) for each in choices]


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """Return OpenAI's count of tokens."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


def _told(text: str, log_prob: float) -> dict[str, Any]:
    whole = "\N{REPLACEMENT CHARACTER}" not in text  # a part of a character has bytes that its text does not tell
    spelled = list(text.encode("utf-8", "surrogatepass")) if whole else None
    return {"token": text, "logprob": told(log_prob), "bytes": spelled}
