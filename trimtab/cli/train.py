"""`trimtab train`: a guide, a pair or a value from a configuration file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimtab.cli.console import StepBar, Talk
from trimtab.cli.options import Json, Quiet, Seed
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.training.outcome import Outcome


class Method(StrEnum):
    """How something small is trained."""

    rl = "rl"
    sft = "sft"
    distill = "distill"
    absorb = "absorb"
    dpo = "dpo"
    ipo = "ipo"
    genarm = "genarm"
    value = "value"


def train(  # noqa: PLR0913 -- one parameter an option
    first: Annotated[
        str,
        typer.Argument(metavar="[METHOD]", help="rl (the default), sft, distill, absorb, dpo, ipo, genarm or value."),
    ],
    second: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A YAML file, such as examples/train.yaml.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="A setting: adapter.rank=8")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in the output folder.")] = False,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a guide against any reward (rl), a tuned and an untuned model (sft, dpo, ipo), a copy, a value, ..."""
    talk = Talk(as_json, quiet)
    method, config = (Method.rl, Path(first)) if second is None else (_method(first), second)
    overrides = [*(override or []), *([] if seed is None else [f"seed={seed}"])]
    if method == Method.rl:
        _reinforce(talk, config, overrides, resume=resume, overwrite=overwrite)
        return
    outcome = _small(talk, method, config, overrides, resume=resume, overwrite=overwrite)
    if as_json:
        talk.result(
            {
                "run": str(outcome.run),
                "folder": str(outcome.folder),
                "measured": dict(outcome.numbers),
                "seconds": outcome.seconds,
            }
        )
        return
    measured = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in outcome.numbers.items())
    talk.out.print(f"It is in {outcome.folder}{measured}.", highlight=False)


def _method(text: str) -> Method:
    if text not in set(Method):
        raise ConfigError(
            given=f"the training method {text!r}", expected=f"one of {', '.join(Method)}", hint="trimtab train --help"
        )
    return Method(text)


def _small(talk: Talk, method: Method, config: Path, overrides: list[str], *, resume: bool, overwrite: bool) -> Outcome:
    """Train without reinforcement."""
    from trimtab.training.small_settings import (
        AbsorbSettings,
        DistillSettings,
        GenARMSettings,
        PreferenceSettings,
        SFTSettings,
        ValueSettings,
    )

    with StepBar(talk) as bar:
        if method == Method.sft:
            from trimtab.training.sft import train_sft

            texts = SFTSettings.read(config, overrides)
            return train_sft(texts, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)
        if method == Method.distill:
            from trimtab.training.distill import train_distill

            copied = DistillSettings.read(config, overrides)
            return train_distill(copied, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)
        if method == Method.absorb:
            from trimtab.training.absorb import train_absorb

            taken = AbsorbSettings.read(config, overrides)
            return train_absorb(taken, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)
        if method == Method.value:
            from trimtab.training.value import train_value

            answers = ValueSettings.read(config, overrides)
            return train_value(answers, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)
        if method == Method.genarm:
            from trimtab.training.genarm import train_genarm

            ranked = GenARMSettings.read(config, overrides)
            return train_genarm(ranked, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)
        from trimtab.training.preference import train_preference

        name: Literal["dpo", "ipo"] = "dpo" if method == Method.dpo else "ipo"
        pairs = PreferenceSettings.read(config, overrides)
        return train_preference(name, pairs, resume=resume, overwrite=overwrite, on_step=bar, progress=talk.note)


def _reinforce(talk: Talk, config: Path, overrides: list[str], *, resume: bool, overwrite: bool) -> None:
    """Train a guide with reinforcement learning."""
    from trimtab.training.config import TrainConfig
    from trimtab.training.trainer import train as run

    settings = TrainConfig.read(config, overrides)
    with StepBar(talk) as bar:
        result = run(settings, resume=resume, overwrite=overwrite, on_step=bar)
    if not result.first:  # of several processes, one talks
        return
    if talk.as_json:
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
