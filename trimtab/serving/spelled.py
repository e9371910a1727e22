"""An answer as it grows, with the piece of text that belongs to each token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trimtab.decoding.answer import Written
from trimtab.decoding.detail import Choice, Detail
from trimtab.engines.base import Update
from trimtab.policies.speller import Speller
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.numbers import finite


@dataclass(frozen=True)
class Piece:
    """One token of an answer.

    Args:
        text: its piece of the answer's text.
        token: its id.
        log_prob: under the policy, in nats.
        reference_log_prob: under the reference; None where the engine does not tell.
        kl: of its step, in nats; None where the engine does not tell.
        detail: what steering did; None where it was not asked for.
    """

    text: str
    token: int
    log_prob: float
    reference_log_prob: float | None
    kl: float | None
    detail: Detail | None


@dataclass
class Growing:
    """Takes the updates of one answer, and says what is new in each.

    Args:
        vocabulary: that spells it.
        told: whether pieces are wanted beside the text.
    """

    vocabulary: Vocabulary
    told: bool
    sent: int = 0
    tokens: int = 0
    _speller: Speller = field(init=False)

    def __post_init__(self) -> None:
        self._speller = Speller(self.vocabulary)

    def take(self, update: Update) -> tuple[str, list[Piece]]:
        """Return the text and the tokens that an update adds; tokens of a stop text have pieces and no text."""
        text = update.text[self.sent :]
        self.sent = max(self.sent, len(update.text))
        written = written_of(update)
        count = self.tokens
        self.tokens = max(self.tokens, len(written.token_ids))
        if not self.told:
            return text, []
        spelled = len(update.pieces) == len(written.token_ids)  # an engine that streams nothing spells nothing out
        texts = update.pieces if spelled else self._speller.of(written.token_ids)
        return text, [_piece(texts[i], written, i) for i in range(count, len(written.token_ids))]


def _piece(text: str, written: Written, i: int) -> Piece:
    return Piece(
        text,
        written.token_ids[i],
        written.log_probs[i],
        written.reference_log_probs[i] if written.reference_log_probs else None,
        written.kl[i] if written.kl else None,
        written.details[i] if written.details else None,
    )


def written_of(update: Update) -> Written:
    """Return the tokens of an answer, finished or not."""
    if update.answer is None:
        return update.written or Written((), ())
    answer = update.answer
    return Written(answer.token_ids, answer.log_probs, answer.reference_log_probs, answer.kl, answer.details)


def piece_to_dict(piece: Piece, vocabulary: Vocabulary, most: int) -> dict[str, Any]:
    """Return a token with all that is known of it, as ``trimtab.tokens`` has it; null where a number is infinite."""
    told: dict[str, Any] = {
        "token": piece.text,
        "id": piece.token,
        "logprob": piece.log_prob,
        "reference_logprob": piece.reference_log_prob,
        "kl": piece.kl,
    }
    if piece.detail is not None:
        told["factors"] = dict(piece.detail.chosen.factors)
        told["alternatives"] = [_choice(choice, vocabulary) for choice in piece.detail.alternatives[:most]]
    return {name: finite(each) for name, each in told.items()}


def _choice(choice: Choice, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "token": vocabulary.decode([choice.token]),
        "id": choice.token,
        "logprob": choice.log_prob,
        "reference_logprob": choice.reference_log_prob,
        "factors": dict(choice.factors),
    }
