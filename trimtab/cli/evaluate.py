"""`trimtab eval`: policies beside their base, scored by judges that no training saw."""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.console import Talk
from trimtab.cli.options import (
    SUFFIXES,
    Device,
    Dtype,
    Json,
    Knobs,
    Models,
    Quiet,
    Seed,
    build_policy,
    knob_values,
    pairs,
)
from trimtab.errors import ConfigError


class Task(StrEnum):
    """What can be evaluated."""

    sentiment = "sentiment"


def evaluate(  # noqa: PLR0913 -- one parameter an option
    task: Annotated[Task, typer.Argument(help="What to evaluate.")],
    policies: Annotated[list[str], typer.Argument(help="Policy files or expressions; their base is added.")],
    model: Models = None,
    knob: Knobs = None,
    judge: Annotated[list[str] | None, typer.Option(help="rt, vader, or module:function; may be repeated.")] = None,
    reward: Annotated[str | None, typer.Option(help="What the guides were trained on.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Unseen prompts.")] = 60,
    n: Annotated[int, typer.Option("-n", min=1, help="Answers a prompt.")] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 24,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare policies with their base on unseen prompts."""
    from trimtab.decoding.request import Settings
    from trimtab.evaluation.compare import compare
    from trimtab.policies.base import Policy
    from trimtab.rewards import check_independent, load_judge, load_reward
    from trimtab.tasks import sentiment

    talk = Talk(as_json, quiet)
    trained_on = load_reward(reward or sentiment.REWARD, progress=talk.note)
    judges = [load_judge(name, progress=talk.note) for name in judge or sentiment.JUDGES]
    sources, values = pairs(model or [], "--model"), knob_values(knob or [])
    rewards = [trained_on, *(load_reward(spec) for spec in _rewards_of([*sources.values(), *policies]))]
    for seen, each in product(rewards, judges):  # before any model is loaded
        check_independent(seen, each)
    built = [build_policy(text, sources, values, dtype=dtype, device=device)[0] for text in policies]
    references = {policy.reference for policy in built}
    if len(references) > 1:
        raise ConfigError(
            given="policies on different bases", expected="one base to compare with", hint="evaluate them one by one"
        )
    shown: dict[str, Policy] = {"base": references.pop()}
    shown.update({text: policy for text, policy in zip(policies, built, strict=True) if policy != shown["base"]})
    comparison = compare(
        shown,
        sentiment.unseen_prompts(prompts),
        reward=trained_on,
        judges=judges,
        settings=Settings(max_new_tokens=max_new_tokens, seed=seed or 0),
        n=n,
        knobs=values,
        on_policy=lambda name: talk.note(f"sampling from {name}"),
    )
    if as_json:
        talk.result(comparison.to_dict())
    else:
        talk.comparison(comparison)


def _rewards_of(sources: list[str]) -> list[str | dict[str, Any]]:
    """Return what the guides among some models and policy files were trained on, as far as their folders say."""
    from trimtab.policies.lm import read_guide_file
    from trimtab.policies.policy_file import read_policy_file

    files = [read_policy_file(source) for source in sources if source.endswith(SUFFIXES)]
    folders = [*sources, *(model.source for file in files for model in file.models.values())]
    about = [read_guide_file(Path(folder)) for folder in folders]
    return [each["trained"]["reward"] for each in about if "trained" in each]
