"""What a value is: a scorer of unfinished answers, with a state that goes where the rows of a search go.

It knows tokens and texts, not how they are found; a search proposes chunks, and values say what they are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary

Granularity = Literal["token", "prefix", "answer"]
"""What is scored well: the entries of a vocabulary at every step, every prefix, or finished answers only."""


@dataclass(frozen=True)
class Chunk:
    """New tokens of N rows.

    Args:
        tokens: token ids, shape (N, T); those past a row's count are fillers.
        counts: new tokens of each row, shape (N,), on the CPU.
        finished: which rows end with this chunk, shape (N,), on the CPU.
        heard: for each watched leaf the sum of the log-probabilities it gave to the new tokens, shape (N,), in nats.
        log_probs: the same sum for the policy that proposes, at temperature 1, shape (N,), on the CPU.
    """

    tokens: Tensor
    counts: Tensor
    finished: Tensor
    heard: Mapping[Leaf, Tensor]
    log_probs: Tensor


class ValueState(Protocol):
    """Where N rows stand with a value; never changed in place."""

    def select(self, rows: Tensor) -> ValueState:
        """Keep these rows, in this order; a row may appear several times."""
        ...

    def extend(self, chunk: Chunk) -> tuple[Tensor, ValueState]:
        """Score every row with its new tokens; returns float32 scores of the whole answers so far, shape (N,).

        NaN is the score of a row that could not be scored; a warning has said why.
        """
        ...

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor | None:
        """Score every row with each of k tokens, one at a time, without reading them.

        Args:
            tokens: k token ids a row, shape (N, k).
            heard: for each watched leaf the log-probabilities of these tokens, shape (N, k), in nats.

        Returns:
            What :meth:`extend` would score rows of them, shape (N, k), or None where they have to be read for that.
        """
        ...


class Value(Protocol):
    """A scorer of prefixes. Values are combined by :class:`~trimtab.values.combine.Sum`."""

    @property
    def granularity(self) -> Granularity:
        """What it scores well."""
        ...

    @property
    def additive(self) -> bool:
        """Whether the score of an answer is the sum of the scores of its tokens."""
        ...

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The models that it reads with, whose contexts must hold what it scores."""
        ...

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return which of the leaves that run anyway it wants to hear of, so that it need not run them again."""
        ...

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> ValueState:
        """Begin with one row a prompt.

        Args:
            prompts: token ids.
            vocabulary: of the policy that proposes.
            watched: leaves that will be heard of in every chunk.

        Raises:
            VocabularyError: it reads other tokens.
        """
        ...
