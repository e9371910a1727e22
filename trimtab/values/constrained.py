"""A value to maximise while others stay above thresholds, by multipliers that grow while they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.combine import Sum
from trimtab.values.value import Chunk, Granularity, Value, ValueState


@dataclass(frozen=True)
class Constrained:
    """A primary value under constraints ``V_i >= b_i``, scored by its Lagrangian with a multiplier a constraint.

    ``V = V_0 + sum_i lambda_i (V_i - b_i)``, and from the second boundary on, before scoring,
    ``lambda_i <- max(0, lambda_i + rate (b_i - V_i))``, where ``V_i`` is the mean over the prompt's rows that went on
    from the boundary before. Every prompt has multipliers of its own, the same for all its rows, so that they are
    compared by one measure. Answers keep the score of the boundary at which they ended. The multipliers pull towards
    the thresholds and guarantee nothing: raise ``rate``, or ``initial`` where there is only one boundary.

    Args:
        primary: what is maximised, V_0.
        constraints: pairs of a value V_i and its threshold b_i.
        rate: step of the dual ascent.
        initial: what every multiplier is at the first boundary.

    Raises:
        ConfigError: there are no constraints, a threshold is not finite, the rate is not above 0, or the initial
            multiplier is below 0.

    Example:
        >>> from trimtab.values import RewardValue
        >>> length = RewardValue(lambda completions, **_: [float(len(text)) for text in completions])
        >>> calm = RewardValue(lambda completions, **_: [-float(text.count("!")) for text in completions])
        >>> Constrained(length, ((calm, -1.0),)).granularity
        'prefix'

    Reference: Chehade et al. (2025), SITAlign, whose Lagrangian tilts the distribution of every next token; here it
    ranks chunks.
    """

    primary: Value
    constraints: tuple[tuple[Value, float], ...]
    rate: float = 1.0
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not self.constraints or not all(math.isfinite(threshold) for _, threshold in self.constraints):
            raise ConfigError(
                given=f"the thresholds {[threshold for _, threshold in self.constraints]}",
                expected="at least one constraint, each with a finite number",
                hint="Constrained(primary, ((value, 0.5),))",
            )
        if not (0 < self.rate < math.inf and 0 <= self.initial < math.inf):
            raise ConfigError(
                given=f"rate={self.rate}, initial={self.initial}",
                expected="a rate above 0 and an initial multiplier of at least 0",
                hint="multipliers are never negative",
            )

    @property
    def granularity(self) -> Granularity:
        """The coarsest of its values'."""
        return self._values.granularity

    @property
    def additive(self) -> bool:
        """Multipliers change on the way."""
        return False

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Those of its values."""
        return self._values.leaves

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return what its values want to hear of."""
        return self._values.watched(running)

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> ConstrainedState:
        """Begin with one row a prompt."""
        thresholds = torch.tensor([threshold for _, threshold in self.constraints])
        return ConstrainedState(
            thresholds,
            self.rate,
            torch.arange(len(prompts)),
            torch.full((len(prompts), len(thresholds)), float(self.initial)),
            thresholds.repeat(len(prompts), 1),  # no ascent before there is anything to measure
            self._values.start(prompts, vocabulary, watched).states,
        )

    @property
    def _values(self) -> Sum:
        return Sum(((1.0, self.primary), *((1.0, value) for value, _ in self.constraints)))


@dataclass(frozen=True)
class ConstrainedState:
    """Where N rows stand with the primary value and C constraints; all on the CPU but the values' own states.

    Args:
        thresholds: (C,).
        rate: of the dual ascent.
        prompts: number of each row's prompt, (N,).
        multipliers: of each row's prompt at the boundary before, (N, C).
        measured: the constrained values then, (N, C).
        states: of the values, the primary one first.
    """

    thresholds: Tensor
    rate: float
    prompts: Tensor
    multipliers: Tensor
    measured: Tensor
    states: tuple[ValueState, ...]

    def select(self, rows: Tensor) -> ConstrainedState:
        """Keep these rows, in this order; a row may appear several times."""
        return ConstrainedState(
            self.thresholds,
            self.rate,
            self.prompts[rows],
            self.multipliers[rows],
            self.measured[rows],
            tuple(state.select(rows) for state in self.states),
        )

    def extend(self, chunk: Chunk) -> tuple[Tensor, ConstrainedState]:
        """Move the multipliers by what has gone on, and score the Lagrangian."""
        found = [state.extend(chunk) for state in self.states]
        primary, *others = (scores.float().cpu() for scores, _ in found)
        measured, multipliers = torch.stack(others, 1), self._ascended()
        total = primary + (multipliers * (measured - self.thresholds)).sum(1)
        states = tuple(state for _, state in found)
        return total, ConstrainedState(self.thresholds, self.rate, self.prompts, multipliers, measured, states)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> None:
        """Return nothing: multipliers move when chunks are read."""

    def _ascended(self) -> Tensor:
        """Return the multipliers after a step by the mean violation of each prompt's rows, (N, C)."""
        lacking = self.thresholds - self.measured
        per_prompt = torch.zeros(int(self.prompts.max()) + 1, len(self.thresholds))
        sums = per_prompt.index_add(0, self.prompts, lacking)
        rows = torch.bincount(self.prompts)[self.prompts]
        return (self.multipliers + self.rate * sums[self.prompts] / rows[:, None]).clamp(min=0)
