"""The tokens of an answer as the pieces of text they add, so that each can be shown with what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.decoding.answer import Answer
from trimtab.policies.vocabulary import Vocabulary

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """The text that one token adds, or several tokens that spell one character together.

    Args:
        text: with its spaces; empty for a token that is not shown, such as one that ends the answer.
        start: place of its first token in the answer.
        stop: place after its last token.
    """

    text: str
    start: int
    stop: int


def spell(answer: Answer, vocabulary: Vocabulary) -> list[Piece]:
    """Cut an answer into pieces whose texts join to what follows the prompt.

    Each piece is what decoding with one more token adds, so spaces and characters of several bytes come out right
    whatever the tokenizer does with them.

    Args:
        answer: what to spell.
        vocabulary: its tokens.

    Returns:
        Pieces that cover every token once, in order.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> coin = Table.of({"": {"heads": 0.9, "tails": 0.1}})
        >>> [piece.text for piece in spell(coin.generate("heads", max_new_tokens=2, temperature=0)[0], coin.vocabulary)]
        [' heads', ' heads']
    """
    ids = [*vocabulary.encode(answer.prompt)]
    shown = vocabulary.decode(ids)
    pieces: list[Piece] = []
    start = 0
    for stop, token in enumerate(answer.token_ids, 1):
        ids.append(token)
        text = vocabulary.decode(ids)
        if text.endswith(_INCOMPLETE) and stop < len(answer.token_ids):
            continue  # the bytes of one character are spread over tokens
        pieces.append(Piece(text[len(shown) :], start, stop))
        start, shown = stop, text
    return pieces
