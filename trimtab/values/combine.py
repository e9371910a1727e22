"""Values made of values: weighted sums, and scores per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.value import Chunk, Granularity, Value, ValueState


@dataclass(frozen=True)
class Sum:
    """A weighted sum of values, ``sum_i w_i V_i``.

    Args:
        terms: pairs of a weight and a value.

    Raises:
        ConfigError: there are no terms.
    """

    terms: tuple[tuple[float, Value], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError(given="a sum of no values", expected="at least one term", hint="Sum(((1.0, value),))")

    @property
    def granularity(self) -> Granularity:
        """The coarsest of its terms'."""
        order: tuple[Granularity, ...] = ("token", "prefix", "answer")
        return max((value.granularity for _, value in self.terms), key=order.index)

    @property
    def additive(self) -> bool:
        """Whether all terms are."""
        return all(value.additive for _, value in self.terms)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Those of its terms."""
        return tuple(dict.fromkeys(leaf for _, value in self.terms for leaf in value.leaves))

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return what its terms want to hear of."""
        return tuple(dict.fromkeys(leaf for _, value in self.terms for leaf in value.watched(running)))

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> SumState:
        """Begin with one row a prompt."""
        states = tuple(value.start(prompts, vocabulary, watched) for _, value in self.terms)
        return SumState(tuple(weight for weight, _ in self.terms), states)


@dataclass(frozen=True)
class SumState:
    """Where N rows stand with every term.

    Args:
        weights: of the terms.
        states: theirs.
    """

    weights: tuple[float, ...]
    states: tuple[ValueState, ...]

    def select(self, rows: Tensor) -> SumState:
        """Keep these rows, in this order; a row may appear several times."""
        return SumState(self.weights, tuple(state.select(rows) for state in self.states))

    def extend(self, chunk: Chunk) -> tuple[Tensor, SumState]:
        """Add up the terms' scores."""
        found = [state.extend(chunk) for state in self.states]
        total = torch.stack(
            [weight * scores.cpu() for weight, (scores, _) in zip(self.weights, found, strict=True)]
        ).sum(0)
        return total, SumState(self.weights, tuple(state for _, state in found))

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor | None:
        """Add up the terms' scores of k tokens a row, (N, k), or None where a term has to read them."""
        found = []
        for weight, state in zip(self.weights, self.states, strict=True):
            if (scores := state.ahead(tokens, heard)) is None:
                return None
            found.append(weight * scores.to(tokens.device))
        return torch.stack(found).sum(0)


@dataclass(frozen=True)
class PerToken:
    """A value divided by the number of tokens, so that long answers are not scored by their length.

    Args:
        value: what is divided.
    """

    value: Value

    @property
    def granularity(self) -> Granularity:
        """That of the value."""
        return self.value.granularity

    @property
    def additive(self) -> bool:
        """Means do not add up."""
        return False

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Those of the value."""
        return self.value.leaves

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return what the value wants to hear of."""
        return self.value.watched(running)

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> PerTokenState:
        """Begin with one row a prompt."""
        nothing = torch.zeros(len(prompts), dtype=torch.long)
        return PerTokenState(nothing, self.value.start(prompts, vocabulary, watched))


@dataclass(frozen=True)
class PerTokenState:
    """N rows and how long they are.

    Args:
        lengths: tokens of each answer, (N,), on the CPU.
        state: of the value.
    """

    lengths: Tensor
    state: ValueState

    def select(self, rows: Tensor) -> PerTokenState:
        """Keep these rows, in this order; a row may appear several times."""
        return PerTokenState(self.lengths[rows], self.state.select(rows))

    def extend(self, chunk: Chunk) -> tuple[Tensor, PerTokenState]:
        """Divide the scores by the lengths."""
        scores, state = self.state.extend(chunk)
        lengths = self.lengths + chunk.counts
        return scores / lengths.clamp(min=1).to(scores.device), PerTokenState(lengths, state)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor | None:
        """Divide the scores of k tokens a row, (N, k), or None where the value has to read them."""
        scores = self.state.ahead(tokens, heard)
        return None if scores is None else scores / (self.lengths + 1).to(scores.device)[:, None]
