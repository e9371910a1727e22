"""`trimtab vllm`: vLLM's own server, with every request steered."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.cli.options import Quiet
from trimtab.errors import ConfigError


def vllm(
    context: typer.Context,
    policy: Annotated[str, typer.Argument(help="A policy file (.yaml); vLLM's own arguments follow after --.")],
    name: Annotated[str, typer.Option(help="What clients call the policy.")] = "policy",
    show: Annotated[bool, typer.Option("--show", help="Print the command instead of running it.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve a policy by vLLM, OpenAI-compatible; each request sets its own knobs: {"vllm_xargs": {"strength": 1.5}}."""
    talk = Talk(False, quiet)
    asked = Asked.read(policy, {}, {}, dtype="auto", device="auto")
    if asked.file is None:
        raise ConfigError(given=policy, expected="a policy file", hint="write the expression into a .yaml file")
    from trimtab.engines.vllm.layout import lay_out
    from trimtab.engines.vllm.serve import command, require_vllm

    if not show:
        require_vllm()
    found = command(lay_out(asked.file, progress=talk.note), name, context.args)
    variables = [f"{variable}={shlex.quote(value)}" for variable, value in found.environment.items()]
    if show:
        typer.echo(" ".join([*variables, shlex.join(found.words)]))
        return
    talk.note(shlex.join(found.words))
    os.execve(found.words[0], found.words, {**os.environ, **found.environment})
