"""`trimtab reproduce`: an experiment from its recipe, with everything it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from trimtab.cli.console import StepBar, Talk
from trimtab.cli.options import Json, Quiet, Seed


def reproduce(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/imdb_ivg.yaml.")],
    override: Annotated[list[str] | None, typer.Option("--set", help="A setting: prompts=20")] = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train what a recipe needs, let its methods compete, and write tables and a picture."""
    from trimtab.tasks.guidance_files import write_guidance
    from trimtab.tasks.value_guidance import GuidanceSettings
    from trimtab.tasks.value_guidance import reproduce as run

    talk = Talk(as_json, quiet)
    settings = GuidanceSettings.read(recipe, [*(override or []), *([] if seed is None else [f"seed={seed}"])])
    with StepBar(talk) as bar:
        found = run(settings, on_step=bar, progress=talk.note)
    report = write_guidance(found)
    if as_json:
        talk.result({"results": str(report.with_name("results.json")), "report": str(report)})
        return
    talk.out.print(Markdown(report.read_text(encoding="utf-8")))
    talk.out.print(f"report: {report}", highlight=False)
