"""`trimtab sweep`: policies over a grid of knob values at one or several tasks, and what each nat of KL buys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.asked import Asked, common_base, identity
from trimtab.cli.console import Talk
from trimtab.cli.options import Device, Dtype, Json, Models, Quiet, Seed, Vectors, pairs
from trimtab.cli.prepared import Choices, prepare
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.policies.base import Policy
    from trimtab.tasks.contest import Conditions
    from trimtab.tasks.task import Task


def sweep(  # noqa: PLR0913 -- one parameter an option
    task: Annotated[str, typer.Argument(help="A task, or several: sentiment,toxicity")],
    policies: Annotated[list[str], typer.Argument(help="Policy files or expressions; their base is added.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; what was measured there is used again.")],
    knob: Annotated[list[str] | None, typer.Option("--knob", "-k", help="Its values: strength=0.5,1,2")] = None,
    model: Models = None,
    vector: Vectors = None,
    judge: Annotated[list[str] | None, typer.Option(help="A name or module:function; may be repeated.")] = None,
    reward: Annotated[str | None, typer.Option(help="What the guides were trained on.")] = None,
    data: Annotated[str | None, typer.Option(help="Other prompts: a file, a hub id, or xsum:FILE.")] = None,
    prompts: Annotated[int, typer.Option("--prompts", "--limit", min=1, help="Unseen prompts.")] = 60,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Answers a prompt; the task's own number.")] = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure policies over a grid of knob values; a sweep that was stopped goes on where it was."""
    talk, axes = Talk(as_json, quiet), _axes(knob or [])
    sources, added = pairs(model or [], "--model"), pairs(vector or [], "--vector")
    first = {name: values[0] for name, values in axes.items()}
    asked = [Asked.read(text, sources, added, dtype=dtype, device=device) for text in policies]
    if searching := [each.text for each in asked if each.search is not None]:
        raise ConfigError(
            given=f"{searching[0]}, whose answers are searched for",
            expected="policies whose answers are sampled",
            hint="compare searches with trimtab eval, or take the search out of a copy of the file",
        )
    named = [each for every in asked for each in every.sources.values()]
    choices = Choices(reward, judge or (), data, prompts, n)
    ready = [prepare(name, choices, named, talk) for name in task.split(",")]
    built = {each.text: each.policy(first) for each in asked}
    base = common_base(built.values())
    contestants = {"base": base, **{name: policy for name, policy in built.items() if policy != base}}
    found = {
        each.task.name: _swept(
            talk, each.task, contestants, axes, each.conditions(base.vocabulary, seed, {}), out / each.task.name
        )
        for each in ready
    }
    if as_json:
        talk.result({"folder": str(out), "tasks": found})


def _swept(
    talk: Talk,
    task: Task,
    policies: dict[str, Policy],
    axes: dict[str, list[float]],
    conditions: Conditions,
    folder: Path,
) -> dict[str, Any]:
    """Sweep one task, write what was found, and show it."""
    from trimtab.evaluation.frontier import draw_frontier, pareto
    from trimtab.tasks.sweep import Points, frontier, tabulated
    from trimtab.tasks.sweep import sweep as measure

    judges = [judge.name for judge in conditions.judges]
    identities = {name: identity(policy) for name, policy in policies.items()}
    kept = Points(folder / "points.jsonl", {"policies": identities, **conditions.about})
    points = measure(task, policies, axes, conditions, kept, progress=talk.note)
    table = tabulated(task, judges, points)
    main = table.measures[0]
    over = frontier(table, points, main.name)
    best = [f"{each.series} ({each.label})" if each.label else each.series for each in pareto(over, main.better)]
    draw_frontier(over, folder / "frontier.svg", judge=main.name, better=main.better, title=task.title)
    text = (
        f"# {task.title}: sweep\n\n{len(conditions.rows)} unseen prompts, {conditions.n} answers each.\n\n"
        f"{table.markdown()}\nBeaten by none: {', '.join(best)}.\n\n![frontier](frontier.svg)\n"
    )
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
    if not talk.as_json:
        talk.table(table)
        talk.out.print(f"beaten by none: {', '.join(best)}", markup=False)
        talk.out.print(str(folder), markup=False, highlight=False)
    return {**table.to_dict(), "frontier": best}


def _axes(texts: list[str]) -> dict[str, list[float]]:
    """Read ``name=value,value`` texts."""
    found = {}
    for name, values in pairs(texts, "--knob").items():
        try:
            found[name] = [float(value) for value in values.split(",")]
        except ValueError as error:
            raise ConfigError(
                given=f"--knob {name}={values}", expected="numbers with commas between them", hint="strength=0.5,1,2"
            ) from error
    return found
