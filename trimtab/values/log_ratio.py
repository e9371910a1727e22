"""The implicit value: how much likelier a tuned model finds an answer than the untuned one it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary
from trimtab.values.reader import Reader, log_probs_of, taken
from trimtab.values.value import Chunk, Granularity


@dataclass(frozen=True)
class LogRatio:
    """The log-ratio of a tuned and an untuned LM, summed over an answer's tokens.

    ``V(x, y) = sum_t log tuned(y_t | x, y_<t) - log untuned(y_t | x, y_<t)``, in nats. Where the policy runs both
    models anyway, their log-probabilities are summed up while tokens are picked and nothing is read again.

    Args:
        tuned: the model after preference optimisation.
        untuned: the model before it.

    Raises:
        VocabularyError: the two have different tokens, even as many.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> value = LogRatio(Table.random(5, seed=0, name="tuned"), Table.random(5, seed=1, name="untuned"))
        >>> value.additive, value.granularity
        (True, 'token')

    Reference: Rafailov et al. (2023), Direct Preference Optimization; as a value for search, Zhou et al. (2024),
    Weak-to-Strong Search.
    """

    tuned: Leaf
    untuned: Leaf

    def __post_init__(self) -> None:
        common_vocabulary(self.tuned.vocabulary, self.untuned.vocabulary)

    @property
    def granularity(self) -> Granularity:
        """Every next token has a log-ratio of its own."""
        return "token"

    @property
    def additive(self) -> bool:
        """It is a sum over tokens."""
        return True

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The pair."""
        return (self.tuned, self.untuned)

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return the pair, where both run anyway."""
        return (self.tuned, self.untuned) if {self.tuned, self.untuned} <= set(running) else ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> LogRatioState:
        """Begin with one row a prompt.

        Raises:
            VocabularyError: the policy that proposes has other tokens.
        """
        common_vocabulary(vocabulary, self.tuned.vocabulary)
        heard = {self.tuned, self.untuned} <= set(watched)
        reader = None if heard else Reader.of([self.tuned, self.untuned], prompts)
        return LogRatioState(self, torch.zeros(len(prompts)), reader)


@dataclass(frozen=True)
class LogRatioState:
    """Running sums of N rows.

    Args:
        value: whose they are.
        sums: in nats, (N,).
        reader: of the pair, where nobody else runs it.
    """

    value: LogRatio
    sums: Tensor
    reader: Reader | None

    def select(self, rows: Tensor) -> LogRatioState:
        """Keep these rows, in this order; a row may appear several times."""
        there = rows.to(self.sums.device)
        return LogRatioState(self.value, self.sums[there], self.reader and self.reader.select(rows))

    def extend(self, chunk: Chunk) -> tuple[Tensor, LogRatioState]:
        """Add the log-ratios of the new tokens."""
        pair, reader = (self.value.tuned, self.value.untuned), None
        if self.reader is None:
            tuned, untuned = (chunk.heard[leaf] for leaf in pair)
        else:
            before, reader = self.reader.read(chunk)
            tuned, untuned = (taken(before[leaf].log_softmax(-1), chunk).sum(1) for leaf in pair)
        sums = self.sums.to(tuned.device) + tuned - untuned
        return sums, LogRatioState(self.value, sums, reader)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor:
        """Add the log-ratios of k tokens a row, each to the row's sum, (N, k)."""
        pair = (self.value.tuned, self.value.untuned)
        if self.reader is None:
            tuned, untuned = (heard[leaf] for leaf in pair)
        else:
            tuned, untuned = (log_probs_of(tokens, self.reader.ahead[leaf]) for leaf in pair)
        return self.sums.to(tuned.device)[:, None] + tuned - untuned
