"""`trimtab eval`: policies beside their base, scored by judges that no training saw."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.asked import Asked, Wanted, common_base, refuse_unknown_knobs
from trimtab.cli.console import Talk
from trimtab.cli.contest_on_vllm import check_on_vllm, contest_on_vllm
from trimtab.cli.on_vllm import refuse_beside_vllm
from trimtab.cli.options import (
    Beams,
    Branches,
    Chunk,
    Device,
    Dtype,
    Engine,
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
from trimtab.cli.prepared import Choices, Prepared, prepare
from trimtab.cli.searching import search_settings

if TYPE_CHECKING:
    from trimtab.policies.base import Policy
    from trimtab.policies.vocabulary import Vocabulary
    from trimtab.tasks.baselines import Contestant
    from trimtab.tasks.contest import Conditions, Standing
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
    engine: Engine = "local",
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="A folder for table.md, results.json and report.html.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare policies with their base on unseen prompts; a policy file with a search is evaluated by searching."""
    from trimtab.evaluation.report import Findings, write_report
    from trimtab.tasks.baselines import check_baseline

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
    wanted = Wanted(asked, searches, baseline or (), values)
    for name in wanted.baselines:  # before anything is loaded
        check_baseline(name)
    if engine == "vllm":
        refuse_beside_vllm(None, None, device)
        check_on_vllm(wanted)
    named = [each for every in asked for each in every.sources.values()]
    named += [each.value for each in searches if each is not None]
    ready = prepare(task, Choices(reward, judge or (), data, prompts, n, reader or ()), named, talk)
    how = partial(ready.conditions, seed=seed, knobs=values, max_new_tokens=max_new_tokens)
    found = (contest_on_vllm if engine == "vllm" else _contest_here)(wanted, ready, how, talk)
    if out is not None:
        found.write(out)
        findings = Findings(found.table, found.warnings, commands=[("Measure it again", shlex.join(sys.argv))])
        write_report(out / "report.html", found.comparison, title=ready.task.title, findings=findings)
        talk.note(f"written to {out}")
    if as_json:
        talk.result(found.to_dict())
    else:
        talk.standing(found)


def _contest_here(wanted: Wanted, ready: Prepared, how: Callable[[Vocabulary], Conditions], talk: Talk) -> Standing:
    """Let a base, policies and baselines compete in this process."""
    from trimtab.tasks.baselines import Contestant, baseline
    from trimtab.tasks.contest import contest

    built = [each.policy(wanted.knobs) for each in wanted.asked]
    refuse_unknown_knobs(wanted.knobs, built)
    base = common_base(built)
    conditions = how(base.vocabulary)
    shown = {"base": Contestant(base), **_contestants(wanted, built, base, conditions.rows, talk)}
    shown |= {name: baseline(name, ready.task, base, ready.reward, conditions.rows) for name in wanted.baselines}
    return contest(
        ready.task,
        shown,
        conditions,
        on_policy=lambda name: talk.note(f"{'searching with' if shown[name].search else 'sampling from'} {name}"),
    )


def _contestants(
    wanted: Wanted,
    policies: Sequence[Policy],
    base: Policy,
    rows: Sequence[Row],
    talk: Talk,
) -> dict[str, Contestant]:
    """Return the policies that differ from the base, or whose answers are searched for."""
    from trimtab.decoding.search_plan import build_plan
    from trimtab.tasks.baselines import Contestant, informed

    found = {}
    for asked, policy, settings in zip(wanted.asked, policies, wanted.searches, strict=True):
        if settings is not None:
            plan = build_plan(settings, asked.lm, progress=talk.note)
            found[f"{asked.text} ({settings.method})"] = Contestant(policy, informed(plan, policy.vocabulary, rows))
        elif policy != base:
            found[asked.text] = Contestant(policy)
    return found
