"""Any scorer of texts as a value: it reads the text so far, whatever tokens it is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.errors import RewardError
from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards.reward import Reward, as_reward
from trimtab.rewards.score import score
from trimtab.values.value import Chunk, Granularity


@dataclass(frozen=True)
class RewardValue:
    """A reward for finished answers, or a classifier of text, asked about every prefix.

    A reward that was made for finished answers need not say anything of value about prefixes; best-of-N, which asks
    about whole answers only, is always right. Where one text of several cannot be scored its score is NaN: the search
    goes on without it, with a warning that names it.

    Args:
        reward: a reward, or a function ``(prompts, completions, **columns) -> list[float]``.
        finished_only: whether unfinished answers score 0, so that it only speaks at the end.

    Example:
        >>> def shouting(completions, **columns):
        ...     return [float(text.isupper()) for text in completions]
        >>> RewardValue(shouting).granularity
        'prefix'

    Reference: Khanov et al. (2024), ARGS, and Mudgal et al. (2024), Controlled Decoding, rank prefixes by a reward.
    """

    reward: Reward | Callable[..., list[float]]
    finished_only: bool = False

    @property
    def granularity(self) -> Granularity:
        """Prefixes, or finished answers."""
        return "answer" if self.finished_only else "prefix"

    @property
    def additive(self) -> bool:
        """Rewards of texts do not add up."""
        return False

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """None: it reads texts."""
        return ()

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return nothing: it reads texts."""
        return ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> RewardState:
        """Begin with one row a prompt."""
        texts = tuple(vocabulary.decode(list(prompt)) for prompt in prompts)
        return RewardState(self, vocabulary, texts, ((),) * len(prompts))


@dataclass(frozen=True)
class RewardState:
    """The texts of N rows.

    Args:
        value: what scores them.
        vocabulary: of their tokens.
        prompts: their prompts' texts.
        answers: their tokens so far.
    """

    value: RewardValue
    vocabulary: Vocabulary
    prompts: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...]

    def select(self, rows: Tensor) -> RewardState:
        """Keep these rows, in this order; a row may appear several times."""
        index = rows.tolist()
        return replace(
            self, prompts=tuple(self.prompts[i] for i in index), answers=tuple(self.answers[i] for i in index)
        )

    def extend(self, chunk: Chunk) -> tuple[Tensor, RewardState]:
        """Score the texts with their new tokens."""
        new = (row[:count] for row, count in zip(chunk.tokens.tolist(), chunk.counts.tolist(), strict=True))
        answers = tuple((*answer, *tokens) for answer, tokens in zip(self.answers, new, strict=True))
        scores = torch.zeros(len(answers))
        asked = torch.nonzero(chunk.finished).flatten() if self.value.finished_only else torch.arange(len(answers))
        if len(asked):
            prompts = [self.prompts[i] for i in asked.tolist()]
            texts = [self.vocabulary.decode(list(answers[i])) for i in asked.tolist()]
            scores[asked] = torch.tensor(self._scores(prompts, texts))
        return scores, replace(self, answers=answers)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> None:
        """Say nothing: texts have to be read."""
        return None

    def _scores(self, prompts: list[str], texts: list[str]) -> list[float]:
        """Score a batch, or its texts one by one where one of them cannot be scored.

        Raises:
            RewardError: none of them can be scored.
        """
        try:
            return score(as_reward(self.value.reward), prompts, texts)
        except RewardError as error:
            if len(texts) == 1:
                warnings.warn(f"{error}\nThe search goes on without it.", stacklevel=2)
                return [math.nan]
            scores = [self._scores([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]
            if all(map(math.isnan, scores)):
                raise
            return scores
