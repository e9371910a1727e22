"""Spelling out tokens as they come: each token's own piece of the text, in constant time a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trimtab.policies.vocabulary import Vocabulary

_HALF = "\N{REPLACEMENT CHARACTER}"


class Speller:
    """Turns a growing list of tokens into pieces of text.

    A token is decoded together with those since the last whole character, after the piece before, since what a token
    spells may depend on what stands before it. A token that ends in the middle of a character has an empty piece, and
    the one that completes it has the character.

    Args:
        vocabulary: whose tokens they are.

    Example:
        >>> speller = Speller(Vocabulary.of_pieces(["the", "end"]))
        >>> speller.push([0, 1]), speller.pieces, speller.text
        ('the end', ['the', ' end'], 'the end')
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pieces: list[str] = []
        self.text = ""
        self._vocabulary = vocabulary
        self._spelled: list[int] = []
        self._known = ""
        self._open: list[int] = []

    def __len__(self) -> int:
        return len(self.pieces)

    def of(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the pieces of all tokens so far, of which it has seen the first; those of a stop may be gone again."""
        self.push(tokens[len(self) :])
        return tuple(self.pieces[: len(tokens)])

    def push(self, tokens: Iterable[int]) -> str:
        """Take tokens on, and return what they add to the text."""
        start = len(self.text)
        for token in tokens:
            self._open.append(token)
            whole = self._vocabulary.decode([*self._spelled, *self._open])
            piece = "" if whole.endswith(_HALF) else whole[len(self._known) :]
            self.pieces.append(piece)
            self.text += piece
            if piece:
                self._spelled, self._open = self._open, []
                self._known = self._vocabulary.decode(self._spelled)
        return self.text[start:]
