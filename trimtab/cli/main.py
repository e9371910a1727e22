"""The command line: verbs, and what happens to errors. Usage errors exit with 2, failures with 1, Ctrl-C with 130."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

import trimtab
from trimtab.cli import models, vector
from trimtab.cli.bench import bench
from trimtab.cli.demo import demo
from trimtab.cli.doctor import doctor
from trimtab.cli.evaluate import evaluate
from trimtab.cli.generate import generate
from trimtab.cli.reproduce import reproduce
from trimtab.cli.serve import serve
from trimtab.cli.sweep import sweep
from trimtab.cli.trace import trace
from trimtab.cli.train import train
from trimtab.cli.vllm import vllm
from trimtab.errors import TrimtabError, UsageError

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C stopped; typer turns the interrupt into it."""

app = typer.Typer(
    name="trimtab",
    help="Steer a frozen language model at inference time: policies multiply.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models")
app.add_typer(vector.app, name="vector")
app.command()(generate)
app.command()(trace)
app.command()(train)
app.command("eval")(evaluate)
app.command()(sweep)
app.command()(serve)
app.command()(bench)
app.command()(doctor)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(vllm)
app.command()(demo)
app.command()(reproduce)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(trimtab.__version__)
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Steer a frozen language model at inference time: policies multiply."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the command line; errors of a user become a message and an exit code, never a traceback."""
    try:
        code = app(standalone_mode=False)
    except TrimtabError as error:
        _complain(error)
        code = error.exit_code
    except typer.TyperException as error:
        code = _misused(error)
    if code == INTERRUPTED:
        kept = (
            "a training run keeps its last whole step and goes on with --resume; those of sft, dpo and ipo start over"
        )
        Console(stderr=True).print(f"\nstopped; {kept}")
    sys.exit(code)


def _misused(error: typer.TyperException) -> int:
    """Say how a command line cannot be read."""
    if "--json" in sys.argv:
        hint = "trimtab --help"
        _complain(UsageError(given=error.format_message(), expected="a command that trimtab knows", hint=hint))
    else:
        Console(stderr=True, soft_wrap=True).print(Text(f"{error.format_message()}\ntry: trimtab --help"))
    return int(error.exit_code)


def _complain(error: TrimtabError) -> None:
    """Say what was given, what was expected and what to try."""
    if "--json" in sys.argv:
        fields = {"kind": type(error).__name__, "given": error.given, "expected": error.expected, "try": error.hint}
        sys.stderr.write(json.dumps({"error": fields}, ensure_ascii=False) + "\n")
        return
    text = Text()
    for label, message in (("given", error.given), ("expected", error.expected), ("try", error.hint)):
        text.append(f"{label}: ", style="bold red" if label == "given" else "bold").append(f"{message}\n")
    Console(stderr=True, soft_wrap=True).print(text, end="")
