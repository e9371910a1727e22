"""`trimtab demo`: the whole way, from a frozen model to a tailored one and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.console import StepBar, Talk
from trimtab.cli.options import Json, Quiet


def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, instead of the demo's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a sentiment guide for SmolLM2-135M and compare it with its base; some ten minutes on 2 cores."""
    from trimtab.tasks.demo import run_demo

    talk = Talk(as_json, quiet)
    with StepBar(talk) as bar:
        result = run_demo(folder, steps=steps, seed=seed, on_event=talk.note, on_step=bar)
    if as_json:
        measured = result.comparison.to_dict()
        for each in measured["results"]:
            del each["answers"], each["rewards"]
        paths = {"report": str(result.report), "guide": str(result.guide)}
        talk.result({**paths, "reused": result.reused, "seconds": result.seconds, "comparison": measured})
        return
    talk.comparison(result.comparison)
    talk.samples(result.comparison, 5)
    talk.out.print(f"report: {result.report}\nguide:  {result.guide}", highlight=False)
    again = "re-used the guide that was there; " if result.reused else ""
    talk.out.print(f"{again}{result.seconds / 60:.1f} minutes. Try it:", highlight=False)
    talk.out.print(f'  trimtab generate {folder / "policy.yaml"} "The film was" --knob strength=1.5', highlight=False)
