"""`trimtab train`: a guide from a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.console import StepBar, Talk
from trimtab.cli.options import Json, Quiet, Seed


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as examples/train.yaml.")],
    override: Annotated[list[str] | None, typer.Option("--set", help="A setting: adapter.rank=8")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in the output folder.")] = False,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a guide with reinforcement learning against any reward."""
    from trimtab.training.config import TrainConfig
    from trimtab.training.trainer import train as run

    talk = Talk(as_json, quiet)
    overrides = [*(override or []), *([] if seed is None else [f"seed={seed}"])]
    settings = TrainConfig.read(config, overrides)
    with StepBar(talk) as bar:
        result = run(settings, resume=resume, overwrite=overwrite, on_step=bar)
    if as_json:
        talk.result(
            {
                "run": str(result.run),
                "guide": str(result.guide),
                "steps": result.steps,
                "resumed_from": result.resumed_from,
                "seconds": result.seconds,
            }
        )
        return
    talk.out.print(f"The guide is in {result.guide}, after {result.steps} steps. Try it:", highlight=False)
    talk.out.print(f'  trimtab generate {result.run / "policy.yaml"} "The film was" -n 4', highlight=False)
