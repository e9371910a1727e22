"""Preference pairs: read from a file or hub data set, or made of the best and the worst sampled answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary
from trimtab.training.answers import Progress, numbered, prompt_of, scored_answers, whole_answer
from trimtab.training.rollouts import Rollout
from trimtab.training.rows import read_rows, text_of
from trimtab.training.small_settings import PairsSettings


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, one of which is preferred; all are token ids."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def preference_pairs(
    pairs: PairsSettings, policy: Policy | None, vocabulary: Vocabulary, *, seed: int, progress: Progress
) -> list[Pair]:
    """Read pairs, or sample answers and pair the best with the worst.

    Pairs with an empty answer and pairs of equals teach nothing; they are skipped, and how many is said.

    Args:
        pairs: which.
        policy: who writes sampled answers.
        vocabulary: of the model that will learn from them.
        seed: of the sampling.
        progress: told what is going on.

    Raises:
        ConfigError: the data is broken, or all pairs were skipped.
        RewardError: the reward failed.
    """
    if policy is not None:
        rollouts = scored_answers(pairs.answers, policy, vocabulary, seed=seed, progress=progress)
        found, skipped = pair_up(rollouts, pairs.margin)
        why = f"whose rewards differ by no more than {pairs.margin}"
    else:
        found, skipped = _read(pairs, vocabulary)
        why = "with an empty answer or two equal ones"
    if skipped:
        progress(f"skipped {skipped} of {len(found) + skipped} pairs {why}")
    if not found:
        raise ConfigError(
            given=f"{skipped} preference pairs from {pairs.source!r}, all {why}",
            expected="at least one pair of which one answer is better",
            hint="check the columns and the reward, or raise the number of answers a prompt",
        )
    return found[: pairs.limit]


def pair_up(rollouts: Sequence[Rollout], margin: float) -> tuple[list[Pair], int]:
    """Pair the best answer to each prompt with the worst.

    Args:
        rollouts: scored answers.
        margin: the rewards of a pair must differ by more.

    Returns:
        The pairs, and the number of prompts without one.

    Example:
        >>> good, bad = Rollout((0,), (1,), (), 0.9), Rollout((0,), (2,), (), 0.1)
        >>> pair_up([bad, good, Rollout((5,), (1,), (), 0.5)], margin=0.0)
        ([Pair(prompt=(0,), chosen=(1,), rejected=(2,))], 1)
    """
    by_prompt: dict[tuple[int, ...], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_prompt[rollout.prompt].append(rollout)
    found = []
    for prompt, answers in by_prompt.items():
        best, worst = max(answers, key=_reward), min(answers, key=_reward)
        if best.reward - worst.reward > margin and best.completion != worst.completion:
            found.append(Pair(prompt, best.completion, worst.completion))
    return found, len(by_prompt) - len(found)


def reward_of(pairs: PairsSettings) -> dict[str, Any]:
    """Return what ``trimtab.json`` says of the reward: which it was where answers were sampled, else nothing."""
    return {"reward": pairs.answers.reward} if pairs.source == "sampled" else {}


def pair_groups(pairs: Sequence[Pair]) -> list[int]:
    """Return for each pair the number of its prompt, equal prompts having equal numbers."""
    return numbered([pair.prompt for pair in pairs])


def _read(pairs: PairsSettings, vocabulary: Vocabulary) -> tuple[list[Pair], int]:
    rows = read_rows(pairs.source, pairs.split, text_column=pairs.prompt)
    found = []
    for number, row in rows:
        prompt, chosen, rejected = (
            text_of(row, number, column, pairs.source, f"pairs.{name}")
            for name, column in (("prompt", pairs.prompt), ("chosen", pairs.chosen), ("rejected", pairs.rejected))
        )
        if chosen.strip() and rejected.strip() and chosen != rejected:
            answers = (tuple(whole_answer(vocabulary, text)) for text in (chosen, rejected))
            found.append(Pair(prompt_of(vocabulary, prompt, number, pairs.source), *answers))
    return found, len(rows) - len(found)


def _reward(rollout: Rollout) -> float:
    return rollout.reward
