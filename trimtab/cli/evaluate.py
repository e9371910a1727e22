"""`trimtab eval`: policies beside their base, scored by judges that no training saw."""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.cli.options import (
    Beams,
    Branches,
    Chunk,
    Device,
    Dtype,
    Json,
    Knobs,
    Likelihood,
    Models,
    Quiet,
    Scorer,
    Searched,
    Seed,
    Threshold,
    Vectors,
    Weight,
    knob_values,
    pairs,
)
from trimtab.cli.searching import search_settings
from trimtab.errors import ConfigError


class Task(StrEnum):
    """What can be evaluated."""

    sentiment = "sentiment"


def evaluate(  # noqa: PLR0913 -- one parameter an option
    task: Annotated[Task, typer.Argument(help="What to evaluate.")],
    policies: Annotated[list[str], typer.Argument(help="Policy files or expressions; their base is added.")],
    model: Models = None,
    vector: Vectors = None,
    knob: Knobs = None,
    judge: Annotated[list[str] | None, typer.Option(help="rt, vader, or module:function; may be repeated.")] = None,
    reward: Annotated[str | None, typer.Option(help="What the guides were trained on.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Unseen prompts.")] = 60,
    n: Annotated[int, typer.Option("-n", min=1, help="Answers a prompt.")] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 24,
    search: Searched = None,
    value: Scorer = None,
    beams: Beams = None,
    branches: Branches = None,
    chunk: Chunk = None,
    threshold: Threshold = None,
    likelihood: Likelihood = None,
    weight: Weight = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare policies with their base on unseen prompts; a policy file with a search is evaluated by searching."""
    from trimtab.decoding.request import Settings
    from trimtab.decoding.search_plan import build_plan
    from trimtab.evaluation.compare import compare
    from trimtab.rewards import check_independent, load_judge, load_reward
    from trimtab.tasks import sentiment

    talk = Talk(as_json, quiet)
    trained_on = load_reward(reward or sentiment.REWARD, progress=talk.note)
    judges = [load_judge(name, progress=talk.note) for name in judge or sentiment.JUDGES]
    sources, values = pairs(model or [], "--model"), knob_values(knob or [])
    added = pairs(vector or [], "--vector")
    asked = [Asked.read(text, sources, added, dtype=dtype, device=device) for text in policies]
    flags = {
        "value": value,
        "beams": beams,
        "branches": branches,
        "chunk": chunk,
        "threshold": threshold,
        "likelihood": likelihood,
        "weight": weight,
    }
    searches = [search_settings(each, search, flags) for each in asked]
    named = [each for every in asked for each in every.sources.values()]
    specs = _rewards_of([*named, *(each.value for each in searches if each is not None)])
    rewards = [trained_on, *(load_reward(spec, progress=talk.note) for spec in specs)]
    for seen, each in product(rewards, judges):  # before any model is loaded
        check_independent(seen, each)
    built = [each.policy(values) for each in asked]
    references = {policy.reference for policy in built}
    if len(references) > 1:
        raise ConfigError(
            given="policies on different bases", expected="one base to compare with", hint="evaluate them one by one"
        )
    base = references.pop()
    shown, plans = {"base": base}, {}
    for wanted, policy, settings in zip(asked, built, searches, strict=True):
        if settings is not None:
            name = f"{wanted.text} ({settings.method})"
            shown[name], plans[name] = policy, build_plan(settings, wanted.lm, progress=talk.note)
        elif policy != base:
            shown[wanted.text] = policy
    comparison = compare(
        shown,
        sentiment.unseen_prompts(prompts),
        reward=trained_on,
        judges=judges,
        settings=Settings(max_new_tokens=max_new_tokens, seed=seed or 0),
        n=n,
        knobs=values,
        searches=plans,
        on_policy=lambda name: talk.note(f"{'searching with' if name in plans else 'sampling from'} {name}"),
    )
    if as_json:
        talk.result(comparison.to_dict())
    else:
        talk.comparison(comparison)


def _rewards_of(sources: list[str]) -> list[str | dict[str, Any]]:
    """Return what guides were trained on, as far as their folders say, and what searches are scored by."""
    from trimtab.policies.guide_folder import read_guide_file

    about = [read_guide_file(Path(folder)) for folder in sources]
    named = [source.removeprefix("reward:") for source in sources if source.startswith("reward:")]
    return [*named, *(each["trained"]["reward"] for each in about if "reward" in each.get("trained", {}))]
