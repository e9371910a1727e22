"""The implicit value: how much likelier a tuned model finds an answer than the untuned one it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.partial import refuse_partial
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary
from trimtab.values.reader import Reader, log_probs_of
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
        UsageError: one of them knows some tokens only.

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
        for leaf in self.leaves:
            refuse_partial(leaf, "in a log-ratio")

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
        """Return those of the pair that run anyway."""
        return tuple(leaf for leaf in self.leaves if leaf in running)

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> LogRatioState:
        """Begin with one row a prompt.

        Raises:
            VocabularyError: the policy that proposes has other tokens.
        """
        common_vocabulary(vocabulary, self.tuned.vocabulary)
        silent = [leaf for leaf in dict.fromkeys(self.leaves) if leaf not in watched]
        return LogRatioState(self, torch.zeros(len(prompts)), Reader.of(silent, prompts) if silent else None)


@dataclass(frozen=True)
class LogRatioState:
    """Running sums of N rows.

    Args:
        value: whose they are.
        sums: in nats, (N,).
        reader: of those of the pair that nobody else runs.
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
        entries, reader = (None, None) if self.reader is None else self.reader.read(chunk, normalised=True)
        read = {leaf: each.sum(1) for leaf, each in (entries or {}).items()}
        tuned, untuned = (read[leaf] if leaf in read else chunk.heard[leaf] for leaf in self.value.leaves)
        sums = self.sums.to(tuned.device) + tuned - untuned.to(tuned.device)
        return sums, LogRatioState(self.value, sums, reader)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor:
        """Add the log-ratios of k tokens a row, each to the row's sum, (N, k)."""
        known = {} if self.reader is None else self.reader.ahead
        tuned, untuned = (
            log_probs_of(tokens, known[leaf]) if leaf in known else heard[leaf] for leaf in self.value.leaves
        )
        return self.sums.to(tuned.device)[:, None] + tuned - untuned.to(tuned.device)
