"""`trimtab bench`: what steering costs here, against the base and against the loops people write today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from trimtab.cli.console import Talk
from trimtab.cli.options import Device, Dtype, Json, Quiet, Seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trimtab.benchmarks.measure import Measure
    from trimtab.benchmarks.suites import Suite

FEW = 5
"""Rounds below which a median is told to be a rough one."""


def bench(  # noqa: PLR0913 -- one parameter an option
    suites: Annotated[list[str] | None, typer.Argument(help="Which suites; all of them by default.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say which suites there are.")] = False,
    model: Annotated[str, typer.Option("--model", "-m", help="The base.")] = "smollm2-135m",
    tokens: Annotated[int, typer.Option(help="New tokens of a decode, at least 2.")] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds that a median is taken over.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice by default.")] = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time the engine: each suite alternates two sides in one process and compares their medians."""
    import torch

    from trimtab.benchmarks.machine import Machine
    from trimtab.benchmarks.setup import Setup
    from trimtab.benchmarks.suites import pick, run

    talk = Talk(as_json, quiet)
    picked = pick(suites or [])
    if listed:
        _list(talk, picked)
        return
    setup = Setup(model, tokens, repeats, seed or 0, dtype, device, talk.note)
    if threads is not None:
        torch.set_num_threads(threads)
    weights = setup.base.trunk.model
    machine = Machine.here(weights.device, weights.dtype)
    few = f"medians over only {repeats} of {FEW} rounds: read them with care" if repeats < FEW else None
    if not as_json:
        talk.out.print(Text(str(machine), style="dim"))
        if few:
            talk.out.print(Text(few, style="yellow"))
    measured = {}
    for suite, measures in run(picked, setup):
        measured[suite.name] = [measure.to_dict() for measure in measures]
        if not as_json:
            talk.out.print(_table(suite, measures))
    if as_json:
        settings = {"model": model, "tokens": tokens, "repeats": repeats, "seed": setup.seed}
        notes = [few] if few else []
        talk.result({"machine": machine.to_dict(), "settings": settings, "suites": measured, "notes": notes})


def _list(talk: Talk, suites: Sequence[Suite]) -> None:
    """Say what each suite compares."""
    if talk.as_json:
        talk.result({"suites": [{"name": suite.name, "about": suite.about} for suite in suites]})
        return
    table = Table(show_header=False, box=None)
    for suite in suites:
        table.add_row(suite.name, suite.about)
    talk.out.print(table)


def _table(suite: Suite, measures: Sequence[Measure]) -> Table:
    """Lay a suite's measures out, one a row."""
    table = Table(title=f"{suite.name}: {suite.about}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("measure")
    for name in ("ours", "theirs", "ratio", "spread", "asked", "holds"):
        table.add_column(name, justify="right", no_wrap=True)
    for measure in measures:
        low, high = measure.spread
        holds = {None: "", True: "yes", False: "no"}[measure.holds]
        table.add_row(
            Text(f"{measure.name} ({measure.unit})"),
            _number(measure.ours),
            _number(measure.theirs),
            f"{measure.ratio:.2f}",
            f"{low:.2f}..{high:.2f}",
            "" if measure.asked is None else str(measure.asked),
            Text(holds, style="" if measure.holds is not False else "bold red"),
        )
    return table


def _number(value: float) -> str:
    """Show three or four digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
