"""`trimtab eval`: policies beside their base, scored by judges that no training saw."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.asked import Asked, common_base, refuse_unknown_knobs
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
from trimtab.cli.prepared import Choices, prepare
from trimtab.cli.searching import search_settings

if TYPE_CHECKING:
    from trimtab.policies.base import Policy
    from trimtab.policies.search_settings import SearchSettings
    from trimtab.tasks.baselines import Contestant
    from trimtab.tasks.task import Row


def evaluate(  # noqa: PLR0913 -- one parameter an option
    task: Annotated[str, typer.Argument(help="What to evaluate: sentiment, toxicity, ...")],
    policies: Annotated[list[str], typer.Argument(help="Policy files or expressions; their base is added.")],
    baseline: Annotated[
        list[str] | None, typer.Option(help="instruction, examples, or best-of-N; may be repeated.")
    ] = None,
    model: Models = None,
    vector: Vectors = None,
    knob: Knobs = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="A built-in name or module:function; may be repeated.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="What the guides were trained on.")] = None,
    reader: Annotated[
        list[str] | None, typer.Option(help="A language model; the answers' perplexity under it is reported.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Other prompts: a file, a hub id, or xsum:FILE.")] = None,
    prompts: Annotated[int, typer.Option("--prompts", "--limit", min=1, help="Unseen prompts.")] = 60,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Answers a prompt; the task's own number.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens; the task's own.")] = None,
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
    out: Annotated[Path | None, typer.Option(help="A folder for table.md, results.json and report.html.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare policies with their base on unseen prompts; a policy file with a search is evaluated by searching."""
    from trimtab.evaluation.report import Findings, write_report
    from trimtab.tasks.baselines import Contestant
    from trimtab.tasks.baselines import baseline as build_baseline
    from trimtab.tasks.contest import contest

    talk = Talk(as_json, quiet)
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
    named += [each.value for each in searches if each is not None]
    ready = prepare(task, Choices(reward, judge or (), data, prompts, n, reader or ()), named, talk)
    built = [each.policy(values) for each in asked]
    refuse_unknown_knobs(values, built)
    base = common_base(built)
    conditions = ready.conditions(base, seed, values, max_new_tokens)
    shown = {"base": Contestant(base), **_contestants(asked, built, searches, base, conditions.rows, talk)}
    shown |= {name: build_baseline(name, ready.task, base, ready.reward, conditions.rows) for name in baseline or []}
    found = contest(
        ready.task,
        shown,
        conditions,
        on_policy=lambda name: talk.note(f"{'searching with' if shown[name].search else 'sampling from'} {name}"),
    )
    if out is not None:
        found.write(out)
        findings = Findings(found.table, found.warnings, commands=[("Measure it again", shlex.join(sys.argv))])
        write_report(out / "report.html", found.comparison, title=ready.task.title, findings=findings)
        talk.note(f"written to {out}")
    if as_json:
        talk.result(found.to_dict())
    else:
        talk.standing(found)


def _contestants(
    asked: Sequence[Asked],
    policies: Sequence[Policy],
    searches: Sequence[SearchSettings | None],
    base: Policy,
    rows: Sequence[Row],
    talk: Talk,
) -> dict[str, Contestant]:
    """Return the policies that differ from the base, or whose answers are searched for."""
    from trimtab.decoding.search_plan import build_plan
    from trimtab.tasks.baselines import Contestant, informed

    found = {}
    for wanted, policy, settings in zip(asked, policies, searches, strict=True):
        if settings is not None:
            plan = build_plan(settings, wanted.lm, progress=talk.note)
            found[f"{wanted.text} ({settings.method})"] = Contestant(policy, informed(plan, policy.vocabulary, rows))
        elif policy != base:
            found[wanted.text] = Contestant(policy)
    return found
