"""What the models of a command line were trained on, as far as their folders say, and what may therefore not judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.console import Talk
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.rewards import Reward


def rewards_of(sources: Sequence[str]) -> list[str | dict[str, Any]]:
    """Return what guides were trained on, and what searches are scored by.

    Args:
        sources: of models, and values of searches.
    """
    named = [source.removeprefix("reward:") for source in sources if source.startswith("reward:")]
    return [*named, *(each["reward"] for each in _trained(sources) if "reward" in each)]


def refuse_dependent(trained_on: Reward, sources: Sequence[str], judges: Sequence[Reward], talk: Talk) -> None:
    """Refuse judges of a reward that the command line names, or that a guide was trained on.

    Raises:
        ConfigError: one shares a scorer or data with a reward.
    """
    from trimtab.rewards import check_independent, load_reward

    rewards = [trained_on, *(load_reward(spec, progress=talk.note) for spec in rewards_of(sources))]
    for reward, judge in product(rewards, judges):
        check_independent(reward, judge)


def refuse_trained_prompts(sources: Sequence[str], data: str, rows: Iterable[dict[str, Any]], talk: Talk) -> None:
    """Refuse prompts that a guide was trained on; the splits of built-in sources are apart already.

    Args:
        sources: of models.
        data: where the prompts come from.
        rows: the prompts, as they are in the data.
        talk: told where the prompts of a training cannot be read any more.

    Raises:
        ConfigError: one is a training prompt.
    """
    from trimtab.assets import PROMPT_SOURCES
    from trimtab.tasks.data import refuse_overlap
    from trimtab.training.config import PromptsConfig
    from trimtab.training.prompts import read_prompts

    asked = list(rows)
    for prompts in [each["prompts"] for each in _trained(sources) if "prompts" in each]:
        config = PromptsConfig.model_validate(prompts)
        if config.source in PROMPT_SOURCES and data in PROMPT_SOURCES:
            continue
        try:
            seen = read_prompts(config)
        except ConfigError as error:
            talk.note(f"not checked against training prompts, which cannot be read: {error.given}")
            continue
        refuse_overlap(seen, asked)


def _trained(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings that folders among sources, and the guides that they absorbed, were trained with."""
    from trimtab.policies.guide_folder import read_guide_file

    found = []
    for about in map(read_guide_file, map(Path, sources)):
        while about:
            found += [about["trained"]] if "trained" in about else []
            about = about.get("absorbed", {}).get("guide", {})
    return found
