"""How likely the policy itself finds an answer: known from when its tokens were picked, so nothing is run for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.value import Chunk, Granularity


@dataclass(frozen=True)
class LogLikelihood:
    """The log-probability of an answer under the policy that proposes it.

    ``V(x, y) = sum_t log pi(y_t | x, y_<t)``, in nats, at temperature 1 and before any warping. It falls with every
    token; :class:`~trimtab.values.combine.PerToken` makes it a mean.

    Example:
        >>> from trimtab.decoding import best_of_n, search
        >>> from trimtab.policies.toy import Table
        >>> coin = Table.of({"": {"heads": 0.75, "tails": 0.25}})
        >>> found = search(coin, "tails", LogLikelihood(), best_of_n(16), max_new_tokens=2, seed=0)
        >>> found[0].best.text, round(found[0].hypotheses[0][1], 4)  # 2 log 0.75
        ('heads heads', -0.5754)
    """

    @property
    def granularity(self) -> Granularity:
        """Every next token has a log-probability."""
        return "token"

    @property
    def additive(self) -> bool:
        """It is a sum over tokens."""
        return True

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """None: the policy's own are told."""
        return ()

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return nothing: every chunk tells what the policy as a whole said."""
        return ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> LogLikelihoodState:
        """Begin with one row a prompt."""
        return LogLikelihoodState(torch.zeros(len(prompts)))


@dataclass(frozen=True)
class LogLikelihoodState:
    """Running sums of N rows.

    Args:
        sums: in nats, (N,), on the CPU.
    """

    sums: Tensor

    def select(self, rows: Tensor) -> LogLikelihoodState:
        """Keep these rows, in this order; a row may appear several times."""
        return LogLikelihoodState(self.sums[rows])

    def extend(self, chunk: Chunk) -> tuple[Tensor, LogLikelihoodState]:
        """Add the log-probabilities of the new tokens."""
        sums = self.sums + chunk.log_probs
        return sums, LogLikelihoodState(sums)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> None:
        """Return nothing: chunks tell."""
