"""Fresh continuations of prefixes, whose mean reward is what a prefix is worth by Monte Carlo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trimtab.decoding.pool import Pool
from trimtab.decoding.request import Request, Row
from trimtab.policies.base import Policy
from trimtab.rewards import Reward, score
from trimtab.training.rollouts import Rollout, columns_of, settings_of
from trimtab.training.small_settings import ValueSettings


def monte_carlo(
    policy: Policy,
    rollouts: Sequence[Rollout],
    asked: Sequence[dict[str, Any]],
    reward: Reward,
    settings: ValueSettings,
    *,
    seed: int,
) -> list[dict[int, float]]:
    """Cut answers at random places and continue each prefix several times.

    Args:
        policy: who continues.
        rollouts: the answers.
        asked: the prompt of each, with the columns that the reward receives.
        reward: scores whole answers.
        settings: cuts an answer, continuations a cut, and how they are sampled.
        seed: of cuts and sampling.

    Returns:
        For each answer the mean reward of its prefixes by their lengths in tokens, and its own reward at its end.

    Raises:
        RewardError: the reward failed.
    """
    random = np.random.default_rng(seed)
    how, longest = settings_of(settings.answers.rollout, seed), settings.answers.rollout.max_new_tokens
    cuts: list[tuple[int, int]] = []
    for number, rollout in enumerate(rollouts):
        places = np.arange(1, min(len(rollout.completion), longest))
        cuts += [(number, int(cut)) for cut in random.choice(places, min(settings.cuts, len(places)), replace=False)]
    pool = Pool(policy, metered=False)
    for number, cut in cuts:
        prefix = (*rollouts[number].prompt, *rollouts[number].completion[:cut])
        request = Request(prefix, settings.continuations, occurrence=number)
        pool.submit(request, replace(how, min_new_tokens=0, max_new_tokens=longest - cut))
    rows: list[Row] = []
    while pool.busy:
        rows += pool.step()
    rows.sort(key=lambda row: row.place)
    for row in rows:
        if row.error is not None:
            raise row.error
    owners = [cut for cut in cuts for _ in range(settings.continuations)]
    repeated = [asked[number] for number, _ in owners]
    starts = (rollouts[number].completion[:cut] for number, cut in owners)
    answers = [policy.vocabulary.decode([*start, *row.tokens]) for start, row in zip(starts, rows, strict=True)]
    scored = score(reward, [row["prompt"] for row in repeated], answers, columns_of(repeated))
    rewards = np.array(scored).reshape(-1, settings.continuations)
    found = [{len(rollout.completion): rollout.reward} for rollout in rollouts]
    for (number, cut), value in zip(cuts, rewards.mean(1).tolist(), strict=True):
        found[number][cut] = value
    return found
